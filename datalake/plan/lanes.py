"""Version 2 of the order of rows: lanes, each of which reads blocks of its own, so that a rank reads its share alone.

A fixed number of lanes L divides the global batch, whatever the world size. An epoch of a source is a permutation of
its blocks, laid end to end and cut into L stretches of equal length: a lane reads one of them, from a random place on
and round, shuffled within windows of a few blocks. A global batch takes as many rows of every lane and is laid out
lane by lane, so the slice of any rank of any world size lies in few lanes, and always in the same ones.

Row ``i`` that lane ``l`` takes of a source is place ``i * L + l`` of the source's endless order; ``place // rows`` is
its epoch. So every row is read once in an epoch, lanes change stretches from one epoch to the next, and with one
source the places of a batch follow those of the batch before. In a mixture lanes take turns: there one may begin an
epoch a few rows before another ends the last.

Which source a slot of the batch reads is a rotation: slot k of step t lies at (k * F + t * A) mod (batch * F) on a
circle that the sources share by their quotas. F steps meet the quotas exactly, and every batch is within one row of its
share; A is near the golden section of the lanes, so that every lane gets its share of each source, too. The rows that
a lane has taken before any step are a count of lattice points, which Euclid's algorithm finds: nothing is stored.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import gcd

import numpy as np

from datalake.plan.mixture import CYCLE, quotas_of
from datalake.plan.permutation import derive_key, permute

MOST_LANES = 1024
_BLOCKS, _ROWS, _BEGIN = range(8, 11)  # what a key is for: none of those of version 1
_GOLDEN = (5**0.5 - 1) / 2


def default_lanes(batch: int) -> int:
    """The largest divisor of ``batch`` up to 1,024."""
    return next(lanes for lanes in range(min(batch, MOST_LANES), 0, -1) if batch % lanes == 0)


def default_window(lanes: int) -> int:
    """Blocks in a window: more where lanes are few, so that a process which reads them all holds equally much."""
    return max(1, MOST_LANES // lanes)


def floor_sum(count: np.ndarray, modulus: int, step: int, start: np.ndarray) -> np.ndarray:
    """Σ floor((step * t + start) / modulus) over t = 0 … count - 1, for each of ``start`` and ``count``.

    These are int64, of shapes that broadcast, from 0 on, with count * step + start below 2^63. The sums are int64
    modulo 2^64, so their differences are right.

    The algorithm is Euclid's: it counts lattice points under a line (Graham, Knuth and Patashnik, "Concrete
    Mathematics", section 3.5).
    """
    total = np.zeros(np.broadcast(count, start).shape, dtype=np.int64)
    left, offset = np.broadcast_to(count, total.shape).copy(), np.broadcast_to(start, total.shape).copy()
    while True:
        # One of two numbers in a row is even, so that halving first loses nothing and does not overflow.
        pairs = np.where(left % 2 == 0, (left // 2) * (left - 1), left * ((left - 1) // 2))
        total += pairs * (step // modulus) + left * (offset // modulus)
        step, offset = step % modulus, offset % modulus
        reach = step * left + offset
        left, offset = reach // modulus, reach % modulus
        if not left.any():
            return total
        modulus, step = step, modulus


@dataclass(frozen=True)
class _Stage:
    """A range of steps with one mixture: the ``first`` of them, and the quotas' edges on the circle, int64 [S + 1]."""

    first: int
    edges: np.ndarray


class LaneOrder:
    """The rows of every step, by lanes. Arguments are those of ``Plan``, checked by it, and ``lanes``, which divides
    ``batch``."""

    def __init__(
        self,
        rows: Sequence[int],
        seed: int,
        batch: int,
        schedule: Sequence[tuple[int, Sequence[float]]],
        *,
        block_rows: int,
        window_blocks: int,
        lanes: int,
    ) -> None:
        self._rows = tuple(rows)
        self._seed, self._batch, self._lanes = seed, batch, lanes
        self._block, self._span = block_rows, block_rows * window_blocks
        self._stages = [
            _Stage(first, np.concatenate([[0], np.cumsum(quotas_of(weights, batch))])) for first, weights in schedule
        ]
        self._circle = batch * CYCLE
        self._turn = _turn_of(lanes, self._circle)

    def counts_before(self, step: int) -> np.ndarray:
        """Rows of each source in all steps before ``step``: int64 [S]."""
        total = np.zeros(len(self._rows), dtype=np.int64)
        for stage, end in self._stages_before(step):
            cycles, rest = divmod(end - stage.first, CYCLE)
            total += cycles * np.diff(stage.edges)
            if rest:
                # At a fine offset f the sources hold the multiples of CYCLE, plus f, that lie between their edges.
                fine = np.arange(rest, dtype=np.int64)[:, None] * self._turn % CYCLE
                total += np.diff(-(-(stage.edges - fine) // CYCLE), axis=1).sum(axis=0)
        return total

    def step_range(self, steps: range, first: int, stop: int) -> np.ndarray:
        """Rows ``first`` … ``stop - 1`` of each batch of ``steps``: int64 [steps, stop - first, 2] (source, row)."""
        each = self._batch // self._lanes
        low, high = first // each, -(-stop // each)
        lanes_L = np.arange(low, high, dtype=np.int64)
        parts = [self._stage_rows(stage, some, lanes_L) for stage, some in self._split(steps)]
        rows = np.concatenate(parts).reshape(len(steps), (high - low) * each, 2)
        return rows[:, first - low * each : stop - low * each]

    def _stage_rows(self, stage: _Stage, steps: range, lanes_L: np.ndarray) -> np.ndarray:
        """The rows that these lanes take in steps of one stage: int64 [steps, lanes, rows of each, 2]."""
        each, sources = self._batch // self._lanes, len(self._rows)
        shape = (len(steps), len(lanes_L), each)
        slot_LR = lanes_L[:, None] + np.arange(each, dtype=np.int64) * self._lanes
        if sources == 1:
            taken = (np.arange(steps.start, steps.stop, dtype=np.int64)[:, None] * each + np.arange(each))[:, None, :]
            row = self._row_at(0, (taken * self._lanes + lanes_L[:, None]).ravel()).reshape(shape)
            return np.stack([np.zeros(shape, dtype=np.int64), row], axis=-1)
        turned_before = (steps.start - stage.first) * self._turn % self._circle  # in Python: no step overflows
        turned = turned_before + np.arange(len(steps), dtype=np.int64) * self._turn
        place_TLR = (slot_LR * CYCLE + turned[:, None, None]) % self._circle
        source_TLR = np.searchsorted(stage.edges, place_TLR, side="right") - 1
        row_TLR = np.empty(shape, dtype=np.int64)
        before_SL = self._lane_counts_before(steps.start, lanes_L)
        for source in range(sources):
            mine_TLR = source_TLR == source
            if not mine_TLR.any():
                continue
            # In the order in which a lane takes them: step by step, slot by slot.
            in_turn = mine_TLR.transpose(1, 0, 2).reshape(len(lanes_L), -1).cumsum(axis=1) - 1
            taken_TLR = in_turn.reshape(len(lanes_L), len(steps), each).transpose(1, 0, 2) + before_SL[source][:, None]
            row_TLR[mine_TLR] = self._row_at(source, (taken_TLR * self._lanes + lanes_L[:, None])[mine_TLR])
        return np.stack([source_TLR, row_TLR], axis=-1)

    def _lane_counts_before(self, step: int, lanes_L: np.ndarray) -> np.ndarray:
        """Rows of each source that these lanes have taken before ``step``: int64 [S, lanes]."""
        found = [
            self._stage_counts(number, end - stage.first, lanes_L)
            for number, (stage, end) in enumerate(self._stages_before(step))
        ]
        return np.sum(found, axis=0) if found else np.zeros((len(self._rows), len(lanes_L)), dtype=np.int64)

    def _stage_counts(self, number: int, steps: int, lanes_L: np.ndarray) -> np.ndarray:
        """Rows of each source that these lanes take in the first steps of a stage: int64 [S, lanes]."""
        if number + 1 < len(self._stages) and self._stages[number].first + steps == self._stages[number + 1].first:
            return self._whole_stages[number][:, lanes_L]
        return self._counted(self._stages[number], steps, lanes_L)

    @cached_property
    def _whole_stages(self) -> list[np.ndarray]:
        """Rows of each source that each lane takes in every stage but the last: int64 [S, L] of each."""
        every_L = np.arange(self._lanes, dtype=np.int64)
        ends = [stage.first for stage in self._stages[1:]]
        return [
            self._counted(stage, end - stage.first, every_L) for stage, end in zip(self._stages, ends, strict=False)
        ]

    def _counted(self, stage: _Stage, steps: int, lanes_L: np.ndarray) -> np.ndarray:
        each = self._batch // self._lanes
        turns, rest = divmod(steps, self._circle)  # every slot is everywhere once in a turn of the circle
        start_LR = (lanes_L[:, None] + np.arange(each, dtype=np.int64) * self._lanes) * CYCLE
        inner = stage.edges[1:-1]
        # A place is below an edge of the circle where these two quotients differ.
        starts = np.concatenate([start_LR[None], start_LR[None] + self._circle - inner[:, None, None]])
        quotients = floor_sum(np.array(rest, dtype=np.int64), self._circle, self._turn, starts)
        below = (quotients[0] - quotients[1:] + rest).sum(axis=2) + each * turns * inner[:, None]
        none_L, all_L = np.zeros_like(lanes_L), np.full_like(lanes_L, each * steps)
        return np.diff(np.concatenate([none_L[None], below, all_L[None]]), axis=0)

    def _row_at(self, source: int, place_N: np.ndarray) -> np.ndarray:
        """Row indices at places of a source's endless order: int64 [N]."""
        size, lanes = self._rows[source], self._lanes
        epoch_N, place_N = np.divmod(place_N, size)
        # Within an epoch a lane reads stretch v; the first ``size % lanes`` stretches are one row longer.
        taken_N, stretch_N = np.divmod(place_N, lanes)
        start_N = stretch_N * (size // lanes) + np.minimum(stretch_N, size % lanes)
        length_N = (size - stretch_N + lanes - 1) // lanes
        begin_N = derive_key(self._seed, _BEGIN, source, epoch_N, stretch_N) % length_N.astype(np.uint64)
        at_N = start_N + (taken_N + begin_N.astype(np.int64)) % length_N
        window_N = at_N // self._span
        low_N = np.maximum(window_N * self._span, start_N)
        high_N = np.minimum((window_N + 1) * self._span, start_N + length_N)
        keys_N = derive_key(self._seed, _ROWS, source, epoch_N, window_N, stretch_N)
        at_N = low_N + permute(at_N - low_N, high_N - low_N, keys_N)
        block_N, offset_N = np.divmod(at_N, self._block)
        full = size // self._block
        if full > 1:  # the short block stays the last
            inside = np.flatnonzero(block_N < full)
            block_N[inside] = permute(block_N[inside], full, derive_key(self._seed, _BLOCKS, source, epoch_N[inside]))
        return block_N * self._block + offset_N

    def _stages_before(self, step: int) -> list[tuple[_Stage, int]]:
        """The stages that begin before ``step``, with the end of their steps before it."""
        ends = [stage.first for stage in self._stages[1:]]
        return [
            (stage, min(end, step))
            for stage, end in zip(self._stages, [*ends, step], strict=True)
            if stage.first < step
        ]

    def _split(self, steps: range) -> list[tuple[_Stage, range]]:
        """Steps by stage."""
        firsts = [stage.first for stage in self._stages]
        parts, start = [], steps.start
        while start < steps.stop:
            number = bisect_right(firsts, start) - 1
            stop = min(steps.stop, firsts[number + 1] if number + 1 < len(firsts) else steps.stop)
            parts.append((self._stages[number], range(start, stop)))
            start = stop
        return parts


@lru_cache
def _turn_of(lanes: int, circle: int) -> int:
    """How far the circle turns in a step: of the turns near the golden section of the lanes, the one that neither a few
    steps nor a few fine offsets bring back near to where they began."""

    def badness(turn: int) -> tuple[int, float]:
        quotients = _quotients(turn % CYCLE, CYCLE) + _quotients(turn % (lanes * CYCLE), lanes * CYCLE)
        return max(quotients), abs(turn / (lanes * CYCLE) - _GOLDEN)

    near = round(_GOLDEN * lanes)
    turns = range(max(near - 1, 0) * CYCLE + 1, (near + 2) * CYCLE, 2)
    # With none in common, every slot is everywhere once in a turn of the circle.
    return min((turn for turn in turns if gcd(turn, circle) == 1), key=badness)


def _quotients(part: int, whole: int) -> list[int]:
    """The partial quotients of a fraction: a large one means that a small multiple comes near to a whole number."""
    found = []
    while part:
        found.append(whole // part)
        whole, part = part, whole % part
    return found
