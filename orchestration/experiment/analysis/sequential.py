"""Pairs added look by look without a peeking bias: how much of alpha each look may use, for t tests of few pairs.

Alpha is spent as Lan and DeMets (1983) spend it to imitate O'Brien and Fleming's bounds: after a share s of the planned
pairs 2 - 2 Φ(z / √s) in all, with z the normal quantile at 1 - alpha/2, which leaves nearly all of it to the last look.
Their bounds hold for many observations. Ours hold for three, too: under no effect the t statistics of growing samples
have one joint distribution whatever the standard deviation, so the level of each look is read off simulated paths of
it, seeded, once. A look never gets less than its own increment, which needs no simulation (the union bound).

Student's interval at look k, at level 1 - alpha_k, is a repeated confidence interval (Jennison and Turnbull 1989): with
probability 1 - alpha the intervals of all looks hold the truth at once, so one may stop at any look for any reason.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from orchestration.errors import ExperimentError

PATHS = 1 << 18
MOST_PAIRS = 1000
_CHUNK = 1 << 22  # numbers held at once


def spent(share: float, alpha: float) -> float:
    """Alpha spent after ``share`` of the pairs, 0 to 1."""
    return float(2 * stats.norm.sf(stats.norm.isf(alpha / 2) / math.sqrt(share)))


@functools.cache
def look_alphas(looks: tuple[int, ...], alpha: float) -> tuple[float, ...]:
    """The two-sided level of the t test at each look, ``looks`` being the pairs seen by then, ascending.

    The chance of rejecting at any look, where there is no effect, is ``alpha``, but for a simulation error of
    √(alpha / PATHS), 0.0004 at 0.05. Raises ExperimentError for what are no looks.
    """
    ordered = all(before < after for before, after in itertools.pairwise(looks))
    if not looks or looks[0] < 2 or not ordered or looks[-1] > MOST_PAIRS:
        raise ExperimentError(
            f"looks = {list(looks)}: need numbers of pairs that grow, from 2 or more to {MOST_PAIRS}; change them"
        )
    if not 0 < alpha < 1:
        raise ExperimentError(f"alpha = {alpha}: must lie between 0 and 1; change it")
    p_values_KP = _null_p_values(looks)
    totals = [spent(look / looks[-1], alpha) for look in looks]
    alive_P = np.ones(p_values_KP.shape[1], dtype=bool)
    alphas, before = [], 0.0
    for p_values_P, total in zip(p_values_KP, totals, strict=True):
        wanted = int(total * len(alive_P)) - int((~alive_P).sum())
        found = float(np.partition(p_values_P[alive_P], wanted - 1)[wanted - 1]) if wanted > 0 else 0.0
        alphas.append(max(found, total - before))
        alive_P &= p_values_P > alphas[-1]
        before = total
    return tuple(alphas)


def say_looks(looks: Sequence[int]) -> str:
    """After how many pairs all are looked at."""
    return f"looked at after {', '.join(map(str, looks))} pairs, and ended once all primary comparisons are decided"


def _null_p_values(looks: Sequence[int]) -> np.ndarray:
    """p of the t test at each look, of paths without effect: float64 [looks, PATHS]."""
    rng = np.random.Generator(np.random.Philox(0))
    parts = []
    at = max(1, _CHUNK // looks[-1])
    for start in range(0, PATHS, at):
        paths_PN = rng.standard_normal((min(at, PATHS - start), looks[-1]))
        sums_PN, squares_PN = np.cumsum(paths_PN, axis=1), np.cumsum(paths_PN**2, axis=1)
        part = []
        for n in looks:
            mean_P = sums_PN[:, n - 1] / n
            variance_P = (squares_PN[:, n - 1] - n * mean_P**2) / (n - 1)
            part.append(2 * stats.t.sf(np.abs(mean_P) / np.sqrt(variance_P / n), n - 1))
        parts.append(np.stack(part))
    return np.concatenate(parts, axis=1)
