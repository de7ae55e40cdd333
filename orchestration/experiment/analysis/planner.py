"""How many pairs a design needs, from a pilot of few pairs whose standard deviation is itself uncertain.

Taking a pilot's standard deviation s for the truth states too much: with five pairs, one s in four is less than 0.7
of the truth. The planned power is therefore the mean over what the truth may be given the pilot, sd² = s² (m - 1) / χ²
with m - 1 degrees of freedom, the posterior under the usual flat prior of log sd.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize, stats  # type: ignore[import-untyped]

from orchestration.errors import ExperimentError
from orchestration.experiment.analysis.sequential import look_alphas
from orchestration.experiment.result import ResultModel

QUANTILES = 64


class PairPlan(ResultModel):
    """A planned number of ``pairs`` and the ``effect`` it finds with probability ``power``, in the metric's unit.

    ``reached`` says whether that is the effect asked for; otherwise ``pairs`` is the most that the budget has. From a
    pilot of ``pilot_pairs`` with standard deviation ``sd``; ``comparisons`` primary ones share ``alpha``.
    """

    pairs: int
    effect: float
    reached: bool
    sd: float
    pilot_pairs: int
    alpha: float
    power: float
    comparisons: int

    def say(self, unit: str) -> str:
        """One sentence for people."""
        short = "" if self.reached else ", the most that the budget has"
        return (
            f"planned: {self.pairs} pairs{short}, which find {self.effect:.4f} {unit} with power {self.power:g} at "
            f"alpha {self.alpha:g} over {self.comparisons} primary comparisons (pilot: {self.pilot_pairs} pairs, SD "
            f"{self.sd:.3g})"
        )


def assured_power(effect: float, pairs: int, sd: float, pilot_pairs: int, alpha: float) -> float:
    """Mean power of the two-sided t test of ``pairs`` at ``alpha`` over the standard deviations that a pilot allows."""
    degrees = pilot_pairs - 1
    share_Q = (np.arange(QUANTILES) + 0.5) / QUANTILES
    sds_Q = sd * np.sqrt(degrees / stats.chi2.ppf(share_Q, degrees))
    # As `power_of_t_test` has it, for all of them at once.
    threshold = stats.t.ppf(1 - alpha / 2, pairs - 1) ** 2
    return float(stats.ncf.sf(threshold, 1, pairs - 1, (effect / sds_Q) ** 2 * pairs).mean())


def plan_pairs(
    sd: float,
    pilot_pairs: int,
    *,
    wanted: float,
    most: int,
    alpha: float = 0.05,
    power: float = 0.8,
    comparisons: int = 1,
) -> PairPlan:
    """The fewest pairs that find ``wanted`` with mean probability ``power``, or ``most`` pairs and what those find.

    Raises ExperimentError for what can be no plan.
    """
    for name, value, good, need in (
        ("sd", sd, 0 < sd < math.inf, "a positive number, measured on a pilot"),
        ("pilot_pairs", pilot_pairs, pilot_pairs >= 3, "3 or more: two pairs say next to nothing of a spread"),
        ("wanted", wanted, 0 < wanted < math.inf, "a positive effect"),
        ("most", most, 2 <= most <= 1000, "2 to 1000 pairs"),
        ("alpha", alpha, 0 < alpha < 1, "a number between 0 and 1"),
        ("power", power, alpha < power < 1, "more than alpha and less than 1"),
        ("comparisons", comparisons, comparisons >= 1, "1 or more"),
    ):
        if not good:
            raise ExperimentError(f"{name} = {value}: needed is {need}; change it")
    share = alpha / comparisons

    def plan(pairs: int, effect: float, reached: bool) -> PairPlan:
        return PairPlan(
            pairs=pairs,
            effect=effect,
            reached=reached,
            sd=sd,
            pilot_pairs=pilot_pairs,
            alpha=alpha,
            power=power,
            comparisons=comparisons,
        )

    def lacks(pairs: int, effect: float) -> float:
        return assured_power(effect, pairs, sd, pilot_pairs, share) - power

    if lacks(most, wanted) < 0:
        return plan(most, _root(lambda effect: lacks(most, effect), wanted), False)
    low, high = 1, most  # low is too few, high is enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if lacks(middle, wanted) < 0 else (low, middle)
    return plan(high, wanted, True)


def looks_of(pairs: int, looks: int) -> tuple[int, ...]:
    """After how many of ``pairs`` to look, ``looks`` times or fewer, evenly, the first time after three or more."""
    return tuple(sorted({max(min(3, pairs), math.ceil(pairs * at / looks)) for at in range(1, looks + 1)}))


def plan_with_looks(
    sd: float,
    pilot_pairs: int,
    looks: int,
    *,
    wanted: float,
    most: int,
    alpha: float = 0.05,
    power: float = 0.8,
    comparisons: int = 1,
) -> PairPlan:
    """``plan_pairs`` for pairs that are looked at ``looks`` times, three of them or more.

    Counted is the power of the last look alone, at its own level (``sequential.look_alphas``): what earlier looks find
    comes on top.
    """
    asked = {"wanted": wanted, "power": power, "comparisons": comparisons}
    first = plan_pairs(sd, pilot_pairs, most=most, alpha=alpha, **asked)  # type: ignore[arg-type]
    last = look_alphas(looks_of(max(first.pairs, 3), looks), alpha / comparisons)[-1]
    found = plan_pairs(sd, pilot_pairs, most=most, alpha=min(alpha, last * comparisons), **asked)  # type: ignore[arg-type]
    return found.model_copy(update={"alpha": alpha, "pairs": max(found.pairs, 3)})


def _root(lacking: Callable[[float], float], low: float) -> float:
    high = 2 * low
    while lacking(high) < 0:
        high *= 2
    return float(optimize.brentq(lacking, low, high, rtol=1e-4))
