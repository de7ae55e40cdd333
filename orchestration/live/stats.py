"""What a live run counts: tokens made and taken, time starved and throttled, and the buffer's depth over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SAMPLES = 240
FIRST_INTERVAL_S = 0.5

COLUMNS = ("seconds", "shard_bytes", "batch_bytes", "generated_tokens", "consumed_tokens", "starvation_s")


class Timeline:
    """Rows of ``COLUMNS`` at even intervals that double whenever there are ``SAMPLES`` of them: of bounded size."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = []
        self._interval = FIRST_INTERVAL_S

    def add(self, row: list[float]) -> None:
        """Keep ``row`` unless the last one kept is nearer than the interval."""
        if self.rows and row[0] - self.rows[-1][0] < self._interval:
            return
        self.rows.append(row)
        if len(self.rows) >= SAMPLES:
            self.rows = self.rows[::2]
            self._interval *= 2


class LiveRecord:
    """Sums over all ranks and actors since the feed was started; ``clock`` counts seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start = clock()
        self._generated, self._written, self._reused, self._last_made = 0, 0, 0, 0.0
        self._consumed, self._first_take, self._last_take = 0, 0.0, 0.0
        self._first_wait: dict[int, float] = {}
        self._starved: dict[int, float] = {}
        self._throttled_s, self._throttled_since = 0.0, -1.0
        self._peak = 0
        self._timeline = Timeline()
        self._last_row: list[float] = []

    def made(self, tokens: int, written: bool) -> None:
        """A shard of ``tokens`` tokens is there, ``written`` now rather than found."""
        self._last_made = self._now()
        self._written += written
        self._reused += not written
        self._generated += tokens if written else 0

    def took(self, rank: int, tokens: int, waited_s: float) -> None:
        """``rank`` took ``tokens`` tokens, after waiting for them; a rank's first wait is its stream's start-up."""
        self._last_take = self._now()
        self._consumed += tokens
        if rank in self._first_wait:
            self._starved[rank] = self._starved.get(rank, 0.0) + waited_s
        else:
            self._first_wait[rank] = waited_s
            self._first_take = self._first_take or self._last_take

    def throttled(self, now_is: bool) -> None:
        """From now on generators could work but for the bound, or not any more."""
        self._throttled_s = self._throttled_so_far()
        self._throttled_since = self._now() if now_is else -1.0

    def sample(self, ahead: int, held: int, batches: int) -> None:
        """The buffer now: bytes of shards not used yet, of all shards held, and of batches not taken."""
        self._peak = max(self._peak, held + batches)
        starved = round(max(self._starved.values(), default=0.0), 3)
        self._last_row = [round(self._now(), 2), ahead, batches, self._generated, self._consumed, starved]
        self._timeline.add(self._last_row)

    def facts(self) -> dict[str, Any]:
        """All of it as JSON; ``peak_bytes`` is the most that was ever held in shards and batches together."""
        taking = self._last_take - self._first_take
        rows = self._timeline.rows
        return {
            "shards_written": self._written,
            "shards_reused": self._reused,
            "generated_tokens": self._generated,
            "generated_tokens_per_s": _rate(self._generated, self._last_made),
            "consumed_tokens": self._consumed,
            "consumed_tokens_per_s": _rate(self._consumed, taking),
            "first_batch_s": round(max(self._first_wait.values(), default=0.0), 3),
            "starvation_s": round(max(self._starved.values(), default=0.0), 3),
            "throttled_s": round(self._throttled_so_far(), 3),
            "peak_bytes": self._peak,
            "columns": list(COLUMNS),
            "timeline": [*rows, self._last_row] if rows and rows[-1] != self._last_row else rows,
        }

    def _throttled_so_far(self) -> float:
        return self._throttled_s + (self._now() - self._throttled_since if self._throttled_since >= 0 else 0.0)

    def _now(self) -> float:
        return self._clock() - self._start


def _rate(tokens: int, seconds: float) -> float:
    return round(tokens / seconds, 1) if seconds > 0 else 0.0
