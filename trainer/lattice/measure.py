"""What an update takes: memory by its use, time by part, and products per second; for `--profile` and benchmarks.

On a CPU memory is the process's own growth (its peak is reset first, on Linux), on CUDA what the allocator says.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generator.lattice.wiring import POSITIONS
from trainer.lattice.cell import Lattice
from trainer.lattice.config import LatticeConfig
from trainer.lattice.pool import Pool
from trainer.lattice.replay import Replays
from trainer.lattice.sampling import run_samples, torch_dtype
from trainer.lattice.step import Shape
from trainer.lattice.targets import make_target
from trainer.lattice.train_config import LatticeTrainConfig
from trainer.optim import Optimizer
from trainer.parallel import clip_gradients
from trainer.precision import pick_device, resolve_precision

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def products_per_cell(config: LatticeConfig) -> int:
    """Multiplications of one cell's forward pass in matrix products."""
    c, e, h, f = config.channels, config.hidden, config.gate, config.feed
    return POSITIONS * c * e + POSITIONS * POSITIONS * h + POSITIONS * h * c + 2 * c * f


def measure_updates(config: LatticeTrainConfig, updates: int = 1, device: str | None = None) -> dict[str, Any]:
    """Run ``updates`` updates (after one or, on CUDA, two to warm up) of a fresh lattice, and tell what they took.

    ``bytes``: parameters, gradients, moments, peak_pass and peak_update (all that the process holds more than before),
    peak (the larger), activations (the rest of peak_pass); ``reserved`` on CUDA. ``seconds`` and ``cpu_seconds`` by
    part, mean of an update: pass (forward and backward), clip, update. ``cell_updates`` of one update,
    ``cell_updates_per_s``, and ``flops_per_s`` of all matrix products, those that are done again included. ``losses``
    and ``held``, what the process holds more than before, after each update, the first included.
    """
    place = pick_device(device)
    precision = resolve_precision(config.precision, place)
    before = _held(place)
    model = Lattice(config.lattice, config.seed).to_device(place)
    replays = Replays(model, record=not config.offload)
    optimizer = Optimizer(model, config.optimizer)
    target = make_target(config.lattice, config.target)
    pool = None
    if config.pool is not None:
        pool = Pool(config.pool, target, config.lattice.size, config.seed, config.batch)
    seconds = {part: [0.0, 0.0] for part in ("pass", "clip", "update")}
    size: dict[str, int] = {"parameters": _bytes(model.parameters())}
    counted, losses, held = 0, [], []
    warm_up = 2 if place.type == "cuda" else 1  # there the second pass of a shape is recorded
    for number in range(updates + warm_up):
        if number == warm_up:
            seconds, counted = {part: [0.0, 0.0] for part in seconds}, 0
        _reset_peak(place)
        with _timed(seconds["pass"], place):
            samples = (target, pool, number, range(config.batch), precision, False, replays)
            loss, cells = run_samples(config, model, *samples)
        losses.append(loss / config.batch)
        counted += cells
        # The largest of all updates: a recorded pass takes its memory when it is recorded.
        size["peak_pass"] = max(size.get("peak_pass", 0), _peak(place) - before)
        size["gradients"] = _bytes(p.grad for p in model.parameters() if p.grad is not None)
        with _timed(seconds["clip"], place):
            clip_gradients(model, config.optimizer.grad_clip or math.inf)
        _reset_peak(place)
        with _timed(seconds["update"], place):
            optimizer.step()
            optimizer.zero_grad()
        size["peak_update"] = _peak(place) - before
        held.append(_held(place) - before)
    states = (value for _, _, state in optimizer.states() for value in state.values())
    size["moments"] = _bytes(value for value in states if isinstance(value, Tensor) and value.ndim)
    size["peak"] = max(size["peak_pass"], size["peak_update"])
    size["activations"] = size["peak_pass"] - size["parameters"] - size["gradients"] - size["moments"]
    if place.type == "cuda":
        size["reserved"] = torch.cuda.max_memory_reserved(place)
    passes = 4 if config.recompute else 3  # forward, perhaps again, and two products backward for each
    flops = 2 * passes * products_per_cell(config.lattice) * counted
    wall, cpu = (sum(part[at] for part in seconds.values()) for at in (0, 1))
    return {
        "bytes": size,
        "seconds": {part: wall / updates for part, (wall, _) in seconds.items()},
        "cpu_seconds": {part: cpu / updates for part, (_, cpu) in seconds.items()},
        "cell_updates": counted // updates,
        "cell_updates_per_s": counted / wall,
        "cell_updates_per_cpu_s": counted / max(cpu, 1e-9),
        "flops_per_s": flops / seconds["pass"][0],
        "flops_per_cpu_s": flops / max(seconds["pass"][1], 1e-9),
        "losses": losses,
        "held": held,
        "precision": precision,
        "device": str(place),
    }


@torch.no_grad()
def bmm_speed(config: LatticeTrainConfig, device: str | None = None, repeats: int = 3) -> dict[str, float]:
    """FLOP/s of ``torch.bmm`` alone at the shapes of a step's forward products, by wall clock and by CPU time."""
    place = pick_device(device)
    dtype = torch_dtype(resolve_precision(config.precision, place))
    model = Lattice(config.lattice).to_device(place)
    s = Shape.of(config.lattice, model.wiring, math.ceil(config.batch / config.micro_batches))
    narrow = s.members * s.batch
    sizes = [(s.rows, s.channels, 2 * s.gate), (narrow, POSITIONS * s.gate, s.channels)]
    sizes += [(narrow, s.channels, s.feed), (narrow, s.feed, s.channels)]
    weights = [torch.ones(s.groups, k, n, dtype=dtype, device=place) for _, k, n in sizes]
    chunks = s.chunks(place)
    inputs = [torch.ones(chunks[0].stop, m, k, dtype=dtype, device=place) for m, k, _ in sizes]
    taken = [0.0, 0.0]
    for number in range(repeats + 1):
        if number == 1:
            taken = [0.0, 0.0]
        with _timed(taken, place):
            for part in chunks:
                for x, w in zip(inputs, weights, strict=True):
                    torch.bmm(x[: part.stop - part.start], w[part])
    flops = repeats * sum(2 * s.groups * m * k * n for m, k, n in sizes)
    return {"flops_per_s": flops / taken[0], "flops_per_cpu_s": flops / max(taken[1], 1e-9)}


def _bytes(tensors: Any) -> int:
    """Bytes of tensors, of 8-bit moments those of their codes and scales."""
    total = 0
    for tensor in tensors:
        parts = [getattr(tensor, name) for name in ("codes", "scale")] if hasattr(tensor, "codes") else [tensor]
        total += sum(part.numel() * part.element_size() for part in parts)
    return total


@contextmanager
def _timed(taken: list[float], place: torch.device) -> Iterator[None]:
    """Add the enclosed wall-clock and CPU seconds to ``taken``."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    taken[0] += time.perf_counter() - wall
    taken[1] += time.process_time() - cpu


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes; 0 where there is none."""
    if not STATUS.exists():
        return 0
    for line in STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    return 0


def _held(place: torch.device) -> int:
    gc.collect()
    return torch.cuda.memory_allocated(place) if place.type == "cuda" else _status("VmRSS")


def _reset_peak(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    elif CLEAR.exists():
        CLEAR.write_text("5")


def _peak(place: torch.device) -> int:
    return torch.cuda.max_memory_allocated(place) if place.type == "cuda" else _status("VmHWM")
