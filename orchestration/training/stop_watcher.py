"""What rank 0 of a training looks out for while it steps: a request to stop, and the loss of its run.

It reads the lake itself, so that it stops even where the driver is frozen or gone. Ray's own notice of a node about to
be taken away, ``ray.train.get_preemption_info``, is a barrier over all workers: no thread may wait there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from datalake import Lake, Run
from datalake.errors import StoreUnavailableError
from orchestration.runs.signals import Stop

LOOK_S = 1.0


@dataclass(frozen=True)
class Parent:
    """The run that a process elsewhere works for, and the lease under which its driver holds it."""

    run: str
    lease: str


@contextmanager
def watching(
    lake: Lake, run: str, lease: str, rank: int, paused: Callable[[], bool] = lambda: False
) -> Iterator[threading.Event]:
    """An event that is set once this rank should stop after the step that it is in; the loop tells the other ranks.

    ``paused`` says whether the driver wants it to, for other workers to go on.
    """
    stop = threading.Event()
    if rank != 0:
        yield stop
        return
    ended = threading.Event()

    def poll() -> None:
        over = _Over(lake, run, lease)
        while not ended.wait(LOOK_S):
            if over() or paused():
                stop.set()
                return

    thread = threading.Thread(target=poll, name=f"watch {run}", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        ended.set()  # and not waited for: a store that does not answer may keep it for half a minute


@contextmanager
def following(lake: Lake, parent: Parent | None, stop: Stop) -> Iterator[None]:
    """While in the block, ``stop`` is set once the run of ``parent`` is asked to stop, has ended, or is another's now:
    what works for it in processes elsewhere then stops as well."""
    if parent is None:
        yield
        return
    ended = threading.Event()

    def poll() -> None:
        over = _Over(lake, parent.run, parent.lease)
        while not ended.wait(LOOK_S):
            if over():
                stop.ask(f"run {parent.run}, for which it worked, was stopped")
                return

    threading.Thread(target=poll, name=f"watch {parent.run}", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


class _Over:
    """Whether a run was asked to stop, has ended, or is another's now: one request a look, however long its log is."""

    def __init__(self, lake: Lake, run: str, lease: str) -> None:
        self._lake = lake
        self._run = run
        self._lease = lease
        self._record: Run | None = None

    def __call__(self) -> bool:
        try:
            self._record = self._record.poll() if self._record else self._lake.runs.get(self._run)
        except StoreUnavailableError:
            return False  # looked for again in a second; the loop's own next write says how long to wait for the store
        state = self._record.state
        return state["lease"] != self._lease or bool(state.get("stop")) or state["status"] in ("stopped", "failed")
