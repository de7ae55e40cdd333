"""How fast a job goes, from what it says of its progress."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 60.0


class Speed:
    """The rate over the last minute: ``see`` each new count, and get units per second, or None while unknown."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._seen: deque[tuple[float, float]] = deque()
        self._unit = ""

    def see(self, done: float, unit: str) -> float | None:
        """The rate with this count in it. Another unit, or a smaller count, begins anew."""
        now = self._monotonic()
        if self._seen and (unit != self._unit or done < self._seen[-1][1]):
            self._seen.clear()
        self._unit = unit
        if self._seen and now - self._seen[-1][0] < 0.5 and len(self._seen) > 1:
            self._seen.pop()  # a job may count a thousand times a second: twice is enough
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW_S:
            self._seen.popleft()
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_s - first_s) if last_s - first_s >= 0.5 and last > first else None
