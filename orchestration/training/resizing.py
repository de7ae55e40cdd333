"""How many workers an attempt begins with, and when it should end to begin anew with another number.

Room is found by reserving it: Ray grants a placement group only where live nodes that stay hold it, an autoscaler
counts a pending one as demand, and it goes with its driver. A group is granted whole or not at all, and there is one
for each step from a number of workers that shares the batch evenly to the next, so nothing is held that is of no use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from ray.util import placement_group, placement_group_table, remove_placement_group

from orchestration.cluster.resources import Demand, WaitNotice, demand_of_workers, draining_nodes
from orchestration.runs.signals import seconds_setting
from orchestration.training.worker_range import WorkerRange

POLL_S = 0.5
SETTLE_S = 3.0  # between the first room that is found and the count of all of it
GROW_AFTER_S = 60.0


class Sizes:
    """The numbers of workers that a run may have (``counts``, rising, of the range that was asked for), and the
    reservations by which room for them is found."""

    def __init__(self, workers: WorkerRange, counts: Sequence[int], use_gpu: bool, *, loads_rows: bool = True) -> None:
        self.use_gpu = use_gpu
        self._workers, self._counts, self._loads_rows = workers, counts, loads_rows
        self._pending: list[tuple[int, Any]] = []  # workers with this group and all before it
        self._granted_at: float | None = None
        self._grow_after_s = grow_after_seconds()

    @property
    def least(self) -> int:
        return self._counts[0]

    def demand(self, count: int) -> Demand:
        """What ``count`` workers need."""
        what = f"workers = {count}" if self._workers.is_fixed else f"workers = {self._workers}, at least {count}"
        return demand_of_workers(count, self.use_gpu, what, loads_rows=self._loads_rows)

    def choose(self, check: Callable[[], None]) -> int:
        """Wait for room for the least number of workers; as many as there is room for then.

        A fixed number is not waited for here: Ray waits for it. ``check`` is called meanwhile and may raise; so does
        WaitNotice, with ClusterLostError.
        """
        if len(self._counts) == 1:
            return self.least
        notice = WaitNotice(self.demand(self.least))
        self._reserve(0, self._counts)
        try:
            while not (count := self._settled_room()):
                check()
                notice.poll()
                time.sleep(POLL_S)
            return count
        finally:
            self.release()

    def room_for_more(self, count: int, age_s: float) -> int:
        """For more than ``count`` workers, which have been at work for ``age_s`` seconds: how many there could be now,
        0 if no more, or too soon."""
        above = [more for more in self._counts if more > count]
        if not above or age_s < self._grow_after_s:
            return 0
        if not self._pending:
            self._reserve(count, above)
        return self._settled_room()

    def release(self) -> None:
        """Give up every reservation."""
        for _, group in self._pending:
            remove_placement_group(group)
        self._pending, self._granted_at = [], None

    def _reserve(self, base: int, counts: Sequence[int]) -> None:
        for fewer, more in pairwise((base, *counts)):
            bundles = [dict(bundle) for bundle in self.demand(more - fewer).bundles]
            self._pending.append((more, placement_group(bundles, strategy="PACK")))

    def _settled_room(self) -> int:
        """Workers for which all groups are granted, once the first has been for SETTLE_S; 0 before."""
        granted = 0
        for count, group in self._pending:
            if placement_group_table(group)["state"] != "CREATED":
                break
            granted = count
        if not granted:
            self._granted_at = None
            return 0
        now = time.monotonic()
        self._granted_at = now if self._granted_at is None else self._granted_at
        return granted if now - self._granted_at >= SETTLE_S else 0


class Preemptions:
    """Which of the nodes where a run's workers are is about to be taken away; looked for every two seconds."""

    LOOK_S = 2.0

    def __init__(self) -> None:
        self._nodes: set[str] = set()
        self._due = 0.0

    def add(self, node: str) -> None:
        """A worker runs on ``node``."""
        self._nodes.add(node)

    def found(self) -> Iterable[str]:
        """Nodes of ours that drain."""
        now = time.monotonic()
        if now < self._due:
            return ()
        self._due = now + self.LOOK_S
        return sorted(self._nodes & draining_nodes())


def grow_after_seconds() -> float:
    """`MORPHOGEN_GROW_AFTER_S`: how long workers are left at work before more of them take their place.

    Beginning anew costs tens of seconds. Raises InvalidRequestError outside 1 to 86,400.
    """
    expected = "expected seconds, 1 to 86400; 60 is the default"
    return seconds_setting("MORPHOGEN_GROW_AFTER_S", GROW_AFTER_S, lambda seconds: 1 <= seconds <= 86_400, expected)
