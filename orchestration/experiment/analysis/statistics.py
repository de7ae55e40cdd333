"""Statistics of few paired differences: intervals, tests, Holm's correction, and what a design can find at all.

The t interval decides every verdict. With three to ten pairs the percentile bootstrap covers far less often than it
says, because it resamples a spread that it sees too small by √((n−1)/n) and knows no heavier tails; it is shown beside,
and decides nothing (measured in docs/decisions/0440).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import cast

import numpy as np
from scipy import optimize, stats  # type: ignore[import-untyped]

from orchestration.errors import ExperimentError
from orchestration.experiment.result import DetectableEffect, ResultModel

RESAMPLES = 9999


class Interval(ResultModel):
    """A confidence interval at ``level``, as 0.95."""

    low: float
    high: float
    level: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0


class Estimate(ResultModel):
    """A mean of paired differences, by seed, with its intervals; with one pair there is a mean and nothing else.

    ``p`` is of the two-sided t test against zero.
    """

    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float
    sd: float | None = None
    t: Interval | None = None
    bootstrap: Interval | None = None
    p: float | None = None


def t_bounds(differences: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bound of Student's interval for the mean over the last axis (n ≥ 2), at level 1 − alpha."""
    n = differences.shape[-1]
    mean = differences.mean(axis=-1)
    reach = stats.t.ppf(1 - alpha / 2, n - 1) * differences.std(axis=-1, ddof=1) / math.sqrt(n)
    return mean - reach, mean + reach


def t_p_value(differences: np.ndarray) -> np.ndarray:
    """Two-sided p of Student's one-sample test over the last axis (n ≥ 2).

    Pairs that do not differ at all give 1; pairs that all differ by exactly the same give 0.
    """
    n = differences.shape[-1]
    mean, error = differences.mean(axis=-1), differences.std(axis=-1, ddof=1) / math.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(mean == 0, 0.0, np.abs(mean) / error)
    return 2 * stats.t.sf(statistic, n - 1)


def bootstrap_bounds(differences: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the percentile bootstrap interval for the mean over the last axis.

    A resample is a count of how often each pair was drawn; the same counts serve all means, and every call.
    """
    means = differences @ _weights_NR(differences.shape[-1])
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2], axis=-1)
    return low, high


@functools.cache
def _weights_NR(n: int) -> np.ndarray:
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).T / n


def estimate(by_seed: dict[int, float], alpha: float) -> Estimate | None:
    """The mean of the differences, which are given by seed; None if there is none."""
    if not by_seed:
        return None
    seeds = tuple(sorted(by_seed))
    values = np.array([by_seed[seed] for seed in seeds])
    found = Estimate(seeds=seeds, differences=tuple(values.tolist()), mean=float(values.mean()))
    if len(values) < 2:
        return found
    level = 1 - alpha
    return found.model_copy(
        update={
            "sd": float(values.std(ddof=1)),
            "t": Interval(low=float(t_bounds(values, alpha)[0]), high=float(t_bounds(values, alpha)[1]), level=level),
            "bootstrap": _bootstrap(values, alpha),
            "p": float(t_p_value(values)),
        }
    )


def _bootstrap(values: np.ndarray, alpha: float) -> Interval:
    low, high = bootstrap_bounds(values, alpha)
    return Interval(low=float(low), high=float(high), level=1 - alpha)


def holm(p_values: Sequence[float | None], alpha: float) -> tuple[list[float | None], list[float]]:
    """Holm's step-down correction (Holm 1979): adjusted p, and the alpha that each hypothesis was tested at.

    A hypothesis without p (its arms failed, or may not be compared) is still one of the family, as if its p were 1: an
    arm that falls out does not make the others' test easier. An interval at level 1 − the returned alpha excludes zero
    exactly where Holm rejects: hypotheses after the first that is not rejected get that one's alpha.
    """
    family = len(p_values)
    order = sorted(range(family), key=lambda at: (p_values[at] is None, p_values[at] or 0.0))
    adjusted: list[float | None] = [None] * family
    alphas = [alpha] * family
    running, stopped = 0.0, None
    for rank, at in enumerate(order):
        p = p_values[at]
        share = alpha / (family - rank)
        if stopped is None and (p is None or p > share):
            stopped = share
        alphas[at] = share if stopped is None else stopped
        if p is not None:
            running = max(running, min(1.0, (family - rank) * p))
            adjusted[at] = running
    return adjusted, alphas


def power_of_t_test(effect: float, seeds: int, sd: float, alpha: float) -> float:
    """Probability that a two-sided one-sample t test at ``alpha`` finds ``effect``.

    The square of noncentral t is noncentral F with one degree of freedom above, which SciPy computes where its
    noncentral t is not a number (the far tail, 1.17).
    """
    degrees, noncentrality = seeds - 1, effect / sd * math.sqrt(seeds)
    threshold = stats.t.ppf(1 - alpha / 2, degrees)
    return float(stats.ncf.sf(threshold**2, 1, degrees, noncentrality**2))


def minimum_detectable_effect(
    seeds: int,
    sd_of_paired_difference: float,
    alpha: float = 0.05,
    power: float = 0.8,
    *,
    comparisons: int = 1,
    source: str = "assumed",
) -> DetectableEffect:
    """The smallest true mean difference that is found with probability ``power``, in the standard deviation's unit.

    ``comparisons`` arms share ``alpha``, each tested at alpha / comparisons: Holm's first and hardest step, so that the
    stated effect is never too small. Say in ``source`` where the standard deviation is from. Raises
    ExperimentError for what cannot be a design.
    """
    if seeds < 2:
        raise ExperimentError(
            f"seeds = {seeds}: one pair has no spread, so no effect can be found; give 2 or more, better 5"
        )
    if not 0 < sd_of_paired_difference < math.inf:
        raise ExperimentError(
            f"sd_of_paired_difference = {sd_of_paired_difference}: must be positive and finite; measure it on a pilot"
        )
    if not 0 < alpha < 1 or not alpha < power < 1 or comparisons < 1:
        raise ExperimentError(
            f"alpha = {alpha}, power = {power}, comparisons = {comparisons}: need 0 < alpha < power < 1 and at least "
            "one comparison; change them"
        )
    share = alpha / comparisons

    def missing(standardised: float) -> float:
        return power_of_t_test(standardised, seeds, 1.0, share) - power

    high = 1.0
    while missing(high) < 0:
        high *= 2
    effect = cast("float", optimize.brentq(missing, 0.0, high)) * sd_of_paired_difference
    return DetectableEffect(
        effect=effect,
        seeds=seeds,
        sd=sd_of_paired_difference,
        source=source,
        alpha=alpha,
        power=power,
        comparisons=comparisons,
    )
