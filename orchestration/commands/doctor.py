"""`morphogen doctor`: what a person runs first when something is odd."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from orchestration.commands.common import DEFAULT_LAKE, AsJson, LakeUri, print_json
from orchestration.console.output import say

_MARKS = {"ok": "ok", "warning": "look", "failed": "FAILED"}


def doctor(
    lake: LakeUri = DEFAULT_LAKE,
    timeout: Annotated[float, typer.Option(min=1, max=600, metavar="SECONDS", help="Longest wait for all of it.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Look at this machine, the Ray that RAY_ADDRESS names and the lake; say what to do about what is wrong.

    Exit code 0 if jobs can run, 2 if something failed. No secret is shown.
    """
    from orchestration.doctor.examination import examine_all

    records = [finding.to_record() for finding in examine_all(lake, timeout)]
    counts = Counter(record["status"] for record in records)
    if as_json:
        print_json({"ok": not counts["failed"], "findings": records})
    else:
        for record in records:
            say(f"{_MARKS[record['status']]:>6}  {record['what']}: {record['found']}")
            if record["advice"]:
                say(f"{'':>6}  {'':{len(record['what'])}}  -> {record['advice']}")
        say(f"{counts['failed']} failed, {counts['warning']} to look at, {counts['ok']} ok")
    if counts["failed"]:
        raise typer.Exit(2)
