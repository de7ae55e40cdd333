"""What a training worker looks out for while it steps: a request to stop, the loss of its run, the end of its node.

It reads the lake itself, so that it stops even where the driver is frozen or gone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray.train

from datalake import Lake
from datalake.errors import StoreUnavailableError

LOOK_S = 1.0


@contextmanager
def watching(lake: Lake, run: str, lease: str, rank: int) -> Iterator[threading.Event]:
    """An event that is set once this rank should stop after the step that it is in; the loop tells the other ranks.

    Rank 0 watches the run's log; every rank watches its own node, which Ray says when it is about to be taken away.
    """
    stop = threading.Event()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_S):
            if ray.train.get_preemption_info() is not None or (rank == 0 and _over(lake, run, lease)):
                stop.set()
                return

    thread = threading.Thread(target=look, name=f"watch {run}", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        ended.set()
        thread.join()


def _over(lake: Lake, run: str, lease: str) -> bool:
    try:
        state = lake.runs.get(run).state
    except StoreUnavailableError:
        return False  # looked for again in a second; the loop's own next write says how long to wait for the store
    return state["lease"] != lease or bool(state.get("stop"))
