"""The Triton backend: spec to kernel constants, one launch for a batch, tokens back in host memory.

Runs on a CUDA device, or, with TRITON_INTERPRET=1 set before Python starts, slowly on the CPU for tests.
"""

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from generator.errors import BackendError
from generator.nca.kernel_plan import patch_positions
from generator.nca.lattice import Lattice, neighbor_offsets
from generator.nca.rules import rule_address
from generator.nca.spec import NcaSpec
from generator.tables import COLOR_Q, WEIGHT_Q

# Beyond this many hidden values a program's registers spill; such grids belong on the CPU.
MAX_HIDDEN_VALUES = 1 << 17
# More programs than a device runs at once would only make its tables fall out of the cache.
PROGRAMS_PER_PROCESSOR = 16


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def available() -> bool:
    """Whether this process can run the backend: Triton and PyTorch, and a CUDA device or the interpreter."""
    try:
        import torch
        import triton  # noqa: F401
    except ImportError:
        return False
    return interpreted() or torch.cuda.is_available()


def _power(value: int, least: int = 16) -> int:
    return max(least, 1 << (value - 1).bit_length())


def kernel_constants(spec: NcaSpec) -> dict[str, int]:
    """The compile-time constants of `run_sequences`."""
    lattice = Lattice.of(spec)
    return {
        "NEIGHBORS": lattice.neighbors,
        "COLORS": spec.colors,
        "CHANNELS": lattice.inputs,
        "EMBED": spec.embed,
        "HIDDEN": spec.hidden,
        "HIDDEN_PAD": _power(spec.hidden),
        "COLOR_PAD": _power(spec.colors),
        "COLOR_BITS": lattice.color_bits,
        "WRAP": int(spec.compat.channel_wrap),
        "UNIFORM": int(spec.compat.init == "uniform"),
        "NOISY": int(spec.temperature > 0),
        "IDENTITY": lattice.identity_logit,
        "TABLE_SHIFT": lattice.table_shift,
        "HIDDEN_SHIFT": lattice.hidden_shift,
        "CELLS": spec.cells,
        "BLOCK": _power(spec.cells),
        "ROWS": min(128, _power(lattice.neighbors * spec.colors)),
        "BURN_IN": spec.burn_in,
        "STRIDE": spec.stride,
        "FRAMES": spec.frames,
        "PATCHES": spec.patches,
        "PATCH_PAD": _power(spec.patches),
        "PATCH_CELLS": spec.patch ** len(spec.grid),
        "ALPHABET": spec.alphabet,
        "WIDE": int(spec.token_dtype.itemsize == 4),
    }


def launch_options(constants: dict[str, int]) -> dict[str, int]:
    """Warps by the size of a program's state. At four warps a cap of 168 registers (13 spilled stores at the defaults)
    lets three programs share a processor instead of two. No software pipelining: it copies table rows needlessly."""
    values = constants["BLOCK"] * constants["HIDDEN_PAD"]
    if values <= 4096:
        return {"num_warps": 4, "num_stages": 1, "maxnreg": 168}
    return {"num_warps": 8 if values <= 8192 else 16, "num_stages": 1}


@dataclass(frozen=True)
class _Prepared:
    constants: dict[str, int]
    device: Any
    weight_q: Any
    color_q: Any
    gumbel: Any
    neighbor_at: Any
    patch_at: Any
    programs: int
    content_at: Any


@lru_cache(maxsize=16)
def _prepare(spec: NcaSpec) -> _Prepared:
    import torch

    constants = kernel_constants(spec)
    if constants["BLOCK"] * constants["HIDDEN_PAD"] > MAX_HIDDEN_VALUES:
        raise BackendError(
            f"backend: 'triton' keeps grid times hidden in registers, found {spec.cells} cells of {spec.hidden}; "
            f"allowed are at most {MAX_HIDDEN_VALUES} values; use backend numba"
        )
    device = torch.device("cpu" if interpreted() else "cuda")
    cells = np.arange(spec.cells).reshape(spec.grid)
    axes = tuple(range(len(spec.grid)))
    neighbor_at = np.zeros((constants["NEIGHBORS"], constants["BLOCK"]), np.int32)
    for k, offset in enumerate(neighbor_offsets(len(spec.grid), spec.neighborhood)):
        neighbor_at[k, : spec.cells] = np.roll(cells, tuple(-o for o in offset), axis=axes).ravel()
    patch_at = np.zeros((constants["PATCH_CELLS"], constants["PATCH_PAD"]), np.int32)
    patch_at[:, : spec.patches] = np.array(patch_positions(spec)).T
    gumbel = Lattice.of(spec).gumbel if spec.temperature else np.zeros(1, np.int32)
    place = np.arange(spec.frames * spec.frame_tokens) % spec.frame_tokens
    content_at = np.flatnonzero((place > 0) & (place <= spec.patches))[: spec.score_tokens]
    processors = 4 if interpreted() else torch.cuda.get_device_properties(device).multi_processor_count

    def put(array: np.ndarray) -> Any:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return _Prepared(
        constants,
        device,
        put(WEIGHT_Q.copy()),
        put(COLOR_Q.astype(np.int32)),
        put(gumbel),
        put(neighbor_at),
        put(patch_at),
        1 if interpreted() else processors * PROGRAMS_PER_PROCESSOR,
        content_at,
    )


def launch(spec: NcaSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray) -> Any:
    """Start the one launch for N addresses: a torch tensor int16 or int32 (the bits of `spec.token_dtype`) [N, frames *
    frame_tokens] on the device. N * frames * frame_tokens stays below 2**31, the reach of the kernel's positions."""
    return launch_kernel(spec, seed, ids_N, attempts_N)[0]


def launch_kernel(spec: NcaSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray) -> tuple[Any, Any]:
    """`launch`, and the compiled kernel that it started, which knows its registers (nothing of use if interpreted)."""
    import torch

    from generator.nca.triton_kernel import run_sequences

    ready = _prepare(spec)
    groups, tries = rule_address(spec, np.asarray(ids_N, np.int64), np.asarray(attempts_N, np.int64))

    def put(array: np.ndarray) -> Any:
        return torch.from_numpy(np.ascontiguousarray(array).astype(np.uint32).view(np.int32)).to(ready.device)

    def halves(array: np.ndarray) -> tuple[Any, Any]:
        wide = np.asarray(array, np.int64).astype(np.uint64)
        return put(wide & np.uint64(0xFFFFFFFF)), put(wide >> np.uint64(32))

    count = len(ids_N)
    programs = min(count, ready.programs)
    width = spec.frames * spec.frame_tokens
    stored = torch.int32 if ready.constants["WIDE"] else torch.int16
    tokens = torch.empty((count, width), dtype=stored, device=ready.device)
    rows = ready.constants["NEIGHBORS"] * ready.constants["COLORS"] * ready.constants["HIDDEN_PAD"]
    tables = torch.empty(programs * rows, dtype=torch.int16, device=ready.device)
    kernel = run_sequences[(programs,)](
        tokens, tables, *halves(ids_N), put(attempts_N), *halves(groups), put(tries),
        put(np.array([seed & 0xFFFFFFFF, seed >> 32])), ready.weight_q, ready.color_q, ready.gumbel, ready.neighbor_at,
        ready.patch_at, count, **launch_options(ready.constants), **ready.constants,
    )  # fmt: skip
    return tokens, kernel


def simulate_tokens(
    spec: NcaSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens `spec.token_dtype` [N, seq_len] and scored content int32 [N, score_tokens]."""
    # The band has no part in the dynamics: specs that differ in it share a kernel.
    whole = launch(spec.model_copy(update={"band": None}), seed, ids_N, attempts_N).cpu().numpy().view(spec.token_dtype)
    tokens = np.ascontiguousarray(whole[:, : spec.seq_len])
    return tokens, whole[:, _prepare(spec.model_copy(update={"band": None})).content_at].astype(np.int32)
