"""When to ask a store again: few times, at random moments, and not at all once it is clear that asking is the problem.

``RetryPolicy`` and ``RetryBudget`` bound what one call is worth; a ``RetryDeadline``, where there is one, goes on after
them for a stated number of seconds. This is the only layer that repeats: boto3's own retries are off.

Many readers that start at once meet an overloaded server together; waiting a random time up to a growing bound spreads
them out, and a budget shared by all threads of a store keeps retries a small share of what the server has to serve.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
)

from datalake.clock import System
from datalake.errors import CorruptShardError, DatalakeError, StoreUnavailableError

_T = TypeVar("_T")

WAIT_BASE = 0.25


@dataclass(frozen=True)
class RetryPolicy:
    """Up to ``attempts`` calls; before the n-th repetition a random wait up to min(cap, base * 2**n) seconds.

    The defaults wait 18 s on average before they give up, 36 at most: longer than a server takes to start again.
    """

    attempts: int = 10
    base: float = 0.2
    cap: float = 8.0


class RetryBudget:
    """A token bucket for all calls on one store: a retry takes 1, a success returns ``earned``, up to ``capacity``."""

    def __init__(self, capacity: float = 300.0, earned: float = 0.2) -> None:
        self._capacity = capacity
        self._earned = earned
        self._left = capacity
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Pay for one retry. False: the bucket is empty, give up now."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True

    def succeeded(self) -> None:
        """Note a call that was answered."""
        with self._lock:
            self._left = min(self._capacity, self._left + self._earned)


def repeat(
    call: Callable[[], _T],
    may_pass: Callable[[BaseException], bool],
    policy: RetryPolicy,
    budget: RetryBudget,
    system: System,
    on_retry: Callable[[int, Exception], None],
) -> _T:
    """Run ``call``, again after errors that ``may_pass``, within ``policy`` and ``budget``; raises its last error.

    ``on_retry(attempt, error)`` is told before each repetition.
    """

    def note(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        assert isinstance(error, Exception), "called after a failure that may pass"
        on_retry(state.attempt_number, error)

    again = Retrying(
        retry=retry_if_exception(may_pass),
        stop=lambda state: state.attempt_number >= policy.attempts or not budget.take(),
        wait=lambda state: system.delay(state.attempt_number - 1, policy.base, policy.cap),
        sleep=system.sleep,
        before_sleep=note,
        reraise=True,
    )
    result = again(call)
    budget.succeeded()
    return result


OnWait = Callable[[float | None, str], None]
"""``on_wait(None, reason)``: a wait begins; ``on_wait(seconds, reason)``: it lasted so long, and is over."""


def _nobody(_seconds: float | None, _reason: str) -> None:
    pass


class RetryDeadline:
    """``seconds`` that the threads of one process may wait in all; what several wait for at once counts once.

    Picklable: a copy has all its seconds again and tells nobody.
    """

    def __init__(self, seconds: float, system: System, on_wait: OnWait = _nobody) -> None:
        self.seconds = seconds
        self._system = system
        self._on_wait = on_wait
        self._lock = threading.Lock()
        self._waiting = 0
        self._spent = 0.0
        self._counted_to = -float("inf")  # what was waited for until then is in ``_spent``

    def __reduce__(self) -> tuple[type[RetryDeadline], tuple[float, System]]:
        return RetryDeadline, (self.seconds, self._system)

    def retry_until(
        self, call: Callable[[], _T], error: type[StoreUnavailableError | CorruptShardError] = StoreUnavailableError
    ) -> _T:
        """What ``call`` returns once it no longer raises ``error``; that error, and what was waited, if it still does
        when the seconds are spent."""
        began = self._system.monotonic()
        try:
            return call()
        except error as found:
            reason = str(found)
            if self._spent_by_now(began) >= self.seconds:
                self._end(found)
                raise
        with self._reporting(began, reason):
            self._system.pause(0, base=WAIT_BASE)
            again = Retrying(
                retry=retry_if_exception_type(error),
                stop=lambda _: self._spent_by_now(began) >= self.seconds,
                wait=lambda state: self._system.delay(state.attempt_number, base=WAIT_BASE),
                sleep=self._system.sleep,
                reraise=True,
            )
            try:
                return again(call)
            except error as found:
                self._end(found)
                raise

    def _end(self, error: DatalakeError) -> None:
        """Let the error say what was done about it."""
        error.args = (f"{error}; the {self.seconds:g} s that may be waited for it are spent", *error.args[1:])

    def _spent_by_now(self, began: float) -> float:
        with self._lock:
            return self._spent + self._system.monotonic() - max(began, self._counted_to)

    @contextmanager
    def _reporting(self, began: float, reason: str) -> Iterator[None]:
        """Tell when the first thread begins to wait, and what each one's waiting has added to the seconds spent."""
        with self._lock:
            self._waiting += 1
            first = self._waiting == 1
        if first:
            self._on_wait(None, reason)
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                now = self._system.monotonic()
                fresh = now - max(began, self._counted_to)
                self._spent += fresh
                self._counted_to = now
        self._on_wait(fresh, reason)
