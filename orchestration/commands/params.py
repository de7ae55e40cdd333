"""`morphogen params`: put, show, list, history, diff, watch, tag, delete."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from typing import Annotated

import typer

from generator import check_acceptance
from orchestration.commands.common import (
    DEFAULT_LAKE,
    AsJson,
    LakeUri,
    Message,
    open_lake,
    print_json,
    print_table,
    spec_from,
    version_shown,
)
from orchestration.commands.delete import delete_version
from orchestration.console.output import print_fields, say

app = typer.Typer(no_args_is_help=True)
app.command("delete")(delete_version("params"))


@app.command()
def put(
    name: Annotated[str, typer.Argument(help="Name of the parameter set.")],
    source: Annotated[str, typer.Argument(metavar="SPEC.toml|PRESET", help="A TOML file, or the name of a preset.")],
    message: Message = "",
    expect: Annotated[int | None, typer.Option(help="Refuse unless this is the latest version.")] = None,
    force: Annotated[bool, typer.Option(help="Make a new version even if the spec is the latest one's.")] = False,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Validate a spec and register it as the next version (or find it registered already)."""
    spec = spec_from(source)
    check_acceptance(spec)
    stored = open_lake(lake).params.put(
        name, spec.model_dump(mode="json"), message=message, expect_version=expect, force=force
    )
    if as_json:
        print_json(asdict(stored))
    else:
        say(f"{stored.name}@{stored.version}  {stored.digest}")


@app.command()
def show(
    reference: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or NAME@ALIAS.")],
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Show one version's spec."""
    found = open_lake(lake).params.get(reference)
    if as_json:
        print_json(asdict(found))
        return
    print_fields(found.spec, title=f"{found.name}@{version_shown(found)}  {found.digest}")


@app.command("list")
def list_(lake: LakeUri = DEFAULT_LAKE, as_json: AsJson = False) -> None:
    """List the parameter sets with their latest versions."""
    latest = open_lake(lake).params.list()
    if as_json:
        print_json([asdict(each) for each in latest])
        return
    rows = [
        (each.name, version_shown(each), each.spec.get("family"), each.digest[:12], each.created) for each in latest
    ]
    print_table(["name", "latest", "family", "digest", "created"], rows)


@app.command()
def history(name: str, lake: LakeUri = DEFAULT_LAKE, as_json: AsJson = False) -> None:
    """List the versions of a parameter set: when, who, why."""
    versions = open_lake(lake).params.history(name)
    if as_json:
        print_json([asdict(each) for each in versions])
        return
    rows = [(version_shown(each), each.digest[:12], each.created, each.author, each.message) for each in versions]
    print_table(["version", "digest", "created", "author", "message"], rows)


@app.command()
def diff(
    old: Annotated[str, typer.Argument(help="NAME@VERSION or NAME@ALIAS.")],
    new: Annotated[str, typer.Argument(help="Another version, of this name or another.")],
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Show the fields in which two versions differ."""
    changes = open_lake(lake).params.diff(old, new)
    if as_json:
        print_json([asdict(each) for each in changes])
        return
    if not changes:
        say(f"{old} and {new} are the same spec")
        return
    absent = "(absent)"
    rows = [(c.path, absent if c.added else c.old, absent if c.removed else c.new) for c in changes]
    print_table(["field", old, new], rows)


@app.command()
def watch(
    name: Annotated[str, typer.Argument(help="Name of the parameter set; it need not exist yet.")],
    after: Annotated[
        int | None, typer.Option(min=0, help="Tell everything after this log entry; 0 for the whole history.")
    ] = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 2.0,
    count: Annotated[int | None, typer.Option(min=1, help="End after this many changes.")] = None,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Follow new versions and moved aliases as they happen, until interrupted; with --json, one document a line."""
    changes = open_lake(lake).params.watch(name, after, interval)
    try:
        for change in islice(changes, count):
            where = f"{name}@{change.version}" if change.alias is None else f"{name}@{change.alias} -> {change.version}"
            line = f"{change.time}  {change.what}  {where}  {change.author}  {change.message}".rstrip()
            if as_json:
                print_json(asdict(change), indent=None)
            else:
                say(line)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command()
def tag(
    reference: Annotated[str, typer.Argument(help="NAME@VERSION that the alias shall point at.")],
    alias: str,
    expect: Annotated[
        int | None, typer.Option(min=0, help="Refuse unless the alias points at this version now; 0: does not exist.")
    ] = None,
    lake: LakeUri = DEFAULT_LAKE,
) -> None:
    """Point an alias at a version."""
    registry = open_lake(lake).params
    target = registry.get(reference)
    registry.tag(target.name, alias, target.version, expect)
    say(f"{target.name}@{alias} -> {target.version}")
