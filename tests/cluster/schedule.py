"""A job on the site's hosts, a seeded schedule of faults over it, and what must be the same in the end as without."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from datalake.errors import DatalakeError
from datalake.lake import Lake
from tests.cluster.faults import LASTS, Fault, Undo, strike
from tests.cluster.hosts import Host, wait_until
from tests.cluster.site import Driver, Site

DEADLINE_S = 600.0
LOOK_S = 0.5
HUNG_S = 200.0
# A fault that the job does not mind is over once the next is due, but not before everybody had time to notice it; so
# long a training is paused.
NOTICED_S = 15.0


@dataclass(frozen=True)
class Job:
    """A command (its words after ``morphogen``, without the lake) and what is known of it.

    ``prepare`` puts into a lake what it needs, ``outcome`` reads from one what it left, ``levels`` is how far it goes:
    shards written and steps done, summed. ``files`` are written on every host, by name.
    """

    name: str
    command: tuple[str, ...]
    levels: int
    prepare: Callable[[Lake], None]
    outcome: Callable[[Lake], Any]
    files: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[str, ...] = tuple(LASTS)


@dataclass(frozen=True)
class Schedule:
    """Faults in the order of their levels; ``seed`` decides whom they strike."""

    seed: int
    faults: tuple[Fault, ...]

    @classmethod
    def of(cls, seed: int, job: Job, count: int = 2) -> Schedule:
        """``count`` faults of the job's kinds; the first goes round with the seed."""
        rng = random.Random(seed)
        kinds = [job.faults[seed % len(job.faults)], *rng.choices(job.faults, k=count - 1)]
        levels = sorted(rng.sample(range(1, job.levels * 2 // 3), count))
        return cls(seed, tuple(Fault(kind, level, LASTS[kind]) for kind, level in zip(kinds, levels, strict=True)))

    def __str__(self) -> str:
        return f"seed {self.seed}: {', '.join(map(str, self.faults)) or 'nothing'}"


@dataclass
class Course:
    """How a schedule went: faults that struck, seconds from each until the job went on, how its drivers ended."""

    struck: list[str] = field(default_factory=list)
    went_on: list[tuple[str, float]] = field(default_factory=list)
    endings: list[str] = field(default_factory=list)
    untidy: list[str] = field(default_factory=list)
    reruns: int = 0


def run_schedule(site: Site, job: Job, schedule: Schedule, name: str) -> tuple[Any, Course]:
    """Run the job under the schedule's faults, once again where no driver of it is left; what it left, and the course.

    AssertionError if it hangs, or one resume after a fault is not enough.
    """
    site.restore()
    site.forget_rows()
    for file, text in job.files.items():
        site.write(file, text)
    uri, lake = site.lake(name)
    job.prepare(lake)
    drive = _Drive(site, job, schedule, uri, lake)
    try:
        drive.run()
    finally:
        drive.note_ends()
        print(f"{job.name}, {schedule}: {drive.course}")
    return job.outcome(lake), drive.course


class _Drive:
    def __init__(self, site: Site, job: Job, schedule: Schedule, uri: str, lake: Lake) -> None:
        self.course = Course()
        self._site, self._job, self._schedule, self._uri, self._lake = site, job, schedule, uri, lake
        self._rng = random.Random(schedule.seed + 1)
        self._base = self._shards()
        self._last_shards = self._base
        self._activity, self._active_at = (-1, -1), time.monotonic()
        self._struck: tuple[str, float] | None = None
        self._longest = 0.0

    def run(self) -> None:
        """Until a driver has ended well, every fault is undone, and nobody works any more."""
        site, waiting = self._site, list(self._schedule.faults)
        undo: Undo | None = None
        over_at, noticed_at, reruns_left = 0.0, 0.0, 0
        deadline = time.monotonic() + DEADLINE_S
        driver = self._start()
        while True:
            time.sleep(LOOK_S)
            now = time.monotonic()
            assert now < deadline, f"not over after {DEADLINE_S:.0f} s"
            self._watch_activity(now)
            assert now - self._active_at < HUNG_S, f"nothing has moved for {HUNG_S:.0f} s"
            due = bool(waiting) and self._level() >= waiting[0].level
            site.pause_trainings(due and undo is not None and now < noticed_at)
            if undo is not None and (now >= over_at or (due and now >= noticed_at)):
                undo()
                undo = None
            if driver.code() == 0:
                break
            if driver.code() is not None or not site.seen(driver.host):
                # Nobody starts a command again where the trouble lasts; elsewhere one does, and may have two of them.
                if (host := self._next_host(driver.host)) is not None and (undo is None or host is not driver.host):
                    assert reruns_left, f"one resume was not enough: {driver.said()[-2000:]}"
                    reruns_left -= 1
                    self.course.reruns += 1
                    site.await_ray(host)
                    driver = self._start(host)
            elif due and undo is None and self._working():
                fault = waiting.pop(0)
                self._end_stall()
                undo = strike(fault, site, driver.host, self._rng)
                self._struck, self._longest = (fault.kind, time.monotonic()), 0.0
                self.course.struck.append(str(fault))
                over_at, reruns_left = time.monotonic() + fault.seconds, 1
                noticed_at = time.monotonic() + NOTICED_S
                if not fault.seconds:
                    undo = None
        self._end_stall()
        if undo is not None:
            undo()
        for driver in [each for each in site.drivers if each.host.up]:  # one that lost the run leaves by itself
            wait_until(lambda: driver.code() is not None, f"the driver at {driver.host} ends", 60)  # noqa: B023
        assert not waiting, f"over before {list(map(str, waiting))}"

    def note_ends(self) -> None:
        """Keep the drivers' exit codes and last words; one that ended by itself says why without a traceback."""
        for driver in self._site.drivers:
            code, said = driver.code(), driver.said()
            self.course.endings.append(f"{code}: {(said.strip().splitlines() or [''])[-1]}")
            if code is not None and code > 0 and "Traceback (most recent call last)" in said:
                self.course.untidy.append(said[-3000:])

    def _start(self, host: Host | None = None) -> Driver:
        return self._site.driver(host or self._site.desk, *self._job.command, "--lake", self._uri)

    def _next_host(self, last: Host) -> Host | None:
        """Where a person would start the command again: where it ran, if head and store can be reached from there."""
        hosts = [last, *(host for host in self._site.workers if host is not last)]
        return next((host for host in hosts if self._site.reachable(host)), None)

    def _shards(self) -> int:
        return sum(1 for _ in self._lake.store.list("data/"))

    def _watch_activity(self, now: float) -> None:
        """Note when something was last written: a shard or a step."""
        if self._store_answers():
            with suppress(DatalakeError):  # it has just gone
                self._last_shards = self._shards()
        activity = (self._last_shards, self._site.row_lines())
        if activity != self._activity:
            if self._struck is not None:
                self._longest = max(self._longest, now - max(self._active_at, self._struck[1]))
            self._activity, self._active_at = activity, now

    def _end_stall(self) -> None:
        """The longest time without progress since the last fault is what it cost."""
        if self._struck is not None:
            self.course.went_on.append((self._struck[0], round(max(self._longest, 0.0), 1)))
        self._struck = None

    def _store_answers(self) -> bool:
        return self._site.store.up and self._site.store.name not in self._site.unplugged

    def _level(self) -> int:
        steps = len({(seen.plan, seen.step) for seen in self._site.rows()})
        return self._last_shards - self._base + steps

    def _working(self) -> bool:
        """Whether a process works for the job: only then is there somebody whom a fault can hurt."""
        words = (
            "ray::ShardWorker",
            "ray::RayTrainWorker",
            "ray::FeedingWorker",
            "ray::shard",
            "ray::corpus",
            "ray::Arm",
        )
        return any(host.processes(*words) for host in self._site.hosts.values())
