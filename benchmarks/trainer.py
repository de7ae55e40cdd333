"""Tokens per second of the trainer's step beside transformers' LlamaForCausalLM in a plain loop.

    python -m benchmarks.trainer [--precision fp32|bf16] [--threads N] [--compile [ours]] [--optimizer NAME] [--json]
    python -m benchmarks.trainer --device cuda [--sizes 400M 1B] [--length 1024] [--recompute] …

Both train the same shapes on the same tokens in the same dtype with the same fused AdamW and gradient clipping, turn by
turn in one process, so that both meet the same neighbours on the machine; the first turn is not measured. Each figure
is the median of the turns. On CPU three small sizes are timed, by the wall and by the process's CPU time, which a busy
machine disturbs less; on CUDA models of 0.4 and 1 billion parameters, one side after the other, with MFU (against the
dense bf16 peak) and peak memory; a side that runs out of memory is said to. ``--sizes`` picks others: any size runs on
any device, and ``tiny`` takes a second anywhere. Without the package transformers only our side is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch

from benchmarks.arguments import whole
from trainer.accumulate import accumulate
from trainer.config import ModelConfig, ModelShape, OptimizerConfig
from trainer.cpu_memory import keeping_freed_memory
from trainer.hardware import flops_per_token, peak_flops
from trainer.hf_layout import to_hf_config
from trainer.model import Llama, Trunk
from trainer.optim import Optimizer
from trainer.precision import Precision, autocast, fast_attention, resolve_precision

TURNS = 5
Step = Callable[[torch.Tensor], object]


@dataclass(frozen=True)
class Size:
    """A model and the batch it is timed on: ``batch`` sequences of ``length`` predictions."""

    name: str
    shape: ModelShape
    batch: int
    length: int
    steps: int

    @property
    def tokens(self) -> int:
        """Predictions in a turn."""
        return self.batch * self.length * self.steps


def size(name: str, vocab: int, batch: int, length: int, steps: int, **model: int) -> Size:
    return Size(name, ModelConfig.model_validate({"depth": 1, **model}).shape(vocab), batch, length, steps)


TINY = size("tiny", 258, 2, 64, 2, dim=64, layers=2)
CPU_SIZES = (
    size("128x2", 258, 16, 256, 4, dim=128, layers=2),
    size("256x4", 258, 16, 256, 1, dim=256, layers=4),
    size("384x6", 4096, 8, 256, 1, dim=384, layers=6),
)
CUDA_SIZES = (
    size("400M", 50_304, 16, 2048, 10, dim=1024, layers=24, heads=16),
    size("1B", 50_304, 8, 2048, 10, dim=2048, layers=16, heads=16, ffn=5632),
)
SIZES = {each.name: each for each in (TINY, *CPU_SIZES, *CUDA_SIZES)}


@dataclass(frozen=True)
class Manner:
    """How both sides compute, and our optimiser (theirs is AdamW); ``theirs_eager`` where only ours is compiled."""

    precision: Precision
    device: torch.device
    compiled: bool
    recompute: bool
    optimizer: str
    theirs_eager: bool = False


@dataclass(frozen=True)
class Figure:
    """One side at one size. ``mfu`` and ``peak_gib`` are CUDA's, ``tokens_per_cpu_s`` the CPU's.

    ``tokens_per_s`` is None for a side that ran out of memory.
    """

    size: str
    parameters: int
    length: int
    batch: int
    side: str
    precision: str
    tokens_per_s: float | None
    tokens_per_cpu_s: float | None
    mfu: float | None
    peak_gib: float | None


def ours(size: Size, manner: Manner) -> Step:
    """The trainer's step: chunked loss inside forward, gradients, clipping, update."""
    model = Llama(size.shape, 0, recompute=manner.recompute).to(manner.device)
    if manner.compiled:
        model.compile_blocks()
    optimizer = Optimizer(model, OptimizerConfig.model_validate({"name": manner.optimizer}))

    def step(tokens_BT: torch.Tensor) -> float:
        with fast_attention(manner.device):
            nats = accumulate(model, tokens_BT, None, 1, 1 / (size.batch * size.length), manner.precision)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(nats)

    return step


def theirs(size: Size, manner: Manner) -> Step:
    """LlamaForCausalLM as its documentation trains it: labels in, loss out."""
    import transformers

    config = transformers.LlamaConfig(**to_hf_config(size.shape, size.length))
    model: Any = transformers.LlamaForCausalLM(config).to(manner.device, torch.float32)
    model.train()
    if manner.recompute:
        model.gradient_checkpointing_enable()
    run = torch.compile(model) if manner.compiled and not manner.theirs_eager else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(tokens_BT: torch.Tensor) -> float:
        x_BT = tokens_BT[:, :-1]
        with autocast(manner.precision, manner.device):
            loss = run(input_ids=x_BT, labels=x_BT, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def parameters(shape: ModelShape) -> int:
    """Parameters of our model (theirs has the same)."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Trunk(shape, 0.0, False).parameters()) + (
            0 if shape.tied else shape.vocab_size * shape.dim
        )


def turn(step: Step, size: Size, device: torch.device, seed: int) -> tuple[float, float]:
    """Seconds by the wall and of this process for one turn, after a step that brings what it uses into reach."""
    generator = torch.Generator().manual_seed(seed)
    shape = (size.steps + 1, size.batch, size.length + 1)
    first_BT, *tokens = torch.randint(0, size.shape.vocab_size, shape, generator=generator).to(device)
    step(first_BT)
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    for tokens_BT in tokens:
        step(tokens_BT)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def makers() -> dict[str, Callable[[Size, Manner], Step]]:
    """The sides that can be timed here, ours first."""
    return {"trainer": ours} | ({"transformers": theirs} if find_spec("transformers") else {})


def measure(
    size: Size, manner: Manner, turns: int = TURNS, sides: Collection[str] = ("trainer", "transformers")
) -> Iterator[Figure]:
    """The sides at one size: turn by turn on CPU, one after the other on CUDA, where memory is measured too."""
    device = manner.device
    chosen = {side: make for side, make in makers().items() if side in sides}
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in chosen}
    memory: dict[str, float] = {}
    if device.type == "cuda":
        for side, make in chosen.items():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            step: Step | None = None
            try:
                step = make(size, manner)
                times[side] = [turn(step, size, device, number) for number in range(turns + 1)][1:]
            except torch.cuda.OutOfMemoryError:
                times[side] = []  # the figure says so
            memory[side] = torch.cuda.max_memory_allocated() / 2**30
            del step
    else:
        steps = {side: make(size, manner) for side, make in chosen.items()}
        for number in range(turns + 1):
            for side, each in steps.items():
                with keeping_freed_memory() if side == "trainer" else nullcontext():  # as the trainer's loop does
                    seconds = turn(each, size, device, number)
                if number:
                    times[side].append(seconds)
    peak = peak_flops(device)
    for side in chosen:
        wall = size.tokens / statistics.median(seconds for seconds, _ in times[side]) if times[side] else None
        cpu = size.tokens / statistics.median(seconds for _, seconds in times[side]) if times[side] else None
        yield Figure(
            size=size.name,
            parameters=parameters(size.shape),
            length=size.length,
            batch=size.batch,
            side=side,
            precision=manner.precision,
            tokens_per_s=wall,
            tokens_per_cpu_s=None if memory else cpu,
            mfu=wall * flops_per_token(size.shape, size.length) / peak if peak and wall else None,
            peak_gib=memory.get(side),
        )


def show(figures: list[Figure]) -> None:
    """One line a figure, ours with its ratio to theirs."""
    theirs = {figure.size: figure for figure in figures if figure.side == "transformers"}
    for figure in figures:
        speed = f"{figure.tokens_per_s:10,.0f} tokens/s" if figure.tokens_per_s else "out of memory"
        parts = [f"{figure.size:>6} {figure.batch}×{figure.length} {figure.side:>12} {figure.precision}: {speed}"]
        if figure.tokens_per_cpu_s:
            parts.append(f"{figure.tokens_per_cpu_s:,.0f} tokens per CPU second")
        if figure.mfu:
            parts.append(f"MFU {figure.mfu:.1%}")
        if figure.peak_gib:
            parts.append(f"{figure.peak_gib:.1f} GiB")
        other = theirs.get(figure.size)
        if figure.side == "trainer" and figure.tokens_per_s and other and other.tokens_per_s:
            ratio = f"{figure.tokens_per_s / other.tokens_per_s:.2f}× theirs"
            if figure.tokens_per_cpu_s and other.tokens_per_cpu_s:
                ratio += f", {figure.tokens_per_cpu_s / other.tokens_per_cpu_s:.2f}× by CPU time"
            parts.append(ratio)
        print("  ".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trainer", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, metavar="SIZE", help=", ".join(SIZES))
    parser.add_argument("--length", type=whole(), help="predictions in a sequence; the batch keeps its tokens")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument(
        "--optimizer", choices=("adamw", "adamw8bit", "muon"), default="adamw", help="ours; theirs is AdamW"
    )
    parser.add_argument("--threads", type=whole(), help="CPU threads (default: torch's choice)")
    parser.add_argument(
        "--compile", nargs="?", const="both", choices=("both", "ours"), help="torch.compile on both sides, or on ours"
    )
    parser.add_argument("--recompute", action="store_true", help="activation checkpointing on both sides")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here; use --device cpu")
    precision = resolve_precision(options.precision, device)
    compiled = options.compile is not None
    manner = Manner(
        precision, device, compiled, options.recompute, options.optimizer, theirs_eager=options.compile == "ours"
    )
    usual = CUDA_SIZES if device.type == "cuda" else CPU_SIZES
    figures: list[Figure] = []
    for each in [SIZES[name] for name in options.sizes] if options.sizes else usual:
        if options.length:
            batch = max(1, each.batch * each.length // options.length)
            each = replace(each, length=options.length, batch=batch)
        found = list(measure(each, manner))
        figures += found
        if options.json:
            for figure in found:
                print(json.dumps(asdict(figure)), flush=True)
    if not options.json:
        show(figures)


if __name__ == "__main__":
    main()
