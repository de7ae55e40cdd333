"""The curve of a run: JSON lines, one chunk per checkpoint, so that a resumed run has each step exactly once.

A chunk is named in the run's log together with the checkpoint it ends at. What a killed attempt logged after its last
checkpoint is lost with it and logged again, to the same bits, by the attempt that resumes there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

Record = dict[str, Any]


def encode_records(records: Iterable[Record]) -> bytes:
    """One JSON object a line, keys in the order they were logged; ValueError on NaN or infinity."""
    return b"".join(json.dumps(record, allow_nan=False).encode() + b"\n" for record in records)


class Interval:
    """Throughput between two records; time spent on evaluation and checkpoints is left out by ``reset``."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Start counting now."""
        self._since, self._waited, self._steps = self._clock(), 0.0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the enclosed time as waiting for data, and one step."""
        before = self._clock()
        yield
        self._waited += self._clock() - before
        self._steps += 1

    def rates(self, batch_tokens: int) -> dict[str, float]:
        """``tokens_per_s`` of all ranks together and ``data_wait``, the share of this rank's time; starts anew."""
        seconds = max(self._clock() - self._since, 1e-9)
        rates = {"tokens_per_s": self._steps * batch_tokens / seconds, "data_wait": self._waited / seconds}
        self.reset()
        return rates
