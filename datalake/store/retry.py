"""When to ask a store again: few times, at random moments, and not at all once it is clear that asking is the problem.

Many readers that start at once meet an overloaded server together; waiting a random time up to a growing bound spreads
them out, and a budget shared by all threads of a store keeps retries a small share of what the server has to serve.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass


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
