"""How many rows of each source go into each global batch, and how many went before: both in O(1).

Weights become integers: source s gets ``quota[s]`` rows in every 1,024 batches, the quotas summing to 1,024 batches'
rows. Each batch takes the whole part of quota/1024; the slots that remain are given by systematic sampling of the
remainders (one rod of length 1,024 laid at offset u over the cumulated remainders), u running through 0 … 1023 in
bit-reversed order. So every batch is within one row of its share, a cycle of 1,024 batches meets the quotas exactly,
and shares are met evenly on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from datalake.errors import PlanError

CYCLE = 1024


def bit_reversed(bits: int = 10) -> np.ndarray:
    """0 … 2^bits - 1 in bit-reversed (van der Corput) order, int64."""
    order = np.zeros(1, dtype=np.int64)
    for _ in range(bits):
        order = np.concatenate([order * 2, order * 2 + 1])
    return order


class Mixture:
    """Fixed weights over S sources and a global batch of B rows, from the batch where they take effect."""

    def __init__(self, weights: Sequence[float], batch: int) -> None:
        self.quotas = quotas_of(weights, batch)  # int64 [S], rows in CYCLE batches

    @cached_property
    def _per_batch(self) -> np.ndarray:
        """Rows of each source in each batch of a cycle: int64 [CYCLE, S]."""
        whole, rest = np.divmod(self.quotas, CYCLE)
        upper = np.cumsum(rest)
        offsets = bit_reversed()[:, None]
        # Rods lie at offset + CYCLE * k; source s takes those in [lower, upper).
        hits = -(-(upper - offsets) // CYCLE) - -(-(upper - rest - offsets) // CYCLE)
        return whole + hits

    @cached_property
    def _before(self) -> np.ndarray:
        """Rows of each source before each batch of a cycle: int64 [CYCLE, S]."""
        return np.cumsum(self._per_batch, axis=0) - self._per_batch

    def counts(self, batch_index: int) -> np.ndarray:
        """Rows of each source in batch ``batch_index`` (from 0 where the weights take effect): int64 [S]."""
        return self._per_batch[batch_index % CYCLE]

    def before(self, batch_index: int) -> np.ndarray:
        """Rows of each source in all batches before ``batch_index``: int64 [S]."""
        cycles, place = divmod(batch_index, CYCLE)
        return cycles * self.quotas + self._before[place]


def quotas_of(weights: Sequence[float], batch: int) -> np.ndarray:
    """Integers proportional to ``weights`` that sum to batch * CYCLE, by largest remainder (ties to the first)."""
    shares = np.asarray(weights, dtype=np.float64)
    if shares.ndim != 1 or not shares.size or not np.all(np.isfinite(shares)) or shares.min() < 0 or shares.sum() <= 0:
        raise PlanError(f"mixture weights are {list(weights)}: give finite numbers of at least 0, one or more above 0")
    exact = shares / shares.sum() * (batch * CYCLE)
    quotas = np.floor(exact).astype(np.int64)
    missing = batch * CYCLE - int(quotas.sum())
    order = np.argsort(-(exact - quotas), kind="stable")
    quotas[order[:missing]] += 1
    if np.any((quotas == 0) & (shares > 0)):
        raise PlanError(
            f"mixture weights are {list(weights)}: the smallest gets less than one row in {CYCLE} batches of {batch}: "
            f"raise it or leave that source out"
        )
    return quotas
