"""Score histograms and loss curves as inline SVG, coloured by the page's style for light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from orchestration.console.foreign import in_html

WIDTH, HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 20, 14, 48
_BINS = 30


@dataclass(frozen=True)
class Series:
    """A curve: its name and finite points (x, y); ``marks`` draws each point."""

    name: str
    points: Sequence[tuple[float, float]]
    marks: bool = False


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high], about ``count`` of them."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def histogram(values: NDArray[np.float64], label: str, title: str, band: tuple[float, float] | None = None) -> Markup:
    """How often which score: bars, with the spec's band marked."""
    low, high = float(values.min()), float(values.max())
    if band:
        low, high = min(low, band[0]), max(high, band[1])
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(values, bins=_BINS, range=(low, high))
    pad = (high - low) * 0.02
    frame = _Frame((low - pad, high + pad), (0.0, float(counts.max()) * 1.05))
    parts = []
    if band:
        left, right = frame.x(band[0]), frame.x(band[1])
        parts.append(
            f'<rect class="band" x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" '
            f'height="{HEIGHT - _TOP - _BOTTOM}"/>'
        )
    for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if count:
            x, y = frame.x(left), frame.y(count)
            parts.append(
                f'<rect class="bar" x="{x + 0.5:.1f}" y="{y:.1f}" width="{frame.x(right) - x - 1:.1f}" '
                f'height="{HEIGHT - _BOTTOM - y:.1f}"/>'
            )
    spread = f"{len(values):,} sequences, from {values.min():.3f} to {values.max():.3f}, median {np.median(values):.3f}"
    within = f"; the band is {band[0]:g} to {band[1]:g}" if band else ""
    return _svg(title, f"{title}: {spread}{within}.", frame, label, "sequences", parts)


def curves(series: Sequence[Series], title: str, x_label: str, y_label: str) -> Markup:
    """Curves over a common x axis, told apart by colour and by dashes."""
    drawn = [one for one in series if one.points]
    xs = [x for one in drawn for x, _ in one.points]
    ys = [y for one in drawn for _, y in one.points]
    margin = (max(ys) - min(ys) or 1.0) * 0.05
    frame = _Frame((min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1), (min(ys) - margin, max(ys) + margin))
    parts = []
    for index, one in enumerate(drawn):
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in one.points)
        parts.append(f'<polyline class="curve c{index % 6}" points="{path}"/>')
        if one.marks or len(one.points) == 1:
            parts += [
                f'<circle class="mark c{index % 6}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3"/>'
                for x, y in one.points
            ]
    words = "; ".join(f"{one.name} from {one.points[0][1]:.4g} to {one.points[-1][1]:.4g}" for one in drawn)
    return _svg(title, f"{title}: {words}.", frame, x_label, y_label, parts)


class _Frame:
    """Data coordinates to pixels."""

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        self.x_range, self.y_range = x_range, y_range

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)


def _svg(title: str, words: str, frame: _Frame, x_label: str, y_label: str, parts: Sequence[str]) -> Markup:
    grid = []
    for value in ticks(*frame.y_range, 4):
        y = frame.y(value)
        grid.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        grid.append(f'<text x="{_LEFT - 6}" y="{y + 5:.1f}" text-anchor="end">{_number(value)}</text>')
    for value in ticks(*frame.x_range, 5):
        grid.append(
            f'<text x="{frame.x(value):.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">{_number(value)}</text>'
        )
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{in_html(words)}">'
        f"<title>{in_html(title)}</title>{''.join(grid)}{''.join(parts)}"
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{HEIGHT - _BOTTOM}" y2="{HEIGHT - _BOTTOM}"/>'
        f'<text class="label" x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{in_html(x_label)}</text>"
        f'<text class="label" transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{in_html(y_label)}'
        "</text></svg>"
    )


def _number(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k" if abs(value) < 1e6 else f"{value / 1e6:g}M"
    return f"{round(value, 6):g}"
