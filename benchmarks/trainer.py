"""Tokens per second of the trainer's step beside transformers' LlamaForCausalLM in a plain loop.

    python -m benchmarks.trainer [--precision fp32|bf16] [--threads N] [--compile] [--optimizer adamw|muon] [--json]

Both train the same shapes on the same tokens in the same dtype with the same fused AdamW and gradient clipping, turn by
turn in one process, so that both meet the same neighbours on the machine; the first turn is not measured. Each figure
is the median of the turns. On CPU three small sizes are timed, by the wall and by the process's CPU time, which a busy
machine disturbs less; on CUDA models of 0.4 and 1 billion parameters, with MFU and peak memory. Without the package
transformers only our side is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import torch

from trainer.accumulate import accumulate
from trainer.config import ModelConfig, ModelShape, OptimizerConfig
from trainer.hardware import flops_per_token, peak_flops
from trainer.hf_layout import to_hf_config
from trainer.model import Llama, Trunk
from trainer.optim import Optimizer
from trainer.precision import Precision, autocast, resolve_precision

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


CPU_SIZES = (
    size("128x2", 258, 16, 256, 4, dim=128, layers=2),
    size("256x4", 258, 16, 256, 1, dim=256, layers=4),
    size("384x6", 4096, 8, 256, 1, dim=384, layers=6),
)
CUDA_SIZES = (
    size("400M", 50_304, 16, 2048, 10, dim=1024, layers=24, heads=16),
    size("1B", 50_304, 8, 2048, 10, dim=2048, layers=16, heads=16, ffn=5632),
)


@dataclass(frozen=True)
class Figure:
    """One side at one size. ``mfu`` and ``peak_gib`` are CUDA's, ``tokens_per_cpu_s`` the CPU's."""

    size: str
    parameters: int
    side: str
    precision: str
    tokens_per_s: float
    tokens_per_cpu_s: float | None
    mfu: float | None
    peak_gib: float | None


def ours(size: Size, optimizer_name: str, precision: Precision, device: torch.device, compiled: bool) -> Step:
    """The trainer's step: chunked loss inside forward, gradients, clipping, update."""
    model = Llama(size.shape, 0).to(device)
    if compiled:
        model.compile()
    optimizer = Optimizer(model, OptimizerConfig.model_validate({"name": optimizer_name}))

    def step(tokens_BT: torch.Tensor) -> float:
        nats = accumulate(model, tokens_BT, None, 1, 1 / (size.batch * size.length), precision)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(nats)

    return step


def theirs(size: Size, precision: Precision, device: torch.device, compiled: bool) -> Step:
    """LlamaForCausalLM as its documentation trains it: labels in, loss out."""
    import transformers

    config = transformers.LlamaConfig(**to_hf_config(size.shape, size.length))
    model: Any = transformers.LlamaForCausalLM(config).to(device, torch.float32)
    model.train()
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(tokens_BT: torch.Tensor) -> float:
        x_BT = tokens_BT[:, :-1]
        with autocast(precision, device):
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
    """Seconds by the wall and of this process for one turn."""
    generator = torch.Generator().manual_seed(seed)
    shape = (size.steps, size.batch, size.length + 1)
    tokens = torch.randint(0, size.shape.vocab_size, shape, generator=generator).to(device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    for tokens_BT in tokens:
        step(tokens_BT)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(size: Size, precision: Precision, device: torch.device, compiled: bool, optimizer: str) -> Iterator[Figure]:
    """Both sides at one size: turn by turn on CPU, one after the other on CUDA, where memory is measured too."""
    makers: dict[str, Callable[[], Step]] = {"trainer": lambda: ours(size, optimizer, precision, device, compiled)}
    if find_spec("transformers"):
        makers["transformers"] = lambda: theirs(size, precision, device, compiled)
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in makers}
    memory: dict[str, float] = {}
    if device.type == "cuda":
        for side, make in makers.items():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            step = make()
            times[side] = [turn(step, size, device, number) for number in range(TURNS + 1)][1:]
            memory[side] = torch.cuda.max_memory_allocated() / 2**30
            del step
    else:
        steps = {side: make() for side, make in makers.items()}
        for number in range(TURNS + 1):
            for side, step in steps.items():
                seconds = turn(step, size, device, number)
                if number:
                    times[side].append(seconds)
    for side in makers:
        wall = size.tokens / statistics.median(seconds for seconds, _ in times[side])
        cpu = size.tokens / statistics.median(seconds for _, seconds in times[side])
        peak = peak_flops(device)
        yield Figure(
            size=size.name,
            parameters=parameters(size.shape),
            side=side,
            precision=precision,
            tokens_per_s=wall,
            tokens_per_cpu_s=None if memory else cpu,
            mfu=wall * flops_per_token(size.shape, size.length) / peak if peak else None,
            peak_gib=memory.get(side),
        )


def show(figures: list[Figure]) -> None:
    """One line a figure, ours with its ratio to theirs."""
    theirs = {figure.size: figure for figure in figures if figure.side == "transformers"}
    for figure in figures:
        parts = [f"{figure.size:>6} {figure.side:>12} {figure.precision}: {figure.tokens_per_s:10,.0f} tokens/s"]
        if figure.tokens_per_cpu_s:
            parts.append(f"{figure.tokens_per_cpu_s:,.0f} tokens per CPU second")
        if figure.mfu:
            parts.append(f"MFU {figure.mfu:.1%}")
        if figure.peak_gib:
            parts.append(f"{figure.peak_gib:.1f} GiB")
        if figure.side == "trainer" and (other := theirs.get(figure.size)):
            ratio = f"{figure.tokens_per_s / other.tokens_per_s:.2f}× theirs"
            if figure.tokens_per_cpu_s and other.tokens_per_cpu_s:
                ratio += f", {figure.tokens_per_cpu_s / other.tokens_per_cpu_s:.2f}× by CPU time"
            parts.append(ratio)
        print("  ".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trainer", description=__doc__.split("\n")[0])
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw", help="ours; theirs is AdamW")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--compile", action="store_true", help="torch.compile on both sides")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = resolve_precision(options.precision, device)
    figures: list[Figure] = []
    for each in CUDA_SIZES if device.type == "cuda" else CPU_SIZES:
        found = list(measure(each, precision, device, options.compile, options.optimizer))
        figures += found
        if options.json:
            for figure in found:
                print(json.dumps(asdict(figure)), flush=True)
    if not options.json:
        show(figures)


if __name__ == "__main__":
    main()
