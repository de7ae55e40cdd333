"""`morphogen params|data|models|runs delete`: retire a version or a run, or take the mark off again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import typer

from datalake.maintenance.retire import Kind, restore_version, retire_run, retire_version
from orchestration.commands.common import DEFAULT_LAKE, AsJson, LakeUri, Message, open_lake, print_json
from orchestration.console.output import say
from orchestration.errors import InvalidRequestError
from orchestration.runs.lease import unowned
from orchestration.runs.view import view_of

Reference = Annotated[str, typer.Argument(metavar="NAME@V", help="One version, by its number.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run that nobody works on.")]
Force = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Repeat what is to be retired: do so although something depends on it."),
]
Undo = Annotated[
    bool, typer.Option("--undo", help="Take the mark off again; works until `data gc` has removed something of it.")
]
_NEXT = (
    "`morphogen data gc` frees what nothing else names, once its grace period is over; until then --undo takes it back"
)


def delete_version(kind: Kind) -> Callable[..., None]:
    """The command ``delete`` of a kind that has versions."""

    def delete(
        reference: Reference,
        force: Force = None,
        undo: Undo = False,
        message: Message = "",
        lake: LakeUri = DEFAULT_LAKE,
        as_json: AsJson = False,
    ) -> None:
        """Retire a version nothing depends on: it stays in the lineage, nothing new uses it, `data gc` frees it."""
        opened = open_lake(lake, to_write=True)
        _check(force, undo)
        if undo:
            version = restore_version(opened, kind, reference, message)
            _tell(asdict(version), f"{version.ref} is in use again", as_json)
            return
        outcome = retire_version(opened, kind, reference, message, force=force)
        said = "is retired" if outcome.changed else "was retired before"
        _tell(asdict(outcome.version), f"{outcome.version.ref} {said}: {_NEXT}", as_json)

    return delete


def delete_run(
    run: RunName,
    force: Force = None,
    undo: Undo = False,
    message: Message = "",
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Retire a run nothing depends on: its record and curve stay, it goes on no more, `data gc` frees the rest."""
    opened = open_lake(lake, to_write=True)
    _check(force, undo)
    if undo:
        found = opened.runs.restore(run, message)
        _tell(view_of(opened, found), f"run {run} can go on again", as_json)
        return
    seen = unowned(opened, run, wait=True)
    found, changed, _ = retire_run(opened, run, message, over=seen.state["lease"], force=force)
    _tell(view_of(opened, found), f"run {run} {'is retired' if changed else 'was retired before'}: {_NEXT}", as_json)


def _check(force: str | None, undo: bool) -> None:
    if undo and force is not None:
        raise InvalidRequestError("--force: nothing is forced by --undo; leave one of them out")


def _tell(document: dict[str, Any], line: str, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        say(line)
