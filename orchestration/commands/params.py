"""`morphogen params`: put, show, list, history, tag."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from generator import check_acceptance, parse_spec
from orchestration.commands.common import (
    DEFAULT_LAKE,
    AsJson,
    LakeUri,
    Message,
    open_lake,
    print_json,
    print_table,
    read_toml,
)

app = typer.Typer(no_args_is_help=True)


@app.command()
def put(
    name: Annotated[str, typer.Argument(help="Name of the parameter set.")],
    spec_file: Annotated[Path, typer.Argument(help="TOML file with the spec's fields.")],
    message: Message = "",
    expect: Annotated[int | None, typer.Option(help="Refuse unless this is the latest version.")] = None,
    force: Annotated[bool, typer.Option(help="Make a new version even if the spec is the latest one's.")] = False,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Validate a spec and register it as the next version (or find it registered already)."""
    spec = parse_spec(read_toml(spec_file))
    check_acceptance(spec)
    stored = open_lake(lake).params.put(
        name, spec.model_dump(mode="json"), message=message, expect_version=expect, force=force
    )
    if as_json:
        print_json(asdict(stored))
    else:
        typer.echo(f"{stored.name}@{stored.version}  {stored.digest}")


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
    print_table(["field", "value"], list(found.spec.items()), title=f"{found.name}@{found.version}  {found.digest}")


@app.command("list")
def list_(lake: LakeUri = DEFAULT_LAKE, as_json: AsJson = False) -> None:
    """List the parameter sets with their latest versions."""
    latest = open_lake(lake).params.list()
    if as_json:
        print_json([asdict(each) for each in latest])
        return
    rows = [(each.name, each.version, each.spec.get("family"), each.digest[:12], each.created) for each in latest]
    print_table(["name", "latest", "family", "digest", "created"], rows)


@app.command()
def history(name: str, lake: LakeUri = DEFAULT_LAKE, as_json: AsJson = False) -> None:
    """List the versions of a parameter set: when, who, why."""
    versions = open_lake(lake).params.history(name)
    if as_json:
        print_json([asdict(each) for each in versions])
        return
    rows = [(each.version, each.digest[:12], each.created, each.author, each.message) for each in versions]
    print_table(["version", "digest", "created", "author", "message"], rows)


@app.command()
def tag(
    reference: Annotated[str, typer.Argument(help="NAME@VERSION that the alias shall point at.")],
    alias: str,
    lake: LakeUri = DEFAULT_LAKE,
) -> None:
    """Point an alias at a version."""
    registry = open_lake(lake).params
    target = registry.get(reference)
    registry.tag(target.name, alias, target.version)
    typer.echo(f"{target.name}@{alias} -> {target.version}")
