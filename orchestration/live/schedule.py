"""Which shard to make next while a run reads them: the plan's order of first use, within a bound in bytes.

Pure bookkeeping with neither Ray nor clock, so that any order of events can be tried. A shard counts against the bound
from when its making begins. Once every rank has taken the step that first uses it, it is held only while there is room:
the lake has it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from datalake import Manifest, Plan
from orchestration.errors import InvalidRequestError

P = TypeVar("P")

# One loading task's rows: large enough that its overhead vanishes, small enough that the first batch comes soon.
TASK_BYTES = 1 << 20


@dataclass(frozen=True)
class Order:
    """A shard to make. ``step`` is the first that uses it; None if no step left does, and it is made for the commit."""

    first: int
    rows: int
    step: int | None


@dataclass
class _Buffered(Generic[P]):
    step: int
    size: int
    payload: P | None = None


class Schedule(Generic[P]):
    """Orders for the shards of source ``source`` of ``plan``, and what has been made of them.

    ``bound`` limits the bytes of the token rows that are being made or held. Of a run of ``steps`` steps, the first
    ``taken`` have been taken by every rank.
    """

    def __init__(self, plan: Plan, source: int, planned: Manifest, steps: int, bound: int) -> None:
        self.bound = bound
        self.taken = 0
        self.made: set[int] = set()
        self._plan, self._source, self._steps = plan, source, steps
        self._sequences, self._shard = planned.sequences, planned.source.shard_sequences
        self._row_bytes = planned.seq_len * planned.token_dtype.itemsize
        self._shards = math.ceil(self._sequences / self._shard)
        self._buffered: dict[int, _Buffered[P]] = {}
        self._making: set[int] = set()
        self._ordered: set[int] = set()
        self._waiting: deque[Order] = deque()
        self._cursor = 0  # next step to look at for shards not used before
        self._tail = 0  # next shard to look at once no step is left

    @property
    def complete(self) -> bool:
        """Whether every shard has been made."""
        return len(self.made) == self._shards

    @property
    def all_ordered(self) -> bool:
        """Whether every shard has been made or is being made."""
        return len(self._ordered) == self._shards and not self._waiting

    @property
    def held_bytes(self) -> int:
        """Bytes being made or held; never above ``bound``."""
        return sum(shard.size for shard in self._buffered.values())

    @property
    def ahead_bytes(self) -> int:
        """Those of them that no step taken so far has used."""
        return sum(shard.size for shard in self._buffered.values() if shard.step >= self.taken)

    def begin(self, step: int) -> None:
        """(Re)start at ``step``, from which on a new attempt reads; what is made or being made stays so."""
        if step == self.taken:
            return
        self.taken = self._cursor = step
        self._tail = 0
        self._waiting.clear()
        self._ordered = self.made | self._making
        for shard in self._buffered.values():  # another attempt's order: not to stand in the way of what this one needs
            shard.step = -1

    def take(self, step: int) -> None:
        """Every rank has the batches of all steps before ``step``."""
        self.taken = step

    def next(self) -> Order | None:
        """The next shard to make; None while the bound forbids it, or if all have been ordered."""
        self._look_ahead()
        if not self._waiting:
            return None
        order = self._waiting[0]
        if order.step is not None:
            size = order.rows * self._row_bytes
            if not self._make_room(size):
                return None
            self._buffered[order.first] = _Buffered(order.step, size)
        self._making.add(order.first)
        return self._waiting.popleft()

    def fill(self, order: Order, payload: P | None) -> None:
        """``order`` is made; ``payload`` is how to get at its rows, dropped when room is needed."""
        self._making.remove(order.first)
        self.made.add(order.first)
        if order.first in self._buffered:
            self._buffered[order.first].payload = payload

    def payload(self, first: int) -> P | None:
        """The payload of the shard at ``first``, None if it is no longer (or was never) held."""
        shard = self._buffered.get(first)
        return shard.payload if shard else None

    def _look_ahead(self) -> None:
        """Put the next shards in line, if none is: those that the nearest step needs, or the next one of the rest."""
        while not self._waiting and self._cursor < self._steps and len(self._ordered) < self._shards:
            rows_B2 = self._plan.rows(self._cursor)
            mine = rows_B2[rows_B2[:, 0] == self._source, 1]
            for first in dict.fromkeys((mine // self._shard * self._shard).tolist()):
                self._append(first, self._cursor)
            self._cursor += 1
        while not self._waiting and self._tail < self._sequences:
            self._append(self._tail, None)
            self._tail += self._shard

    def _append(self, first: int, step: int | None) -> None:
        if first not in self._ordered:
            self._ordered.add(first)
            self._waiting.append(Order(first, min(self._shard, self._sequences - first), step))

    def _make_room(self, size: int) -> bool:
        """Let go of used shards, those held longest first, until ``size`` more bytes fit; whether they do."""
        used = [first for first, shard in self._buffered.items() if shard.step < self.taken and first in self.made]
        total = self.held_bytes
        if total - sum(self._buffered[first].size for first in used) + size > self.bound:
            return False
        for first in used:
            if total + size <= self.bound:
                break
            total -= self._buffered.pop(first).size
        return True


def steps_per_task(plan: Plan, planned: Manifest, shards_bound: int, batches_bound: int, token_bytes: int) -> int:
    """Steps that one loading task takes: whatever they are, the shards they need and their batches fit the bounds.

    ``token_bytes`` is what a token takes in a batch, which may be of a mixture with wider tokens than the planned ones.
    So the trainer can never wait for a shard that the bound forbids. Raises InvalidRequestError if one step does not.
    """
    batch_bytes = plan.batch * planned.seq_len * token_bytes
    steps = max(1, TASK_BYTES // batch_bytes)
    while steps > 1 and (_shard_bytes(plan, planned, steps) > shards_bound or steps * batch_bytes > batches_bound):
        steps //= 2
    least = max(_shard_bytes(plan, planned, 1), batch_bytes)
    if least > min(shards_bound, batches_bound):
        raise InvalidRequestError(
            f"buffer_bytes = {shards_bound + batches_bound}: one step may need {_shard_bytes(plan, planned, 1)} bytes "
            f"of shards and {batch_bytes} of batch, each in one half of it; give at least {2 * least}, or make "
            f"shard_sequences = {planned.source.shard_sequences} smaller"
        )
    return steps


def _shard_bytes(plan: Plan, planned: Manifest, steps: int) -> int:
    """An upper limit of the bytes of shards that any ``steps`` consecutive steps read rows of."""
    shard = planned.source.shard_sequences
    rows = steps * plan.batch
    span = plan.block_rows * plan.window_blocks
    if plan.lanes is None:
        windows = math.ceil(rows / span) + 1
    else:  # in each epoch a lane begins within a window and ends there, and goes round from its stretch's end
        of_lane, stretch = rows // plan.lanes, max(1, planned.sequences // plan.lanes)
        windows = plan.lanes * (math.ceil(of_lane / span) + 3 * (of_lane // stretch + 2))
    per_window = plan.window_blocks * (math.ceil(plan.block_rows / shard) + 2)
    shards = min(rows, windows * per_window, math.ceil(planned.sequences / shard))
    return shards * shard * planned.seq_len * planned.token_dtype.itemsize
