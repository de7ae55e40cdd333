"""A bounded cache for many threads: what several ask for at once is loaded once, and the least recently used goes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from cachetools import LRUCache

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class SingleFlight(Generic[_K, _V]):
    """The ``capacity`` most recently used values of ``load``. A load that fails is raised to all who wait, not kept."""

    def __init__(self, load: Callable[[_K], _V], capacity: int, threads: int = 4) -> None:
        self._load = load
        self._threads = threads
        self._lock = threading.Lock()
        self._values: LRUCache[_K, _V] = LRUCache(capacity)
        self._flying: dict[_K, Future[_V]] = {}

    @property
    def capacity(self) -> int:
        """How many values are kept."""
        return int(self._values.maxsize)

    def resize(self, capacity: int) -> None:
        """Keep ``capacity`` values from now on."""
        with self._lock:
            if capacity == self.capacity:
                return
            kept: LRUCache[_K, _V] = LRUCache(capacity)
            for key in list(self._values)[-capacity:]:
                kept[key] = self._values[key]
            self._values = kept

    def get(self, key: _K) -> _V:
        """The value of ``key``: kept, loaded here, or by the thread that asked first. Raises what ``load`` raises."""
        with self._lock:
            if key in self._values:
                return self._values[key]
            future = self._flying.get(key)
            mine = future is None
            if future is None:
                future = self._flying[key] = Future()
        if mine:
            try:
                value = self._load(key)
            except BaseException as error:
                with self._lock:  # the next caller tries afresh: the object may have been repaired
                    del self._flying[key]
                future.set_exception(error)
                raise
            with self._lock:
                del self._flying[key]
                self._values[key] = value
            future.set_result(value)
        return future.result()

    def get_all(self, keys: Sequence[_K]) -> list[_V]:
        """The values of ``keys``, distinct and at most ``capacity`` of them; absent ones are loaded several at once."""
        with self._lock:  # the usual case, under one lock
            if all(key in self._values for key in keys):
                return [self._values[key] for key in keys]
        if len(keys) == 1:
            return [self.get(keys[0])]
        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(self.get, keys))
