"""Time that the step loop loses to checkpoints when the store is far away.

    python -m benchmarks.checkpoints [--latency 0.2] [--steps N] [--every N] [--threads N] [--json]

One small recipe is trained on a local folder whose every read and write of a checkpoint's or the run log's object takes
``--latency`` seconds longer: once with a single checkpoint at its end, once with one every ``--every`` steps. What the
second loop takes longer than the first from the first step to the last, divided by its checkpoints, is what one costs.
The last checkpoint, which nothing can hide, is outside that time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from datalake import Lake
from datalake.ambient import Ambient
from datalake.local_store import LocalStore
from orchestration.corpus import add_corpus, stdlib_files
from trainer import parse_config, run_training

SLOW = ("checkpoints/", "runs/")


class FarStore(LocalStore):
    """A local folder that answers late."""

    latency = 0.0

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._travel(key)
        return super().put_if_absent(key, data)

    def get(self, key: str) -> bytes:
        self._travel(key)
        return super().get(key)

    def _travel(self, key: str) -> None:
        if key.startswith(SLOW):
            time.sleep(self.latency)


def loop_seconds(lake: Lake, steps: int, every: int, threads: int | None) -> float:
    """Seconds from the end of the first step to the end of the last."""
    fields: dict[str, Any] = {
        "model": {"depth": 4, "dim": 256},
        "data": [{"dataset": "stdlib@1"}],
        "steps": steps,
        "batch_sequences": 16,
        "spike_nats": None,
        "log_every": 1,
        "checkpoint_every": every,
    }
    ends: list[float] = []

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            ends.append(time.perf_counter())

    run_training(parse_config(fields), lake, f"every-{every}", on_event=watch, threads=threads)
    return ends[-1] - ends[0]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints", description=__doc__.split("\n")[0])
    parser.add_argument("--latency", type=float, default=0.2, help="seconds for each request (default 0.2)")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = FarStore(Path(folder))
        lake = Lake(store, Ambient())
        add_corpus(lake, "stdlib", list(stdlib_files())[:200], seq_len=256)
        store.latency = options.latency
        loop_seconds(lake, 3, 3, options.threads)  # what is only paid once
        alone = loop_seconds(lake, options.steps, options.steps, options.threads)
        among = loop_seconds(lake, options.steps, options.every, options.threads)
    checkpoints = (options.steps - 1) // options.every
    found = {
        "latency_s": options.latency,
        "steps": options.steps,
        "step_s": round(alone / (options.steps - 1), 4),
        "checkpoints": checkpoints,
        "lost_per_checkpoint_s": round((among - alone) / checkpoints, 4),
    }
    print(json.dumps(found) if options.json else "  ".join(f"{name} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
