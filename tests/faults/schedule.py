"""A small pipeline, a seeded schedule of faults over it, and what must be the same in the end as if there were none."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datalake.errors import NotFoundError
from datalake.lake import Lake
from datalake.maintenance.verify import verify_dataset
from tests.faults.faults import KINDS, LASTING, Fault, Undo, draw, strike
from tests.faults.rows import global_batches, read_seen
from tests.faults.world import World
from tests.ray_fixtures import TINY_SPEC
from trainer import load_metrics

SPEC = TINY_SPEC | {"burn_in": 150}  # in the slow backend a shard takes a third of a second: long enough to be hit
SEQUENCES, SHARD = 768, 64
STEPS, CHECKPOINT = 32, 4
RUN, TRAINING, MODEL = "run", "run-pre", "tiny-pre"
DEADLINE_S = 400.0
PIPELINE = {
    "name": "tiny",
    "params": SPEC,
    "generate": {"tokens": SEQUENCES * SPEC["seq_len"], "shard_sequences": SHARD, "heldout_sequences": 0},
    "pre": {
        "steps": STEPS,
        "batch_sequences": 36,  # the first epoch ends inside the 22nd batch
        "checkpoint_every": CHECKPOINT,
        "eval_every": 16,
        "eval_sequences": 8,
        "log_every": 1,
        "precision": "fp32",
        "eval": ["tiny@1"],
        "model": {"depth": 1, "dim": 16, "heads": 2},
    },
}


@dataclass(frozen=True)
class Outcome:
    """What a pipeline leaves: dataset digests, the loss of every step, the model's files, the rows that went in."""

    datasets: dict[str, str]
    losses: list[tuple[int, float]]
    model: dict[str, str]
    batches: dict[tuple[str, int], list[tuple[int, int]]]


@dataclass(frozen=True)
class Schedule:
    """The faults of a seed, in order, and the store they happen on."""

    seed: int
    store: str
    faults: tuple[Fault, ...]

    @classmethod
    def of(cls, seed: int) -> Schedule:
        """Two or three faults; the first kind goes round with the seed, so that every kind comes up."""
        rng = random.Random(seed)
        first = sorted(KINDS)[seed % len(KINDS)]
        store = rng.choice(KINDS[first])
        others = [kind for kind, stores in sorted(KINDS.items()) if store in stores]
        kinds = [first, *rng.choices(others, k=rng.choice([1, 2]))]
        faults = [draw(rng, kind, SEQUENCES // SHARD, STEPS // CHECKPOINT) for kind in kinds]
        return cls(seed, store, tuple(sorted(faults, key=lambda fault: (fault.stage != "shards", fault.count))))

    def __str__(self) -> str:
        return f"seed {self.seed} on {self.store}: {', '.join(map(str, self.faults)) or 'nothing'}"


@dataclass
class Job:
    """One pipeline under way. ``drivers`` are the live ones; ``said_no`` lists what they did not obey in time."""

    site: World
    uri: str
    lake: Lake
    folder: Path
    drivers: list[subprocess.Popen[str]] = field(default_factory=list)
    met: Counter[str] = field(default_factory=Counter)
    said_no: list[str] = field(default_factory=list)
    endings: list[str] = field(default_factory=list)
    untidy: list[str] = field(default_factory=list)
    reruns: int = 0

    def start(self) -> None:
        """Start a driver, beside those there are."""
        sizes = ["--actors", "2", "--backend", "reference", "--workers", "2"]
        file = str(self.folder / "tiny.toml")
        self.drivers.append(self.site.driver("pipeline", file, "--run", RUN, "--lake", self.uri, *sizes))

    def note_end(self, driver: subprocess.Popen[str]) -> None:
        """Keep a driver's exit code and last word; one that ended by itself with a traceback was not tidy."""
        said = self.site.said(driver)
        last = (said.strip().splitlines() or [""])[-1]
        self.endings.append(f"{driver.returncode}: {last}")
        if driver.returncode > 0 and "Traceback (most recent call last)" in said:
            self.untidy.append(self.endings[-1])

    def reached(self, fault: Fault) -> bool:
        """Whether the lake has as much as the fault waits for."""
        if fault.stage == "shards":
            return sum(1 for _ in self.lake.store.list("data/")) >= fault.count
        try:
            return len(self.lake.runs.get(TRAINING).checkpoints) >= fault.count
        except NotFoundError:
            return False


def run_schedule(site: World, schedule: Schedule, name: str) -> tuple[Outcome, Job]:
    """Run the pipeline under the schedule's faults, starting a command again when no driver of it is left."""
    with site.lake(name, schedule.store) as (uri, lake):
        site.quiet()
        folder = site.folder / f"{name}-config"
        folder.mkdir()
        (folder / "tiny.toml").write_text("\n".join(f"{key} = {_toml(value)}" for key, value in PIPELINE.items()))
        job = Job(site, uri, lake, folder)
        _drive(job, schedule)
        return _outcome(job), job


def _drive(job: Job, schedule: Schedule) -> None:
    rng = random.Random(schedule.seed + 1)
    waiting = list(schedule.faults)
    undo: Undo | None = None
    over_at = 0.0
    reruns_since_fault = 0
    finished = False
    deadline = time.monotonic() + DEADLINE_S
    job.start()
    try:
        while job.drivers or undo is not None or not finished:
            assert time.monotonic() < deadline, f"{schedule}: not over after {DEADLINE_S} s; met {dict(job.met)}"
            time.sleep(0.1)
            if undo is not None and time.monotonic() >= over_at:
                undo()
                undo = None
            for driver in [each for each in job.drivers if each.poll() is not None]:
                job.drivers.remove(driver)
                finished |= driver.returncode == 0
                job.note_end(driver)
            if not (job.drivers or finished or undo):  # nobody starts a job again while the trouble lasts
                job.reruns += 1
                reruns_since_fault += 1
                assert reruns_since_fault <= 1, f"{schedule}: one resume was not enough after {dict(job.met)}"
                job.start()
            if waiting and undo is None and job.drivers and job.reached(waiting[0]):
                time.sleep(waiting[0].delay)
                if job.drivers[0].poll() is None and (undo := strike(waiting[0], job, rng)) is not None:
                    fault = waiting.pop(0)
                    job.met[fault.kind] += 1
                    over_at = time.monotonic() + (fault.seconds if fault.kind in LASTING else 0.0)
                    reruns_since_fault = 0
    finally:
        if undo is not None:
            undo()
        for driver in job.drivers:
            driver.kill()
            driver.wait()
        print(f"met {dict(job.met)}; drivers ended {job.endings}")
    assert len(waiting) <= max(0, len(schedule.faults) - 2), f"{schedule}: over before {list(map(str, waiting))}"


def _outcome(job: Job) -> Outcome:
    lake = job.lake
    versions = lake.datasets.history("tiny")
    assert [version.version for version in versions] == [1], "one version, however many drivers committed it"
    assert verify_dataset(lake.store, lake.datasets.manifest("tiny@1")).ok
    assert [version.version for version in lake.models.history(MODEL)] == [1]
    return Outcome(
        datasets={version.ref: version.digest for version in versions},
        losses=[(record["step"], record["loss"]) for record in load_metrics(lake, TRAINING) if "loss" in record],
        model=dict(lake.models.get(MODEL).files),
        batches=global_batches(read_seen(job.site.rows)),
    )


def _toml(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)
