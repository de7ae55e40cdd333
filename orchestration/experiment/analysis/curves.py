"""What a loss curve says: its area, its loss at any tokens, and what it cost to come down to a given loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestration.experiment.result import ArmResult, Cost, CurvePoint, ResultModel
from orchestration.reports.curves import tokens_to_reach

UNITS = ("tokens", "flops", "seconds")


class Reach(ResultModel):
    """What one arm's run of one seed took to the baseline's final loss, in one unit; None is "never".

    ``baseline`` is what the baseline took for its whole run. ``charged`` adds the pre-pre-training of both.
    """

    unit: str
    seed: int
    baseline: float
    baseline_charged: float
    reached: float | None
    charged: float | None

    @property
    def speed_up(self) -> float | None:
        """baseline / reached, as published; None is "never"."""
        return self.baseline / self.reached if self.reached else None

    @property
    def speed_up_charged(self) -> float | None:
        """The same with the pre-pre-training charged."""
        return self.baseline_charged / self.charged if self.charged else None


def area(curve: Sequence[CurvePoint]) -> float:
    """Mean loss over the tokens from the first evaluation to the last: the trapezoids' area over their width."""
    tokens = np.array([point.tokens for point in curve], dtype=np.float64)
    losses = np.array([point.loss for point in curve])
    if len(curve) < 2:
        return float(losses.mean())
    return float(np.trapezoid(losses, tokens) / (tokens[-1] - tokens[0]))


def seconds_at(curve: Sequence[CurvePoint], whole: Cost, tokens: float) -> float:
    """Seconds trained when ``tokens`` were seen: between the curve's times, or in proportion where it has none."""
    if any(point.seconds is None for point in curve):
        return whole.seconds * tokens / whole.tokens
    return float(np.interp(tokens, [0, *(p.tokens for p in curve)], [0.0, *(p.seconds or 0.0 for p in curve)]))


def reaches(arm: ArmResult, baseline: ArmResult) -> list[Reach]:
    """What ``arm`` took to the final loss of ``baseline`` (its own seed's), in tokens, FLOPs and seconds.

    FLOPs are in proportion to tokens, as every step costs the same. Empty where a cost was not recorded.
    """
    if arm.language is None or baseline.language is None or baseline.final_loss is None:
        return []
    nothing = Cost(tokens=0, flops=0.0, seconds=0.0)
    mine, theirs = arm.pre or nothing, baseline.pre or nothing
    tokens = tokens_to_reach([(point.tokens, point.loss) for point in arm.curve], baseline.final_loss)
    spent = {
        "tokens": tokens,
        "flops": None if tokens is None else arm.language.flops * tokens / arm.language.tokens,
        "seconds": None if tokens is None else seconds_at(arm.curve, arm.language, tokens),
    }
    return [
        Reach(
            unit=unit,
            seed=arm.arm.seed,
            baseline=getattr(baseline.language, unit),
            baseline_charged=getattr(baseline.language, unit) + getattr(theirs, unit),
            reached=spent[unit],
            charged=None if (value := spent[unit]) is None else value + getattr(mine, unit),
        )
        for unit in UNITS
    ]
