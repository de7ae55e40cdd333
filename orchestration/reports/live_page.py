"""What a live run counted, as one self-contained HTML page: rates, starvation, and the buffer's depth over time."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from orchestration.console.foreign import as_json
from orchestration.reports.svg import ARMS, GATE, drawing
from orchestration.reports.templates import report

MIB = 1 << 20


def render_live(run: str, live: Mapping[str, Any]) -> str:
    """The page for run ``run`` from the ``live`` facts of its result."""
    title = f"Live training: {run}"
    tiles = (
        (
            f"{live['generated_tokens_per_s']:,.0f}",
            f"tokens generated a second ({live['generated_tokens']:,} in all)",
        ),
        (
            f"{live['consumed_tokens_per_s']:,.0f}",
            f"tokens trained on a second ({live['consumed_tokens']:,} in all)",
        ),
        (f"{live['starvation_s']:,.1f} s", "starved: the trainer waited for data, its first batch not counted"),
        (f"{live['throttled_s']:,.1f} s", "throttled: generators waited at the bound"),
        (
            f"{live['peak_bytes'] / MIB:,.2f} MiB",
            f"held at most; the bound is {live['buffer_bytes'] / MIB:,.2f} MiB",
        ),
        (f"{live['shards_written']:,}", f"shards written, {live['shards_reused']:,} found"),
    )
    return report(
        "live.html",
        title=title,
        dataset=live["dataset"],
        tiles=[("", *tile) for tile in tiles],
        depth=depth_chart(live),
        rates=rate_chart(live),
        counted=as_json(live),
    )


def depth_chart(live: Mapping[str, Any]) -> Markup:
    """The buffer's bytes over time, below their bound."""
    rows = _rows(live)
    seconds = [row["seconds"] for row in rows]
    with drawing("Bytes in the buffer over time, and their bound", "MiB", "seconds") as draw:
        both = [(row["shard_bytes"] + row["batch_bytes"]) / MIB for row in rows]
        draw.axes.plot(seconds, [row["shard_bytes"] / MIB for row in rows], color=ARMS[1], label="shards not begun")
        draw.axes.plot(seconds, both, color=ARMS[0], label="with batches not taken")
        draw.axes.axhline(live["buffer_bytes"] / MIB, color=GATE, linestyle="--", label="bound")
        draw.axes.set_ylim(bottom=0)
        draw.axes.legend()
    return draw.svg


def rate_chart(live: Mapping[str, Any]) -> Markup:
    """Tokens generated and consumed a second, between samples."""
    steps = [
        (before, after, after["seconds"] - before["seconds"])
        for before, after in pairwise(_rows(live))
        if after["seconds"] > before["seconds"]
    ]
    with drawing("Tokens generated and consumed a second, over time", "tokens a second", "seconds") as draw:
        for label, column, color in (
            ("generated", "generated_tokens", ARMS[1]),
            ("consumed", "consumed_tokens", ARMS[0]),
        ):
            rates = [(after[column] - before[column]) / seconds for before, after, seconds in steps]
            draw.axes.plot([after["seconds"] for _, after, _ in steps], rates, color=color, label=label)
        draw.axes.set_ylim(bottom=0)
        draw.axes.legend()
    return draw.svg


def _rows(live: Mapping[str, Any]) -> list[dict[str, float]]:
    return [dict(zip(live["columns"], row, strict=True)) for row in live["timeline"]]
