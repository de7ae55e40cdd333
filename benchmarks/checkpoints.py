"""Time that the step loop loses to checkpoints when the store is far away.

    python -m benchmarks.checkpoints [--latency 0.2] [--steps N] [--every N] [--threads N] [--json]

A model of 3.4 million parameters (41 MB of state) is trained on a local folder whose every read and write of a
checkpoint's or the run log's object takes ``--latency`` seconds longer. What is timed is how long after the end of a
step the loop asks for the next one's rows: next to nothing, but after a checkpoint. The last checkpoint, which nothing
can hide, is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.arguments import whole
from datalake import Lake
from datalake.clock import System
from datalake.store.local import LocalStore
from orchestration.corpus.add import add_corpus, stdlib_files
from trainer import Batch, TrainJob, local_batches, parse_config, run_training

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


def pauses(lake: Lake, steps: int, every: int, threads: int | None) -> tuple[list[float], float]:
    """Seconds between a step that a checkpoint follows and the next one, and the median seconds of a step."""
    fields: dict[str, Any] = {
        "model": {"depth": 4, "dim": 256},
        "data": [{"dataset": "stdlib@1"}],
        "steps": steps,
        "batch_sequences": 4,
        "spike_nats": None,
        "log_every": 1,
        "checkpoint_every": every,
    }
    asked: list[float] = []
    ended: list[float] = []

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            ended.append(time.perf_counter())

    def timed(*arguments: Any) -> Iterator[Batch]:
        stream = local_batches(*arguments)
        while True:
            asked.append(time.perf_counter())
            try:
                yield next(stream)
            except StopIteration:
                return

    run_training(TrainJob(parse_config(fields), lake, "run", batches=timed), on_event=watch, threads=threads)
    lost = [asked[step] - ended[step - 1] for step in range(every, steps, every)]
    return lost, statistics.median(end - start for start, end in zip(asked[1:], ended[1:], strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints", description=__doc__.split("\n")[0])
    parser.add_argument("--latency", type=float, default=0.2, help="seconds for each request (default 0.2)")
    parser.add_argument("--steps", type=whole(), default=50)
    parser.add_argument("--every", type=whole(), default=10)
    parser.add_argument("--threads", type=whole())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = FarStore(Path(folder))
        lake = Lake(store, System())
        add_corpus(lake, "stdlib", list(stdlib_files())[:200], seq_len=256)
        store.latency = options.latency
        lost, step = pauses(lake, options.steps, options.every, options.threads)
    found = {
        "latency_s": options.latency,
        "step_s": round(step, 3),
        "checkpoints": len(lost),
        "lost_median_s": round(statistics.median(lost), 4),
        "lost_max_s": round(max(lost), 4),
    }
    print(json.dumps(found) if options.json else "  ".join(f"{name} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
