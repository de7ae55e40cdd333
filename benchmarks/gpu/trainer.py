"""MFU and memory of the trainer's step at 0.4 and 1 billion parameters, beside transformers where it is installed."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch

from benchmarks.gpu.report import Report
from benchmarks.trainer import SIZES, Manner, makers, measure
from trainer.precision import resolve_precision

GOAL_MFU = 0.45
# Ours first: should the time run out, the reader can do without theirs. Seconds are what the last tries need, about.
ORDER = (
    ("400M", True, "trainer", 35),
    ("1B", True, "trainer", 35),
    ("400M", False, "trainer", 15),
    ("1B", False, "trainer", 20),
    ("400M", False, "transformers", 20),
    ("1B", False, "transformers", 25),
    ("400M", True, "transformers", 60),
    ("1B", True, "transformers", 60),
)
TURNS = 3
STEPS = 5


def run(report: Report) -> None:
    """Each (size, compiled, side) that the time allows, a figure each; what fails is a figure, too."""
    device = torch.device("cpu" if report.toy else "cuda")
    torch.set_float32_matmul_precision("high")
    precision = resolve_precision("auto", device)
    order = (("tiny", False, "trainer", 1), ("tiny", False, "transformers", 1)) if report.toy else ORDER
    for name, compiled, side, seconds in order:
        if side not in makers():
            report.figure(size=name, compiled=compiled, side=side, left_out="not installed")
            continue
        if report.left() < seconds:
            report.figure(size=name, compiled=compiled, side=side, left_out=f"{report.left():.0f} s are left")
            continue
        manner = Manner(precision, device, compiled, False, "adamw")
        size = SIZES[name] if report.toy else replace(SIZES[name], steps=STEPS)
        try:
            for figure in measure(size, manner, turns=1 if report.toy else TURNS, sides=(side,)):
                met = None if figure.mfu is None else figure.mfu >= GOAL_MFU
                report.figure(**asdict(figure), compiled=compiled, goal_met=met)
        except Exception as error:  # noqa: BLE001 - a compiler that fails must not lose the other sizes
            report.figure(size=name, compiled=compiled, side=side, error=f"{type(error).__name__}: {str(error)[:300]}")
        torch.compiler.reset()
