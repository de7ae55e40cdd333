"""Waiting for a store that does not answer: calls are tried again until a stated number of seconds is spent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar

from datalake.clock import System
from datalake.errors import CorruptShardError, DatalakeError, StoreUnavailableError
from datalake.store.content import Content
from datalake.store.interface import ObjectInfo, Store

_T = TypeVar("_T")

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
            for attempt in count():
                self._system.pause(attempt, base=0.25)
                try:
                    return call()
                except error as found:
                    if self._spent_by_now(began) >= self.seconds:
                        self._end(found)
                        raise
        raise AssertionError("unreachable: the loop returns or raises")

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


class RetryingStore:
    """A store whose calls are repeated, within ``deadline``, while the server does not answer. See ``store.Store``."""

    def __init__(self, store: Store, deadline: RetryDeadline) -> None:
        self._store = store
        self._deadline = deadline

    def __repr__(self) -> str:
        return f"RetryingStore({self._store!r})"

    @property
    def uri(self) -> str:
        return self._store.uri

    def put_if_absent(self, key: str, data: Content) -> bool:
        return self._deadline.retry_until(lambda: self._store.put_if_absent(key, data))

    def get(self, key: str) -> bytes:
        return self._deadline.retry_until(lambda: self._store.get(key))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._deadline.retry_until(lambda: self._store.get_range(key, start, length))

    def exists(self, key: str) -> bool:
        return self._deadline.retry_until(lambda: self._store.exists(key))

    def size(self, key: str) -> int:
        return self._deadline.retry_until(lambda: self._store.size(key))

    def list(self, prefix: str = "", start_after: str = "", limit: int | None = None) -> Iterator[str]:
        return iter(self._deadline.retry_until(lambda: [*self._store.list(prefix, start_after, limit)]))

    def infos(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return iter(self._deadline.retry_until(lambda: [*self._store.infos(prefix)]))

    def leftovers(self) -> Iterator[ObjectInfo]:
        return iter(self._deadline.retry_until(lambda: [*self._store.leftovers()]))

    def discard(self, leftover: str) -> None:
        self._deadline.retry_until(lambda: self._store.discard(leftover))

    def children(self, prefix: str = "") -> Iterator[str]:
        return iter(self._deadline.retry_until(lambda: [*self._store.children(prefix)]))

    def replace(self, key: str, data: bytes) -> None:
        self._deadline.retry_until(lambda: self._store.replace(key, data))

    def delete(self, key: str) -> None:
        self._deadline.retry_until(lambda: self._store.delete(key))

    def check(self) -> None:
        self._deadline.retry_until(self._store.check)

    def presigned_url(self, key: str, seconds: int, filename: str) -> str | None:
        return self._store.presigned_url(key, seconds, filename)

    def arrow_filesystem(self) -> tuple[Any, str]:
        return self._store.arrow_filesystem()
