"""What rank 0 of a training looks out for while it steps: a request to stop, and the loss of its run.

It reads the lake itself, so that it stops even where the driver is frozen or gone. Ray's own notice of a node about to
be taken away, ``ray.train.get_preemption_info``, is a barrier over all workers: no thread may wait there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from datalake import Lake
from datalake.errors import StoreUnavailableError

LOOK_S = 1.0


@contextmanager
def watching(lake: Lake, run: str, lease: str, rank: int) -> Iterator[threading.Event]:
    """An event that is set once this rank should stop after the step that it is in; the loop tells the other ranks."""
    stop = threading.Event()
    if rank != 0:
        yield stop
        return
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_S):
            if _over(lake, run, lease):
                stop.set()
                return

    thread = threading.Thread(target=look, name=f"watch {run}", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        ended.set()  # and not waited for: a store that does not answer may keep it for half a minute


def _over(lake: Lake, run: str, lease: str) -> bool:
    try:
        state = lake.runs.get(run).state
    except StoreUnavailableError:
        return False  # looked for again in a second; the loop's own next write says how long to wait for the store
    return state["lease"] != lease or bool(state.get("stop")) or state["status"] in ("stopped", "failed")
