"""How a report writes numbers: a dash for none, signs, intervals, large quantities, durations."""

from __future__ import annotations

from orchestration.experiment.analysis.statistics import Interval
from orchestration.reports.templates import signed

DASH = "–"


def number(value: float | None, digits: int = 4) -> str:
    """A number, or a dash for none."""
    return DASH if value is None else f"{value:.{digits}f}"


def probability(value: float | None) -> str:
    """A p-value to three digits, one too small for them as a bound, or a dash for none."""
    if value is not None and value < 0.001:
        return "< 0.001"
    return number(value, 3)


def difference(value: float | None, digits: int = 4) -> str:
    """A signed number, or a dash for none."""
    return DASH if value is None else signed(value, digits)


def interval(value: Interval | None, digits: int = 4) -> str:
    """Both ends, or a dash for none."""
    return DASH if value is None else f"{signed(value.low, digits)} to {signed(value.high, digits)}"


def quantity(value: float | None, unit: str = "") -> str:
    """A large number with k, M, G, … to three digits."""
    if value is None:
        return DASH
    for scale, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.3g} {letter}{unit}"
    return f"{value:.3g} {unit}".strip()


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours."""
    if seconds is None:
        return DASH
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
