"""pass@k without bias: the chance that k of n samples, drawn without replacement, hold a correct one.

Chen et al. 2021, arXiv 2107.03374, eq. 1. Taking 1 - (1 - c/n)^k instead would be biased downwards.
"""

from __future__ import annotations

from fractions import Fraction
from math import comb


def pass_at_k(samples: int, correct: int, k: int) -> Fraction:
    """1 - C(samples - correct, k) / C(samples, k), exactly. ValueError unless 1 <= k <= samples >= correct >= 0."""
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(
            f"pass@{k} of {correct} correct among {samples} samples: k must lie in 1 to {samples}, "
            f"correct in 0 to {samples}"
        )
    return 1 - Fraction(comb(samples - correct, k), comb(samples, k))
