"""A bounded cache for many threads: what several ask for at once is loaded once, and the least recently used goes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class SingleFlight(Generic[_K, _V]):
    """The ``capacity`` most recently used values of ``load``. A load that fails is raised to all who wait, not kept."""

    def __init__(self, load: Callable[[_K], _V], capacity: int) -> None:
        self._load = load
        self._capacity = capacity
        self._lock = threading.Lock()
        self._values: OrderedDict[_K, Future[_V]] = OrderedDict()

    def __contains__(self, key: _K) -> bool:
        """Whether ``key`` is loaded or being loaded."""
        with self._lock:
            return key in self._values

    def get(self, key: _K) -> _V:
        """The value of ``key``: loaded here, or by the thread that asked first. Raises what ``load`` raises."""
        with self._lock:
            future = self._values.get(key)
            mine = future is None
            if future is None:
                future = self._values[key] = Future()
                while len(self._values) > self._capacity:
                    self._values.popitem(last=False)
            else:
                self._values.move_to_end(key)
        if mine:
            try:
                future.set_result(self._load(key))
            except BaseException as error:
                with self._lock:  # the next caller tries afresh: the object may have been repaired
                    if self._values.get(key) is future:
                        del self._values[key]
                future.set_exception(error)
                raise
        return future.result()
