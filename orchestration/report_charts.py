"""The report's curves as inline SVG that takes its colours from the page, so it is legible in light and dark.

Figures are drawn narrow with large letters: on a phone they keep their size, on a wide screen two stand side by side.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

Point = tuple[float, float]

# Each colour is drawn as a placeholder that the finished SVG swaps for a variable of the page's style sheet.
INK, FAINT, LINE, GATE = "#010101", "#020202", "#030303", "#040404"
ARMS = ("#050505", "#060606", "#070707")
_VARIABLES = {INK: "ink", FAINT: "faint", LINE: "line", GATE: "gate", **{arm: f"arm{i}" for i, arm in enumerate(ARMS)}}
_MARKERS = ("o", "s", "D")
SMOOTHED = 7  # single batches differ by more than the arms do

# Any: matplotlib's own type lists every setting's name.
_RC: Any = {
    "font.size": 11,
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "grid.color": LINE,
    "grid.alpha": 0.6,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 5,
}


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
    with matplotlib.rc_context(_RC):
        figure, axes = _axes("loss, nats per token")
        for (name, records), color, marker in zip(curves.items(), ARMS, _MARKERS, strict=False):
            _draw(axes, training_points(records), color=color, alpha=0.4, linewidth=1.2)
            _draw(axes, heldout_points(records), color=color, marker=marker, label=f"{name}, held out")
        _focus(axes, [point for records in curves.values() for point in heldout_points(records)])
        axes.legend()
        return _svg(figure, "Training and held-out loss of every arm over tokens of text")


def difference_chart(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Held-out loss of every other arm less the first one's, at the tokens where both were evaluated."""
    (first, *others) = curves
    baseline = dict(heldout_points(curves[first]))
    with matplotlib.rc_context(_RC):
        figure, axes = _axes("difference, nats per token")
        axes.axhline(0, color=ARMS[0], linewidth=1.5)
        for name, color, marker in zip(others, ARMS[1:], _MARKERS[1:], strict=False):
            shared = [(at, loss - baseline[at]) for at, loss in heldout_points(curves[name]) if at in baseline]
            _draw(axes, shared, color=color, marker=marker, label=f"{name} − {first}")
        axes.legend()
        return _svg(figure, f"Difference of held-out loss from {first} over tokens; below zero is better")


def gate_chart(records: Sequence[Mapping[str, Any]], entropy: float) -> str:
    """The pre-pre-training's loss and the level that it has to get under."""
    with matplotlib.rc_context(_RC):
        figure, axes = _axes("loss, nats per token")
        _draw(axes, training_points(records), color=ARMS[1], alpha=0.4, linewidth=1.2)
        _draw(axes, heldout_points(records), color=ARMS[1], marker=_MARKERS[1], label="held out")
        axes.axhline(entropy, color=GATE, linestyle="--", label=f"gate: unigram entropy {entropy:.2f}")
        axes.set_ylim(bottom=0)
        axes.legend()
        return _svg(figure, f"Loss of pre-pre-training over synthetic tokens, and the gate at {entropy:.2f} nats")


def _axes(ylabel: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel("tokens, millions")
    axes.set_ylabel(ylabel)
    axes.tick_params(length=0)
    axes.set_axisbelow(True)
    return figure, axes


def _draw(axes: Any, points: Sequence[Point], **style: Any) -> None:
    axes.plot([tokens / 1e6 for tokens, _ in points], [value for _, value in points], **style)


def _focus(axes: Any, heldout: Sequence[Point]) -> None:
    """Give the held-out curves the height; the first training steps, far above, may leave the picture."""
    if heldout:
        low, high = min(loss for _, loss in heldout), max(loss for _, loss in heldout)
        margin = 0.1 * (high - low) or 0.1
        axes.set_ylim(low - margin, high + 3 * margin)


def _svg(figure: Figure, alt: str) -> str:
    buffer = io.StringIO()
    # No date and no creator, and names inside the SVG salted with what it shows: the same run makes the same page, and
    # no two curves on it share a name.
    with matplotlib.rc_context({"svg.hashsalt": alt}):
        figure.savefig(
            buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")), transparent=True
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var(--{variable})")
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt, quote=True)}"', 1)
    return f"<figure>{svg}</figure>"
