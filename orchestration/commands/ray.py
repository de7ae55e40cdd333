"""`morphogen ray`: keep a Ray of this machine between commands, so that each saves the seconds of starting its own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from orchestration.commands.common import AsJson, print_fields, print_json
from orchestration.console.output import say

app = typer.Typer(no_args_is_help=True)


@app.command()
def start(
    cpus: Annotated[
        int | None, typer.Option(min=1, help="Logical CPUs; a job that needs more at once starts a Ray of its own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a Ray that later commands of this user on this machine join, with this environment, until `ray stop`."""
    from orchestration.cluster.kept import USUAL_START_S
    from orchestration.cluster.session import keep_ray
    from orchestration.console.progress import stage

    with stage("start Ray", USUAL_START_S) as advance:
        kept = keep_ray(cpus, lambda seconds: advance(min(seconds, USUAL_START_S), ""))
    _show({"address": kept.address, "cpus": kept.cpus, "pid": kept.pid}, as_json)


@app.command()
def stop(
    force: Annotated[bool, typer.Option("--force", help="Also while a command uses it, which then ends.")] = False,
) -> None:
    """End the Ray that `ray start` keeps; no other Ray of the machine is touched."""
    from orchestration.cluster.kept import stop_kept

    kept = stop_kept(force=force)
    say("no Ray was kept" if kept is None else f"the Ray kept at {kept.address} has ended")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the Ray that is kept, whether a command uses it, and why this environment would not."""
    from orchestration.cluster.kept import in_use, kept_ray

    kept = kept_ray()
    if kept is None:
        _show({"kept": False}, as_json)
        return
    facts = {"address": kept.address, "cpus": kept.cpus, "pid": kept.pid}
    since = datetime.fromtimestamp(kept.started, UTC).isoformat(timespec="seconds")
    _show({"kept": True, **facts, "since": since, "in_use": in_use(), "not_joined": kept.differs(0)}, as_json)


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        print_fields(facts)
