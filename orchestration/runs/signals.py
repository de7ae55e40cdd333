"""How a job is told to stop: by a signal or by a person; both end in a checkpoint and in the exit code of its reason.

SIGTERM is what a preempted node or `ray job stop` sends, and a kill follows it: the job has `GRACE_S` to end by itself.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from orchestration.errors import InvalidRequestError, JobStopped

ASKED = 3
"""Exit code of a job that was asked to stop; one that a signal stopped exits with 128 + the signal's number."""

GRACE_S = 25.0  # Kubernetes kills 30 s after its SIGTERM


class Stop:
    """A wish to stop. The first reason stays. Setting it is safe in a signal handler: no lock is taken."""

    def __init__(self) -> None:
        self.reason = ""
        self.exit_code = 0

    def ask(self, reason: str, exit_code: int = ASKED) -> None:
        """Wish the job to stop, unless somebody has already."""
        if not self.exit_code:
            self.reason, self.exit_code = reason, exit_code

    def is_set(self) -> bool:
        return self.exit_code != 0

    def check(self, said: str) -> None:
        """If it is set raise JobStopped: ``stopped (REASON)`` and then ``said``, what that means for the work."""
        if self.is_set():
            raise JobStopped(f"stopped ({self.reason}){said}", self.exit_code, self.reason)

    def error(self, run: str, where: str) -> JobStopped:
        """What a job raises once it has stopped; ``where`` says how far it is."""
        return JobStopped(
            f"stopped ({self.reason}): run {run} {where}; `morphogen runs resume {run}` or the same command goes on",
            exit_code=self.exit_code or ASKED,
            reason=self.reason,
        )


class GraceOver(BaseException):
    """The time between SIGTERM and the kill is nearly over: leave at once, whatever is under way."""


@contextmanager
def unwrapping() -> Iterator[None]:
    """Raise as itself an interruption that compiled code has made a SystemError of, as Ray's does while it waits."""
    try:
        yield
    except SystemError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, GraceOver | KeyboardInterrupt):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from None


def grace_seconds() -> float:
    """`MORPHOGEN_GRACE_S`: seconds from SIGTERM to the end. Raises InvalidRequestError if it is no positive number."""
    expected = "expected seconds, more than 0; 25 is the default"
    return seconds_setting("MORPHOGEN_GRACE_S", GRACE_S, lambda seconds: 0 < seconds < 86_400, expected)


def seconds_setting(name: str, default: float, fits: Callable[[float], bool], expected: str) -> float:
    """The environment variable ``name`` as seconds that ``fits`` takes, else InvalidRequestError saying ``expected``.

    What is no number counts as 0, which no setting takes.
    """
    text = os.environ.get(name, str(default))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not fits(seconds):
        raise InvalidRequestError(f"{name} = {text!r}: {expected}")
    return seconds


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Turn SIGTERM and SIGINT into a wish to stop. A second SIGINT raises KeyboardInterrupt, a grace that is over
    GraceOver, both in the main thread. Elsewhere than in the main thread nothing is installed."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    grace_s = grace_seconds()

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and stop.is_set():
            raise KeyboardInterrupt
        stop.ask(signal.Signals(number).name, 128 + number)
        if number == signal.SIGTERM:
            signal.setitimer(signal.ITIMER_REAL, grace_s)

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise GraceOver

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, give_up)
    try:
        yield stop
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
