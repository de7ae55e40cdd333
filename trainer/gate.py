"""What a model pays that has learned nothing but to count: the level that a synthetic task must be learned below.

Of long sequences that show frames it is each row's own unigram entropy, as arXiv 2603.10055 has it. A short row of many
symbols has an entropy far under what anyone could pay who does not know its symbols beforehand: thirty symbols drawn
from a hundred have at most log 30 nats, and an only answer none. So of sequences without frames it is what counting
itself costs, token by token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MASSES = tuple(2.0**power for power in range(-2, 17))
"""Tokens' worth of trust in the uniform distribution, before a row has shown anything; the best of them is taken."""


def unigram_entropy(tokens_BT: np.ndarray) -> np.ndarray:
    """Entropy of each row's own token frequencies, float64 [B], in nats: log T - (1/T) Σ c log c over its counts c.

    It is what a model pays that knows how often each token will occur in a sequence but not where.
    """
    ordered_BT = np.sort(tokens_BT, axis=1)
    length = ordered_BT.shape[1]
    entropies = np.empty(len(ordered_BT))
    for index, row_T in enumerate(ordered_BT):
        starts = np.flatnonzero(np.concatenate(([True], row_T[1:] != row_T[:-1])))
        counts = np.diff(np.append(starts, length)).astype(np.float64)
        entropies[index] = math.log(length) - (counts * np.log(counts)).sum() / length
    return entropies


def counting_losses(tokens_BT: np.ndarray, counted_T: np.ndarray, vocabulary: int) -> np.ndarray:
    """What counting costs each row, float64 [B, len(MASSES)], in nats per counted prediction.

    Token t+1 of ``tokens_BT`` [B, T] is predicted, where ``counted_T`` [T-1] says so, with probability
    (c + mass / vocabulary) / (t + 1 + mass), of c times it was among tokens 0 … t: the rule of succession for a
    Dirichlet prior of that mass.
    """
    rows, length = tokens_BT.shape
    earlier_BT = np.empty((rows, length), dtype=np.int64)
    place_T = np.arange(length)
    for index, row_T in enumerate(tokens_BT):
        order_T = np.argsort(row_T, kind="stable")
        sorted_T = row_T[order_T]
        first_T = np.concatenate(([True], sorted_T[1:] != sorted_T[:-1]))
        earlier_BT[index, order_T] = place_T - np.maximum.accumulate(np.where(first_T, place_T, 0))
    seen_BN, shown_N = earlier_BT[:, 1:][:, counted_T], place_T[1:][counted_T]
    losses = [-np.log((seen_BN + mass / vocabulary) / (shown_N + mass)).mean(axis=1) for mass in MASSES]
    return np.stack(losses, axis=1)


def least_loss(totals_M: Sequence[float], rows: int) -> float:
    """The loss of the best mass for all rows together, of the sums of ``counting_losses`` over them."""
    return min(totals_M) / rows
