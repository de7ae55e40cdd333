"""The decision: is the best proposal better than the incumbent on seeds that chose neither? Pure; see ``promote``.

The search looks at many scores and keeps the lowest, so its own score for the winner is too good by construction and
decides nothing. What decides is a new, paired comparison.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestration.experiment.result import Record
from orchestration.experiment.statistics import Estimate, estimate


class Confirmation(Record):
    """Losses by seed of candidate and incumbent, the paired differences' statistics, and what they say."""

    candidate: dict[int, float]
    incumbent: dict[int, float]
    difference: Estimate | None
    alpha: float
    improved: bool
    verdict: str


def decide(candidate: Mapping[int, float], incumbent: Mapping[int, float], alpha: float) -> Confirmation:
    """Compare losses (nats per token) of equal seeds; improved only if the t interval lies wholly below zero."""
    paired = {seed: candidate[seed] - incumbent[seed] for seed in sorted(candidate.keys() & incumbent.keys())}
    found = estimate(paired, alpha)
    improved = found is not None and found.t is not None and found.t.high < 0
    return Confirmation(
        candidate=dict(candidate),
        incumbent=dict(incumbent),
        difference=found,
        alpha=alpha,
        improved=improved,
        verdict=_verdict(found, improved) if found and found.t else _too_few(candidate, incumbent),
    )


def _too_few(candidate: Mapping[int, float], incumbent: Mapping[int, float]) -> str:
    return (
        f"no effect found: two pairs are needed; seeds with a score: {len(candidate)} of the candidate, "
        f"{len(incumbent)} of the incumbent; if a gate refused the others, give `train` more steps"
    )


def _verdict(found: Estimate, improved: bool) -> str:
    assert found.t is not None
    interval = (
        f"{found.mean:+.4f} nats per token, {found.t.level:.0%} interval [{found.t.low:+.4f}, {found.t.high:+.4f}], "
        f"{len(found.seeds)} paired seeds"
    )
    if improved:
        return f"better than the incumbent: {interval}"
    if found.t.low > 0:
        return f"no improvement found, the incumbent is better: {interval}"
    return f"no effect found: {interval}"
