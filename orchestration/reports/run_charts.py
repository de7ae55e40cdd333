"""Draw score histograms and curves of runs, for the served pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from orchestration.reports.svg import ARMS, GATE, LINES, MARKERS, drawing

BINS = 30


@dataclass(frozen=True)
class Series:
    """A curve: its name and finite points (x, y); ``marks`` draws each point."""

    name: str
    points: Sequence[tuple[float, float]]
    marks: bool = False


def histogram(values: NDArray[np.float64], label: str, title: str, band: tuple[float, float] | None = None) -> Markup:
    """How often which score: bars, with the spec's band marked."""
    spread = f"{len(values):,} sequences, from {values.min():.3f} to {values.max():.3f}, median {np.median(values):.3f}"
    within = f"; the band is {band[0]:g} to {band[1]:g}" if band else ""
    with drawing(f"{title}: {spread}{within}.", "sequences", label) as draw:
        ends = [float(values.min()), float(values.max()), *(band or ())]
        if band:
            draw.axes.axvspan(*band, color=GATE, alpha=0.2, linewidth=0, gid="band")
        draw.axes.hist(values, bins=BINS, range=(min(ends), max(ends)), color=ARMS[1])
    return draw.svg


def curves(series: Sequence[Series], title: str, x_label: str, y_label: str) -> Markup:
    """Curves over a common x axis, told apart by colour and by dashes."""
    drawn = [one for one in series if one.points]
    words = "; ".join(f"{one.name} from {one.points[0][1]:.4g} to {one.points[-1][1]:.4g}" for one in drawn)
    with drawing(f"{title}: {words}.", y_label, x_label) as draw:
        for at, one in enumerate(drawn):
            look = {"color": ARMS[(at + 1) % len(ARMS)], "linestyle": LINES[at % len(LINES)], "label": one.name}
            marked = one.marks or len(one.points) == 1
            draw.axes.plot(*zip(*one.points, strict=True), marker=MARKERS[at % len(MARKERS)] if marked else "", **look)
        draw.axes.legend()
    return draw.svg
