"""Draw the demo report's curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from orchestration.reports.curves import Point, heldout_points, training_points
from orchestration.reports.svg import ARMS, GATE, MARKERS, drawing


def loss_chart(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Markup:
    """Training (faint) and held-out loss of every arm over text tokens."""
    with drawing("Training and held-out loss of every arm over tokens of text", "loss, nats per token") as draw:
        for (name, records), color, marker in zip(curves.items(), ARMS, MARKERS, strict=False):
            draw.over_tokens(training_points(records), color=color, alpha=0.4, linewidth=1.2)
            draw.over_tokens(heldout_points(records), color=color, marker=marker, label=f"{name}, held out")
        _focus(draw.axes, [point for records in curves.values() for point in heldout_points(records)])
        draw.axes.legend()
    return draw.svg


def difference_chart(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Markup:
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


def gate_chart(records: Sequence[Mapping[str, Any]], entropy: float) -> Markup:
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
