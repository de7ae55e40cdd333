"""The Ray head, asked every second whether it is there: a driver without one says so and ends, its work kept.

Ray itself waits: for minutes when it joins a head that is gone, for one when it loses the head, and then it aborts the
process with a message of its own. A job's loop calls ``check_cluster``; where the main thread is inside a call of Ray's
that does not return, ``leave_without_head`` ends the process with the same words and the same exit code.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray

from orchestration.console.output import complain
from orchestration.errors import ClusterLostError

SILENCE_S = 10.0  # without an answer for so long, a head counts as lost
GRACE_S = 10.0  # what a job's own loop gets to notice it
ASK_EVERY_S = 1.0


class Head:
    """One address (host:port), since when nobody has answered there, and the last error."""

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.address = address
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: float | None = None
        self._silent_since: float | None = None
        self.error: OSError | None = None

    def silence(self) -> float:
        """Seconds without an answer, 0 if the last question got one; asks at most every second."""
        with self._lock:
            now = self._clock()
            if self._asked is None or now - self._asked >= ASK_EVERY_S:
                self._asked, self.error = now, self._ask()
                if self.error is None:
                    self._silent_since = None
                elif self._silent_since is None:
                    self._silent_since = now
            return 0.0 if self._silent_since is None else now - self._silent_since

    def lost(self) -> ClusterLostError:
        """What to tell of a head that was there."""
        return ClusterLostError(
            f"the Ray head at {self.address} has not answered for {SILENCE_S:.0f} s ({self.error}): what is done is "
            "kept; start the cluster, then run the same command again"
        )

    def wait(self, sleep: Callable[[float], None] = time.sleep) -> bool:
        """True once the head answers, False if it does not within SILENCE_S."""
        while self.silence() <= SILENCE_S:
            if self.error is None:
                return True
            sleep(ASK_EVERY_S / 2)
        return False

    def _ask(self) -> OSError | None:
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
        except OSError as error:
            return error
        return None


_joined: Head | None = None


def joined_head() -> Head:
    """The head of the Ray that this process has joined."""
    global _joined
    head = Head(ray.get_runtime_context().gcs_address)
    if _joined is None or _joined.address != head.address:
        _joined = head
    return _joined


def check_cluster() -> None:
    """Raise ClusterLostError once the head has not answered for SILENCE_S."""
    head = joined_head()
    if head.silence() > SILENCE_S:
        raise head.lost()


def await_cluster() -> None:
    """Return once the head answers, ClusterLostError if it does not within SILENCE_S: all else follows from that."""
    head = joined_head()
    if not head.wait():
        raise head.lost()


@contextmanager
def leave_without_head(head: Head, leave: Callable[[int], None] = os._exit) -> Iterator[None]:
    """While in the block, end the process if the head is silent for SILENCE_S + GRACE_S."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(ASK_EVERY_S):
            if head.silence() > SILENCE_S + GRACE_S:
                error = head.lost()
                complain(f"error: {error}")
                leave(error.exit_code)
                return

    thread = threading.Thread(target=watch, name=f"watch {head.address}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
