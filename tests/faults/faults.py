"""Faults, each done to a running job from outside: signals to processes, the store's proxy and server, the disk."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.processes import end, titled

if TYPE_CHECKING:
    from tests.faults.schedule import Job

GRACE_S = 30.0

# Where each may strike, and on which store: at its n-th shard, at its n-th checkpoint, or at either.
GENERATING = {"actor killed": ("s3", "disk")}
TRAINING = {"worker killed": ("s3", "disk"), "worker exits": ("s3", "disk")}
ANYWHERE = {
    "driver killed": ("s3", "disk"),
    "driver terminated": ("s3", "disk"),
    "two drivers": ("s3", "disk"),
    "head restarted": ("s3", "disk"),
    "server killed": ("s3",),
    "store down": ("s3",),
    "store slow": ("s3",),
    "disk full": ("disk",),
}
KINDS = {**GENERATING, **TRAINING, **ANYWHERE}
LASTING = {"server killed", "store down", "store slow", "disk full"}


@dataclass(frozen=True)
class Fault:
    """``kind`` strikes ``delay`` s after the lake has ``count`` things of ``stage``, for ``seconds``."""

    kind: str
    stage: str
    count: int
    delay: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind} at {self.count} {self.stage} +{self.delay:.2f} s"


def draw(rng: random.Random, kind: str, shards: int, checkpoints: int) -> Fault:
    """One fault of this kind, before the last shard or the last checkpoint is there."""
    stages = ["shards"] * (kind not in TRAINING) + ["checkpoints"] * (kind not in GENERATING)
    stage = rng.choice(stages)
    count = rng.randrange(0, shards // 2) if stage == "shards" else rng.randrange(1, checkpoints // 2)
    seconds = rng.choice([2.0, 5.0, 5.0, 30.0]) if kind == "store down" else rng.uniform(2.0, 8.0)
    return Fault(kind, stage, count, rng.uniform(0.0, 0.4), seconds)


Undo = Callable[[], None]


def strike(fault: Fault, job: Job, rng: random.Random) -> Undo | None:
    """Do it; returns what ends it (called after ``seconds``, or earlier where that is said), None: try again later."""
    site = job.site
    match fault.kind:
        case "actor killed":
            return _signal_one(titled(site.head_pid, "ray::ShardWorker", "ray::shard "), signal.SIGKILL, rng)
        case "worker killed":
            return _signal_one(titled(site.head_pid, "ray::RayTrainWorker"), signal.SIGKILL, rng)
        case "worker exits":
            return _signal_one(titled(site.head_pid, "ray::RayTrainWorker"), signal.SIGUSR2, rng)
        case "driver killed":
            end(job.drivers[0].pid)
            return _nothing
        case "driver terminated":
            return _terminate(job)
        case "two drivers":
            job.start()
            return _nothing
        case "head restarted":
            site.kill_head()
            site.start_head()
            return _nothing
        case "server killed":
            site.server.kill()
            return site.server.start
        case "store down":
            site.proxy.down()
            return site.proxy.up
        case "store slow":
            site.proxy.delay = 0.2
            return site.proxy.up
        case "disk full":
            return _fill(Path(job.uri).parent / "ballast")
    raise AssertionError(fault.kind)


def _nothing() -> None:
    pass


def _signal_one(pids: list[int], how: signal.Signals, rng: random.Random) -> Undo | None:
    return _nothing if pids and end(rng.choice(pids), how) else None


def _terminate(job: Job) -> Undo:
    """As a preempted node is given notice: SIGTERM, and SIGKILL for those that have not gone when the grace is over."""
    driver = job.drivers[0]
    end(driver.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if driver.poll() is None:
        job.said_no.append("SIGTERM")
        end(driver.pid)
    return _nothing


def _fill(ballast: Path) -> Undo:
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
    return ballast.unlink
