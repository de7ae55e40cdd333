"""The demo report's curves, and the points behind them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from orchestration.reports.svg import ARMS, GATE, MARKERS, Point, drawing

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
    ]


def tokens_to_reach(points: Sequence[Point], loss: float) -> float | None:
    """Tokens at which a held-out curve first comes down to ``loss``, linearly interpolated; None if it never does."""
    for (before, above), (after, below) in itertools.pairwise(points):
        if above > loss >= below:
            return before + (after - before) * (above - loss) / (above - below)
    return points[0][0] if points and points[0][1] <= loss else None


def loss_chart(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Training (faint) and held-out loss of every arm over text tokens."""
    with drawing("Training and held-out loss of every arm over tokens of text", "loss, nats per token") as draw:
        for (name, records), color, marker in zip(curves.items(), ARMS, MARKERS, strict=False):
            draw.over_tokens(training_points(records), color=color, alpha=0.4, linewidth=1.2)
            draw.over_tokens(heldout_points(records), color=color, marker=marker, label=f"{name}, held out")
        _focus(draw.axes, [point for records in curves.values() for point in heldout_points(records)])
        draw.axes.legend()
    return draw.svg


def difference_chart(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Held-out loss of every other arm less the first one's, at the tokens where both were evaluated."""
    (first, *others) = curves
    baseline = dict(heldout_points(curves[first]))
    alt = f"Difference of held-out loss from {first} over tokens; below zero is better"
    with drawing(alt, "difference, nats per token") as draw:
        draw.axes.axhline(0, color=ARMS[0], linewidth=1.5)
        for name, color, marker in zip(others, ARMS[1:], MARKERS[1:], strict=False):
            shared = [(at, loss - baseline[at]) for at, loss in heldout_points(curves[name]) if at in baseline]
            draw.over_tokens(shared, color=color, marker=marker, label=f"{name} − {first}")
        draw.axes.legend()
    return draw.svg


def gate_chart(records: Sequence[Mapping[str, Any]], entropy: float) -> str:
    """The pre-pre-training's loss and the level that it has to get under."""
    alt = f"Loss of pre-pre-training over synthetic tokens, and the gate at {entropy:.2f} nats"
    with drawing(alt, "loss, nats per token") as draw:
        draw.over_tokens(training_points(records), color=ARMS[1], alpha=0.4, linewidth=1.2)
        draw.over_tokens(heldout_points(records), color=ARMS[1], marker=MARKERS[1], label="held out")
        draw.axes.axhline(entropy, color=GATE, linestyle="--", label=f"gate: unigram entropy {entropy:.2f}")
        draw.axes.set_ylim(bottom=0)
        draw.axes.legend()
    return draw.svg


def _focus(axes: Any, heldout: Sequence[Point]) -> None:
    """Give the held-out curves the height; the first training steps, far above, may leave the picture."""
    if heldout:
        low, high = min(loss for _, loss in heldout), max(loss for _, loss in heldout)
        margin = 0.1 * (high - low) or 0.1
        axes.set_ylim(low - margin, high + 3 * margin)
