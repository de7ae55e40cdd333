"""What a live run counted, as one self-contained HTML page: rates, starvation, and the buffer's depth over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from orchestration.console.foreign import as_json, in_html
from orchestration.reports.style import STYLE

MIB = 1 << 20
WIDTH, HEIGHT, LEFT, BELOW = 640, 240, 64, 36  # of a chart and of the room for its numbers, in CSS pixels

Line = tuple[str, str, Sequence[float]]
"""A line's label, its colour in the style sheet, and its values."""


def render_live(run: str, live: Mapping[str, Any]) -> str:
    """The page for run ``run`` from the ``live`` facts of its result."""
    title = f"Live training: {run}"
    tiles = (
        (f"{live['generated_tokens_per_s']:,.0f}", f"tokens generated a second ({live['generated_tokens']:,} in all)"),
        (f"{live['consumed_tokens_per_s']:,.0f}", f"tokens trained on a second ({live['consumed_tokens']:,} in all)"),
        (f"{live['starvation_s']:,.1f} s", "starved: the trainer waited for data, its first batch not counted"),
        (f"{live['throttled_s']:,.1f} s", "throttled: generators waited at the bound"),
        (f"{live['peak_bytes'] / MIB:,.2f} MiB", f"held at most; the bound is {live['buffer_bytes'] / MIB:,.2f} MiB"),
        (f"{live['shards_written']:,}", f"shards written, {live['shards_reused']:,} found"),
    )
    sections = [
        f"<p>Dataset <b>{in_html(live['dataset'])}</b> was made while this run read it.</p>",
        f"<div class=tiles>{''.join(f'<div><b>{value}</b><span>{what}</span></div>' for value, what in tiles)}</div>",
        f"<h2>Generated and not yet trained on, MiB over seconds</h2>{depth_chart(live)}",
        f"<h2>Tokens a second over seconds</h2>{rate_chart(live)}",
        f"<details><summary>Everything counted</summary><pre>{in_html(as_json(live))}</pre></details>",
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{in_html(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main><h1>{in_html(title)}</h1>{''.join(sections)}</main></body></html>\n"
    )


def depth_chart(live: Mapping[str, Any]) -> str:
    """The buffer's bytes over time, below their bound."""
    rows = _rows(live)
    shards = [row["shard_bytes"] / MIB for row in rows]
    both = [(row["shard_bytes"] + row["batch_bytes"]) / MIB for row in rows]
    bound = [live["buffer_bytes"] / MIB] * len(rows)
    lines = (("shards not begun", "arm1", shards), ("with batches not taken", "arm0", both), ("bound", "gate", bound))
    return _chart("Bytes in the buffer over time, and their bound", [row["seconds"] for row in rows], lines)


def rate_chart(live: Mapping[str, Any]) -> str:
    """Tokens generated and consumed a second, between samples."""
    steps = [(before, after) for before, after in pairwise(_rows(live)) if after["seconds"] > before["seconds"]]

    def rates(column: str) -> list[float]:
        return [(after[column] - before[column]) / (after["seconds"] - before["seconds"]) for before, after in steps]

    lines = (("generated", "arm1", rates("generated_tokens")), ("consumed", "arm0", rates("consumed_tokens")))
    return _chart("Tokens generated and consumed a second, over time", [after["seconds"] for _, after in steps], lines)


def _rows(live: Mapping[str, Any]) -> list[dict[str, float]]:
    return [dict(zip(live["columns"], row, strict=True)) for row in live["timeline"]]


def _chart(alt: str, seconds: Sequence[float], lines: Sequence[Line]) -> str:
    """Lines over seconds from zero, as SVG in the page's own colours."""
    right = max(seconds, default=0.0) or 1.0
    top = 1.05 * max((value for _, _, values in lines for value in values), default=0.0) or 1.0

    def x(second: float) -> float:
        return LEFT + (WIDTH - LEFT - 16) * second / right

    def y(value: float) -> float:
        return (HEIGHT - BELOW) * (1 - value / top) + 4

    parts = []
    for part in range(5):
        level, second = top * part / 4, right * part / 4
        parts.append(f'<path d="M{LEFT} {y(level):.1f}H{WIDTH - 16}" stroke="var(--line)"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(level) + 4:.1f}" text-anchor="end">{level:,.3g}</text>')
        parts.append(f'<text x="{x(second):.1f}" y="{HEIGHT - 12}" text-anchor="middle">{second:,.3g}</text>')
    for at, (label, color, values) in enumerate(lines):
        points = " ".join(f"{x(second):.1f},{y(value):.1f}" for second, value in zip(seconds, values, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="var(--{color})" stroke-width="1.6"/>')
        parts.append(f'<text x="{LEFT + 12}" y="{20 + 16 * at}" style="fill:var(--{color})">{in_html(label)}</text>')
    return (
        f'<figure><svg role="img" aria-label="{in_html(alt)}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'style="font-size:12px;fill:var(--faint)">{"".join(parts)}</svg></figure>'
    )
