"""The decision: is the best proposal better than the incumbent on seeds that chose neither? Pure; see ``promote``.

The search looks at many scores and keeps the lowest, so its own score for the winner is too good by construction and
decides nothing. What decides is a new, paired comparison.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestration.experiment.analysis.statistics import Estimate, estimate
from orchestration.experiment.result import ResultModel


class Confirmation(ResultModel):
    """Losses by seed of candidate and incumbent, the paired differences' statistics, and what they say."""

    candidate: dict[int, float]
    incumbent: dict[int, float]
    difference: Estimate | None
    alpha: float
    improved: bool
    verdict: str


def decide(candidate: Mapping[int, float], incumbent: Mapping[int, float], alpha: float) -> Confirmation:
    """Compare losses (nats per token) of equal seeds; improved only if the t interval lies wholly below zero."""
    found = _paired_difference(candidate, incumbent, alpha)
    improved = found is not None and found.t is not None and found.t.high < 0
    return Confirmation(
        candidate=dict(candidate),
        incumbent=dict(incumbent),
        difference=found,
        alpha=alpha,
        improved=improved,
        verdict=_verdict(found, improved) if found and found.t else _too_few(candidate, incumbent),
    )


class Control(ResultModel):
    """Losses by seed without synthetic data, at the same total budget, and how the candidate compares to them."""

    losses: dict[int, float]
    difference: Estimate | None
    verdict: str


def compare_to_none(candidate: Mapping[int, float], losses: Mapping[int, float], alpha: float) -> Control:
    """Whether synthetic data pays at all here. It decides nothing: an incumbent can be beaten by using less of it."""
    found = _paired_difference(candidate, losses, alpha)
    if found is None or found.t is None:
        says = "not compared to no synthetic data: two pairs are needed"
    elif found.t.low > 0:
        says = f"worse than no synthetic data at the same budget: {_interval(found)}"
    elif found.t.high < 0:
        says = f"better than no synthetic data at the same budget: {_interval(found)}"
    else:
        says = f"no difference found to no synthetic data at the same budget: {_interval(found)}"
    return Control(losses=dict(losses), difference=found, verdict=says)


def _paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float], alpha: float) -> Estimate | None:
    return estimate({seed: ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())}, alpha)


def _too_few(candidate: Mapping[int, float], incumbent: Mapping[int, float]) -> str:
    return (
        f"no effect found: two pairs are needed; seeds with a score: {len(candidate)} of the candidate, "
        f"{len(incumbent)} of the incumbent; if a gate refused the others, give `train` more steps"
    )


def _verdict(found: Estimate, improved: bool) -> str:
    assert found.t is not None
    if improved:
        return f"better than the incumbent: {_interval(found)}"
    if found.t.low > 0:
        return f"no improvement found, the incumbent is better: {_interval(found)}"
    return f"no effect found: {_interval(found)}"


def _interval(found: Estimate) -> str:
    assert found.t is not None
    return (
        f"{found.mean:+.4f} nats per token, {found.t.level:.0%} interval [{found.t.low:+.4f}, {found.t.high:+.4f}], "
        f"{len(found.seeds)} paired seeds"
    )
