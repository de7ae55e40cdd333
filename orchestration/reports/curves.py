"""A run's metric records as curves: points of (tokens, loss), and what is read off them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

Point = tuple[float, float]

SMOOTHED = 7  # single batches differ by more than the arms do


def training_points(records: Sequence[Mapping[str, Any]]) -> list[Point]:
    """(tokens, training loss in nats) of a run's metric records, each the mean of ``SMOOTHED`` records around it."""
    points = [(record["tokens"], record["loss"]) for record in records if "loss" in record]
    reach = SMOOTHED // 2
    windows = (points[max(0, at - reach) : at + reach + 1] for at in range(len(points)))
    means = (sum(loss for _, loss in window) / len(window) for window in windows)
    return [(tokens, mean) for (tokens, _), mean in zip(points, means, strict=True)]


def heldout_points(records: Sequence[Mapping[str, Any]]) -> list[Point]:
    """(tokens, held-out loss in nats) of a run's metric records; an evaluation has its step's tokens."""
    training = [record for record in records if "loss" in record]
    if not training:
        return []
    tokens_per_step = training[-1]["tokens"] / training[-1]["step"]
    return [
        (record["step"] * tokens_per_step, scores["loss"])
        for record in records
        if "eval" in record
        for scores in record["eval"].values()
        if "loss" in scores  # and not a task's metrics
    ]


def tokens_to_reach(curve: Sequence[Point], loss: float) -> float | None:
    """Return the tokens at which a curve first comes down to ``loss``, linear between points; None if it never does.

    A curve that is there at its first point gives that point's tokens: nothing is known of before.
    """
    if not curve:
        return None
    if curve[0][1] <= loss:
        return float(curve[0][0])
    for (before, above), (after, below) in pairwise(curve):
        if above > loss >= below:
            return before + (after - before) * (above - loss) / (above - below)
    return None
