"""Small pieces of HTML that the report is put together from, and how its numbers are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestration.console.foreign import in_html, in_html_lines
from orchestration.experiment.analysis.statistics import Interval
from orchestration.experiment.analysis.verdict import signed

DASH = "–"
LONG = 60  # letters of a cell from which on it is broken into lines


def section(title: str, *parts: str) -> str:
    """A titled section; nothing if it would be empty."""
    body = "".join(parts)
    return f"<section><h2>{in_html(title)}</h2>{body}</section>" if body else ""


def note(text: str) -> str:
    """A paragraph of explanation; ``text`` is markup."""
    return f"<p class=note>{text}</p>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table that scrolls on its own; the first ``words`` columns are words, the others numbers. Cells are markup."""

    def cell(tag: str, at: int, text: str) -> str:
        kind = " class=n" if at >= words else " class=why" if len(text) > LONG else ""
        return f"<{tag}{kind}>{text}</{tag}>"

    def line(tag: str, row: Sequence[str]) -> str:
        return f"<tr>{''.join(cell(tag, at, text) for at, text in enumerate(row))}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<div class='card scroll'><table><thead>{line('th', head)}</thead><tbody>{body}</tbody></table></div>"


def details(title: str, body: str) -> str:
    """What is shown on demand; ``body`` is plain text."""
    return f"<details><summary class=digest>{in_html(title)}</summary><pre>{in_html_lines(body)}</pre></details>"


def number(value: float | None, digits: int = 4) -> str:
    """A number, or a dash for none."""
    return DASH if value is None else f"{value:.{digits}f}"


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
