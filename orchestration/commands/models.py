"""`morphogen models`: list, show, tag."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from orchestration.commands.common import DEFAULT_LAKE, AsJson, LakeUri, open_lake, print_json, print_table

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_(lake: LakeUri = DEFAULT_LAKE, as_json: AsJson = False) -> None:
    """List the models with their latest versions."""
    latest = open_lake(lake).models.list()
    if as_json:
        print_json([asdict(each) for each in latest])
        return
    rows = [(each.name, each.version, each.run, ", ".join(each.datasets), each.created) for each in latest]
    print_table(["name", "latest", "run", "datasets", "created"], rows)


@app.command()
def show(
    reference: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or NAME@ALIAS.")],
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Show one version: its files with digests, its run, its data and its metrics."""
    found = asdict(open_lake(lake).models.get(reference))
    if as_json:
        print_json(found)
        return
    print_table(["field", "value"], list(found.items()), title=f"{found['name']}@{found['version']}")


@app.command()
def tag(
    reference: Annotated[str, typer.Argument(help="NAME@VERSION that the alias shall point at.")],
    alias: str,
    lake: LakeUri = DEFAULT_LAKE,
) -> None:
    """Point an alias at a version."""
    repository = open_lake(lake).models
    target = repository.get(reference)
    repository.tag(target.name, alias, target.version)
    typer.echo(f"{target.name}@{alias} -> {target.version}")
