"""The plan: which rows make up the global batch of any step, as a pure function evaluated in O(batch).

There are two orders. In version 2, which is in ``datalake.plan.lanes``, a rank reads its share of the data and no more.
In version 1, which is here, every rank reads everything: each source is read in epochs, whose order has two levels, so
that reading stays local while order is random. Rows are cut into blocks, blocks are permuted across the whole source,
and rows are permuted within a window of consecutive permuted blocks. Before that, rows are rotated by a random amount
per epoch, so that block edges, and the short block at the end, fall elsewhere each time. In both, nothing depends on
the world size: a rank takes a slice of the global batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from datalake.canonical import digest_of
from datalake.errors import PlanError
from datalake.plan.lanes import LaneOrder
from datalake.plan.mixture import Mixture
from datalake.plan.permutation import derive_key, permute

_WITHOUT_LANES, _WITH_LANES = 1, 2  # part of the digest: another order must not pass for this one
_ROTATION, _BLOCKS, _ROWS, _SLOTS = range(4)  # what a key is for


@dataclass(frozen=True)
class PlanSource:
    """A dataset in a plan: ``rows`` in it, its ``weight`` in the mixture, and the ``digest`` of its manifest."""

    rows: int
    weight: float = 1.0
    digest: str = ""


class Position(NamedTuple):
    """How far a source has been read: whole ``epoch``s, and rows of the current one."""

    epoch: int
    row: int


class Plan:
    """Rows by step.

    ``batch`` is the global batch in rows. ``schedule`` lists ``(from_step, weights)`` changes of the mixture, steps
    rising from above 0; before the first the sources' own weights hold. ``block_rows`` * ``window_blocks`` rows are
    shuffled finely; a reader that keeps that many rows at hand fetches each shard about once per epoch.

    With ``lanes``, which must divide ``batch``, the order is version 2: each lane reads blocks of its own, a window of
    them at a time, so a process reads well with the windows of its lanes at hand, if blocks are what it fetches. The
    default is version 1, in which runs of before go on. Raises PlanError for values out of range.
    """

    def __init__(
        self,
        sources: Sequence[PlanSource],
        seed: int,
        batch: int,
        schedule: Sequence[tuple[int, Sequence[float]]] = (),
        *,
        block_rows: int = 256,
        window_blocks: int = 16,
        lanes: int | None = None,
    ) -> None:
        self.sources = tuple(sources)
        self.seed = seed
        self.batch = batch
        self.schedule = tuple((int(step), tuple(map(float, weights))) for step, weights in schedule)
        self.block_rows = block_rows
        self.window_blocks = window_blocks
        self.lanes = lanes
        self._check()
        mixtures = ((0, tuple(source.weight for source in self.sources)), *self.schedule)
        self._by_lanes = None
        if lanes is not None:
            rows = [source.rows for source in self.sources]
            blocks = {"block_rows": block_rows, "window_blocks": window_blocks}
            self._by_lanes = LaneOrder(rows, seed, batch, mixtures, **blocks, lanes=lanes)
            return
        # One mixture per range of steps with constant weights: first step, rows of each source read before, mixture.
        self._step_ranges: list[tuple[int, np.ndarray, Mixture]] = []
        before = np.zeros(len(self.sources), dtype=np.int64)
        for step, weights in mixtures:
            if self._step_ranges:
                start, _, mixture = self._step_ranges[-1]
                before = before + mixture.before(step - start)
            self._step_ranges.append((step, before, Mixture(weights, batch)))

    def __reduce__(self) -> tuple[Any, ...]:
        blocks = (self.block_rows, self.window_blocks, self.lanes)
        return _rebuild, (self.sources, self.seed, self.batch, self.schedule, *blocks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.describe() == other.describe()

    def __hash__(self) -> int:
        return hash(self.digest)

    def describe(self) -> dict[str, Any]:
        """Everything the plan depends on, as JSON."""
        return {
            "algorithm": _WITHOUT_LANES if self.lanes is None else _WITH_LANES,
            "sources": [[source.rows, float(source.weight), source.digest] for source in self.sources],
            "seed": self.seed,
            "batch": self.batch,
            "schedule": [[step, list(weights)] for step, weights in self.schedule],
            "block_rows": self.block_rows,
            "window_blocks": self.window_blocks,
            **({} if self.lanes is None else {"lanes": self.lanes}),
        }

    @property
    def digest(self) -> str:
        """SHA-256 of ``describe()``: plans with equal digests give equal rows."""
        return digest_of(self.describe())

    def rows(self, step: int) -> np.ndarray:
        """The global batch of ``step``: int64 [batch, 2] of (source index, row index)."""
        return self.step_range(range(step, step + 1))[0]

    def step_range(self, steps: range) -> np.ndarray:
        """``rows`` of one step after the other, far quicker than asking for each: int64 [steps, batch, 2]."""
        if steps.step != 1 or not steps:
            raise PlanError(f"steps are {steps}: give one or more, one after the other")
        if self._by_lanes is not None:
            return self._part(self._by_lanes, steps, 0, self.batch)
        counted = [self._counts(step) for step in steps]
        first, counts = counted[0][0], np.stack([counts for _, counts in counted])
        source = np.repeat(np.tile(np.arange(len(self.sources)), len(steps)), counts.ravel())
        row = np.empty(len(source), dtype=np.int64)
        for s, count in enumerate(counts.sum(axis=0)):
            row[source == s] = self._source_rows(s, int(first[s]), int(count))
        batches = np.stack([source, row], axis=1).reshape(len(steps), self.batch, 2)
        if len(self.sources) > 1:  # or else rank 0 would get the first source and the last rank the last
            keys = np.repeat(derive_key(self.seed, _SLOTS, np.asarray(steps)), self.batch)
            slots = permute(np.tile(np.arange(self.batch), len(steps)), self.batch, keys).reshape(len(steps), -1, 1)
            batches = np.take_along_axis(batches, slots, axis=1)
        return batches

    def rank_rows(self, step: int, world: int, rank: int) -> np.ndarray:
        """The part of ``rows(step)`` that rank ``rank`` of ``world`` takes: int64 [about batch / world, 2].

        The parts of ranks 0 … world-1 in order make the global batch; they differ by at most one row in length.
        """
        return self.rank_step_range(range(step, step + 1), world, rank)

    def rank_step_range(self, steps: range, world: int, rank: int) -> np.ndarray:
        """``rank_rows`` of one step after the other: int64 [steps · about batch / world, 2]."""
        if not 0 <= rank < world:
            raise PlanError(f"rank is {rank} of world {world}: give 0 to world - 1")
        first, stop = rank * self.batch // world, (rank + 1) * self.batch // world
        if self._by_lanes is not None:
            return self._part(self._by_lanes, steps, first, stop).reshape(-1, 2)
        return self.step_range(steps)[:, first:stop].reshape(-1, 2)

    def position(self, step: int) -> tuple[Position, ...]:
        """How far each source has been read before ``step``."""
        self._check_step(step)
        before = self._counts(step)[0] if self._by_lanes is None else self._by_lanes.counts_before(step)
        return tuple(
            Position(*divmod(int(count), source.rows)) for count, source in zip(before, self.sources, strict=True)
        )

    def _counts(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of each source before ``step`` and in it: two int64 [S]."""
        self._check_step(step)
        start, before, mixture = next(step_range for step_range in reversed(self._step_ranges) if step_range[0] <= step)
        return before + mixture.before(step - start), mixture.counts(step - start)

    def _check_step(self, step: int) -> None:
        if step < 0:
            raise PlanError(f"step is {step}: steps count from 0")

    def _part(self, order: LaneOrder, steps: range, first: int, stop: int) -> np.ndarray:
        """Rows ``first`` … ``stop - 1`` of the batches of ``steps``, one after the other: int64 [steps, rows, 2]."""
        self._check_step(steps.start)
        if steps.step != 1 or not steps:
            raise PlanError(f"steps are {steps}: give one or more, one after the other")
        return order.step_range(steps, first, stop)

    def _source_rows(self, source: int, first: int, count: int) -> np.ndarray:
        """Row indices at places ``first`` … of a source's endless order: int64 [count]."""
        size = self.sources[source].rows
        epoch, place = np.divmod(np.arange(first, first + count, dtype=np.int64), size)
        span = self.block_rows * self.window_blocks
        window = place // span
        start = window * span
        within = permute(
            place - start, np.minimum(span, size - start), derive_key(self.seed, _ROWS, source, epoch, window)
        )
        block, offset = np.divmod(start + within, self.block_rows)
        full = size // self.block_rows
        if full > 1:  # the short block stays last in its epoch; the rotation decides which rows it holds
            inside = np.flatnonzero(block < full)
            keys = derive_key(self.seed, _BLOCKS, source, epoch[inside])
            block[inside] = permute(block[inside], full, keys)
        rotation = derive_key(self.seed, _ROTATION, source, epoch) % np.uint64(size)
        return (block * self.block_rows + offset + rotation.astype(np.int64)) % size

    def _check(self) -> None:
        if not self.sources or any(source.rows < 1 for source in self.sources):
            raise PlanError(
                f"sources have rows {[source.rows for source in self.sources]}: give one or more, none empty"
            )
        for name, value, low, high in (
            ("seed", self.seed, 0, 2**63 - 1),
            ("batch", self.batch, 1, 2**20),
            ("block_rows", self.block_rows, 1, 2**20),
            ("window_blocks", self.window_blocks, 1, 2**20),
        ):
            if not low <= value <= high:
                raise PlanError(f"{name} is {value}: give {low} to {high}")
        if self.lanes is not None and (self.lanes < 1 or self.batch % self.lanes):
            raise PlanError(f"lanes is {self.lanes}: give a divisor of the batch of {self.batch} rows")
        steps = [0, *(step for step, _ in self.schedule)]
        if any(later <= earlier for earlier, later in pairwise(steps)):
            raise PlanError(f"schedule steps are {steps[1:]}: give rising steps above 0")
        for step, weights in self.schedule:
            if len(weights) != len(self.sources):
                raise PlanError(f"schedule at step {step} has {len(weights)} weights for {len(self.sources)} sources")


def _rebuild(
    sources: Sequence[PlanSource],
    seed: int,
    batch: int,
    schedule: Any,
    block_rows: int,
    window_blocks: int,
    lanes: int | None,
) -> Plan:
    return Plan(sources, seed, batch, schedule, block_rows=block_rows, window_blocks=window_blocks, lanes=lanes)
