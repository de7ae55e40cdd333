"""`train --live` on the command line: its options, the table it reads, and what it leaves behind for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestration.console.progress import console
from orchestration.errors import InvalidRequestError
from orchestration.live.config import LiveRequest, parse_live

if TYPE_CHECKING:
    from trainer import TrainResult

LiveFlag = Annotated[
    bool, typer.Option("--live", help="Make the dataset that the config's table [live] describes while training on it.")
]
BufferBytes = Annotated[
    int | None, typer.Option(min=1, help="With --live: bytes generated and not yet trained on, at most (256 MiB).")
]
LiveReport = Annotated[
    Path | None, typer.Option(help="With --live: HTML file for rates and buffer depth; RUN-live.html by default.")
]


def take_live(table: dict[str, Any], live: bool, no_ray: bool, buffer_bytes: int | None) -> LiveRequest | None:
    """Take [live] out of a config's table, which is then the same for either way of running; what it asks for."""
    described = table.pop("live", None)
    if not live:
        if buffer_bytes is not None:
            raise InvalidRequestError(f"buffer-bytes = {buffer_bytes}: only --live has a buffer; add it")
        return None
    if no_ray:
        raise InvalidRequestError("no-ray: --live makes data on Ray's actors; leave one of them out")
    return parse_live(described, buffer_bytes=buffer_bytes)


def report_live(result: TrainResult, report: Path | None, as_json: bool) -> dict[str, Any]:
    """Write the report of a live run; its record for printing, which as text leaves the long timeline out."""
    record = result.to_record()
    live = record["facts"].get("live")
    if live is None:  # the dataset was there already
        return record
    from orchestration.reports.live_page import render_live

    path = report or Path(f"{result.run}-live.html")
    try:
        path.write_text(render_live(result.run, live), encoding="utf-8")
        where = str(path)
    except OSError as error:  # the run is finished, and its figures are in the lake
        where = f"the page {path} could not be written ({error.strerror})"
    held = f"at most {live['peak_bytes']:,} of {live['buffer_bytes']:,} bytes"
    console.print(
        f"  generated {live['generated_tokens_per_s']:,.0f} tokens/s, consumed {live['consumed_tokens_per_s']:,.0f}, "
        f"starved {live['starvation_s']:.1f}s, {held}: {where}"
    )
    if not as_json:
        record["facts"]["live"] = {key: value for key, value in live.items() if key not in ("columns", "timeline")}
    return record
