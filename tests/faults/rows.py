"""The rows that the model really saw: written down by each rank as it takes a batch, and held against the plan."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

FOLDER, PACE = "MORPHOGEN_TEST_ROWS", "MORPHOGEN_TEST_STEP_S"  # where to write; how long to make a step
PAUSE = "pause"  # while the folder has this file, no step ends


class Seen(NamedTuple):
    """One rank's share of one step, as it went into the model: ``rows`` are (source, row) pairs."""

    plan: str
    step: int
    world: int
    rank: int
    rows: tuple[tuple[int, int], ...]
    pid: int


def watch(learner: ModuleType) -> None:
    """Make this process's learner write down each batch that it accepts, and take its time over it."""
    accept = learner.check_batch
    pause = Path(os.environ[FOLDER]) / PAUSE
    file = os.open(pause.with_name(f"{os.getpid()}.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def check_batch(batch: Any, plan: Any, step: int, world: int, rank: int) -> Any:
        tokens = accept(batch, plan, step, world, rank)
        line = [plan.digest, step, world, rank, np.asarray(batch.rows).tolist(), os.getpid()]
        os.write(file, json.dumps(line).encode() + b"\n")  # at once, so that a kill takes nothing back
        time.sleep(float(os.environ.get(PACE, "0")))
        while pause.exists():
            time.sleep(0.05)
        return tokens

    learner.check_batch = check_batch  # type: ignore[attr-defined]


def read_seen(folder: Path) -> list[Seen]:
    """Everything that was written down, by step and rank; a line cut off by a kill is none."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                plan, step, world, rank, rows, pid = json.loads(line)
                found.append(Seen(plan, step, world, rank, tuple(map(tuple, rows)), pid))
    return sorted(found, key=lambda seen: (seen.plan, seen.step, seen.world, seen.rank))


def global_batches(seen: Iterable[Seen]) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """{(plan, step): rows of the global batch}, put together from the ranks' shares.

    AssertionError if a rank saw other rows when it did a step again, a world put another batch together than another
    world, or no world has all its shares of a step.
    """
    shares: dict[tuple[str, int, int], dict[int, tuple]] = {}
    for item in seen:
        rows = shares.setdefault((item.plan, item.step, item.world), {}).setdefault(item.rank, item.rows)
        assert rows == item.rows, f"rank {item.rank} of {item.world} saw other rows when it did step {item.step} again"
    batches: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for (plan, step, world), parts in shares.items():
        if set(parts) == set(range(world)):
            batch = [row for rank in range(world) for row in parts[rank]]
            assert batches.setdefault((plan, step), batch) == batch, f"world {world} has another batch at step {step}"
    steps = {(plan, step) for plan, step, _ in shares}
    assert set(batches) == steps, f"no world saw all of steps {sorted(steps - set(batches))}"
    return batches
