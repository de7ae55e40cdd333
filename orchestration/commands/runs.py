"""`morphogen runs`: list, show, follow, stop, resume, delete; from any machine that reaches the lake."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from orchestration.commands.common import (
    DEFAULT_LAKE,
    AsJson,
    LakeUri,
    Message,
    open_lake,
    print_json,
    print_summary,
    print_table,
)
from orchestration.commands.delete import delete_run
from orchestration.console.output import print_fields, say
from orchestration.errors import InvalidRequestError
from orchestration.jobs import resume_run
from orchestration.runs.view import progress_text, view_run, view_runs

app = typer.Typer(no_args_is_help=True)
app.command("delete")(delete_run)

Name = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run.")]

END_CODES = {"finished": 0, "stopped": 3}


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Option(help="Only runs of this kind: generate, train, pipeline, …")] = None,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """List the runs: what each is doing, and how far it is."""
    views = view_runs(open_lake(lake))
    if kind is not None:
        views = [view for view in views if view["kind"] == kind]
    if as_json:
        fields = ("name", "kind", "state", "attempts", "progress", "fault_count", "parent", "seen", "owner")
        print_json([{field: view.get(field) for field in fields} for view in views])
        return
    rows = [
        (
            *(view["name"], view["kind"], view["state"], view["attempts"], progress_text(view["progress"])),
            *(view.get("fault_count", 0), view["seen"] or ""),
        )
        for view in views
    ]
    print_table(["run", "kind", "state", "attempts", "progress", "faults", "seen"], rows)


@app.command()
def show(run: Name, lake: LakeUri = DEFAULT_LAKE, as_json: AsJson = False) -> None:
    """Show one run: state, progress, resources, faults, inputs, children, result."""
    view = view_run(open_lake(lake), run)
    if as_json:
        print_json(view)
        return
    print_fields(_for_people(view))


def _for_people(view: dict[str, Any]) -> dict[str, Any]:
    """The document with the progress as a sentence, and what is long at its end."""
    long = ("children", "faults", "config", "result")
    short = {field: value for field, value in view.items() if field not in ("status", *long)}
    return {**short, "progress": progress_text(view["progress"]), **{field: view.get(field) for field in long}}


@app.command()
def follow(
    run: Name,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Print a run's progress as it happens, until its end; ends with 0 (finished), 3 (stopped) or 1 (failed, lost)."""
    opened = open_lake(lake)
    last: tuple[Any, ...] | None = None
    while True:
        view = view_run(opened, run)
        now = (view["state"], view["attempts"], view["progress"], view.get("fault_count", 0))
        if now != last:
            fields = ("name", "state", "attempts", "progress", "fault_count", "error", "seen")
            line = f"{view['seen'] or '':24}  {view['state']:8}  {progress_text(view['progress'])}"
            if as_json:
                print_json({field: view.get(field) for field in fields}, indent=None)
            else:
                say(line.rstrip())
            last = now
        if view["state"] != "running":
            break
        try:
            time.sleep(interval)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
    if view["state"] == "lost":
        say(f"nobody works on it any more: `morphogen runs resume {run}` goes on", err=True)
    elif view.get("error"):
        say(view["error"], err=True)
    raise typer.Exit(END_CODES.get(view["state"], 1))


@app.command()
def stop(run: Name, message: Message = "", lake: LakeUri = DEFAULT_LAKE) -> None:
    """Ask a run to checkpoint and stop; its owner, wherever it is, sees that within seconds."""
    opened = open_lake(lake)
    view = view_run(opened, run)
    if view["state"] == "lost":
        raise InvalidRequestError(
            f"run {run!r} is lost: {view['owner']} gave its last sign of life at {view['seen']}, so there is nothing "
            f"to stop; `morphogen runs resume {run}` goes on with it"
        )
    opened.runs.ask_stop(run, message)
    say(f"asked {run} to stop; `morphogen runs follow {run}` shows when it has", err=True)


@app.command()
def resume(
    run: Name,
    workers: Annotated[
        str | None,
        typer.Option(metavar="N|LOW..HIGH", help="Another number (or range, 2..8) of DDP workers than before."),
    ] = None,
    actors: Annotated[int | None, typer.Option(min=1, help="Another number of generator actors than before.")] = None,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Go on with a run from its record, to its end, here or on RAY_ADDRESS."""
    opened = open_lake(lake, to_write=True)
    state = opened.runs.get(run).state
    overrides = {"workers": workers, "actors": actors}
    changes = {field: value for field, value in overrides.items() if value is not None}
    print_summary(resume_run(opened, run, state, changes), as_json)
