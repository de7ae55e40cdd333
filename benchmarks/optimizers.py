"""Muon beside AdamW on text: tokens until the best AdamW's final held-out loss, each at its own best rate.

    python -m benchmarks.optimizers [--steps N] [--threads N] [--json]

Text is the standard library of the running Python as bytes; a two-layer model; every rate trained from the same
initial weights on the same rows. Rates that lie at an edge of their list are said to: then the list is too short.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.arguments import whole
from datalake import Lake
from orchestration.corpus.add import add_corpus, stdlib_files
from trainer import TrainJob, load_metrics, parse_config, run_training

RATES = {"adamw": (1e-3, 2e-3, 3e-3, 4e-3), "muon": (4e-3, 8e-3, 1.6e-2, 3.2e-2)}
SEQ_LEN = 128
BATCH = 16


@dataclass(frozen=True)
class Arm:
    """One run: its curve is held-out loss (nats per byte) by training tokens."""

    optimizer: str
    lr: float
    curve: tuple[tuple[int, float], ...]

    @property
    def final(self) -> float:
        return self.curve[-1][1]

    def tokens_to(self, loss: float) -> int | None:
        """Training tokens at the first evaluation that is no worse than ``loss``; None: never."""
        return next((tokens for tokens, found in self.curve if found <= loss), None)


def train(lake: Lake, optimizer: str, lr: float, steps: int, threads: int | None) -> Arm:
    """One arm, evaluated twenty times. With ``match_rms_adamw`` Muon's rate is on AdamW's scale."""
    fields: dict[str, Any] = {
        "model": {"depth": 2, "dim": 96, "heads": 3},
        "data": [{"dataset": "stdlib@1"}],
        "eval": ["stdlib-heldout@1"],
        "eval_sequences": 128,
        "steps": steps,
        "batch_sequences": BATCH,
        "optimizer": {"name": optimizer, "lr": lr},
        "schedule": {"name": "wsd", "warmup_steps": steps // 20, "decay": "sqrt", "final_fraction": 0.0},
        "spike_nats": None,
        "log_every": steps,
        "eval_every": max(1, steps // 20),
        "checkpoint_every": steps,
    }
    run = f"{optimizer}-{lr:g}"
    run_training(TrainJob(parse_config(fields), lake, run), threads=threads)
    evals = [record for record in load_metrics(lake, run) if "eval" in record]
    tokens = BATCH * (SEQ_LEN - 1)
    return Arm(optimizer, lr, tuple((row["step"] * tokens, row["eval"]["stdlib-heldout@1"]["loss"]) for row in evals))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optimizers", description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=whole(), default=400)
    parser.add_argument("--threads", type=whole())
    parser.add_argument("--json", action="store_true", help="one JSON object a line, curves included")
    options = parser.parse_args()
    arms: list[Arm] = []
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.open(folder)
        result = add_corpus(lake, "stdlib", list(stdlib_files()), seq_len=SEQ_LEN)
        assert (result.train.name, result.heldout.name) == ("stdlib", "stdlib-heldout")
        for optimizer, rates in RATES.items():
            for lr in rates:
                arms.append(train(lake, optimizer, lr, options.steps, options.threads))
                if options.json:
                    print(json.dumps(asdict(arms[-1])), flush=True)
                else:
                    print(f"{optimizer:>6} lr {lr:<7g} final held-out loss {arms[-1].final:.4f}", flush=True)
    if options.json:
        return
    best = {name: min((arm for arm in arms if arm.optimizer == name), key=lambda arm: arm.final) for name in RATES}
    target = best["adamw"].final
    for name, arm in best.items():
        edge = " (at an edge of its list)" if arm.lr in (RATES[name][0], RATES[name][-1]) else ""
        reached = arm.tokens_to(target)
        tokens = "never" if reached is None else f"{reached:,} tokens"
        print(f"{name:>6} at {arm.lr:g}{edge}: final {arm.final:.4f}; to AdamW's {target:.4f}: {tokens}")
    print(f"{'tokens':>9}  " + "  ".join(f"{name:>6}" for name in best))
    for points in zip(*(arm.curve for arm in best.values()), strict=True):
        print(f"{points[0][0]:9,}  " + "  ".join(f"{loss:6.4f}" for _, loss in points))


if __name__ == "__main__":
    main()
