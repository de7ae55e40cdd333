"""Which arithmetic a run uses, and what must be switched on for its losses to be the same bits every time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from hashlib import sha256
from typing import Any, Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

Precision = Literal["fp32", "bf16"]

_DETERMINISTIC: Any = torch.utils.deterministic  # its attribute is made at run time, where no type checker sees it


def pick_device(wanted: str | None) -> torch.device:
    """The device asked for, or this process's current CUDA device, or the CPU."""
    device = torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def resolve_precision(wanted: str, device: torch.device) -> Precision:
    """``auto`` is bf16 where the hardware multiplies bf16 natively, else fp32 (measured: docs/decisions/0303)."""
    if wanted != "auto":
        return "bf16" if wanted == "bf16" else "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """bf16: matrix products in bfloat16 with float32 weights, norms and losses; fp32: nothing."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def fast_attention(device: torch.device) -> AbstractContextManager[object]:
    """From Hopper on cuDNN's attention before PyTorch's own, slower there; else nothing (docs/decisions/0522)."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (9, 0):
        return nullcontext()
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel(order, set_priority=True)


@contextmanager
def exact(device: torch.device, threads: int | None) -> Iterator[None]:
    """Deterministic kernels on CPU and ``threads`` of them; global settings and RNG are as before on the way out.

    Not on CUDA, where the exact kernels cost speed and equal bits on resume are not guaranteed.
    """
    threads_before, exact_before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    rng_before = torch.get_rng_state()
    fill_before = _DETERMINISTIC.fill_uninitialized_memory
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        if device.type == "cpu":
            torch.use_deterministic_algorithms(True)
            # It would fill every new tensor before a kernel writes it, a twentieth of a small model's step.
            _DETERMINISTIC.fill_uninitialized_memory = False
        with fast_attention(device):
            yield
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(exact_before)
        _DETERMINISTIC.fill_uninitialized_memory = fill_before
        torch.set_rng_state(rng_before)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step of one rank.

    Whatever is drawn in a step is then a pure function of (seed, step, rank): a checkpoint needs no generator state,
    and a run resumed at any step, even on another number of ranks, draws what it would have drawn.
    """
    torch.manual_seed(int.from_bytes(sha256(f"step:{seed}:{step}:{rank}".encode()).digest()[:8], "little") >> 1)
