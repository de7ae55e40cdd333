"""`morphogen lineage` and `morphogen probe`: questions about the lake as a whole."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.tree import Tree

from datalake import lineage as trace_lineage
from datalake import probe_store
from orchestration.commands.common import DEFAULT_LAKE, AsJson, LakeUri, open_lake, print_json
from orchestration.progress import console


def lineage(
    model: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or NAME@ALIAS of a model.")],
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Name the runs, dataset versions, spec digests and parameter versions behind a model."""
    found = trace_lineage(open_lake(lake), model)
    if as_json:
        print_json(found)
    else:
        Console(highlight=False).print(_tree(found))


def _tree(node: dict[str, Any], tree: Tree | None = None) -> Tree:
    label = f"{node['kind']} [bold]{node['name']}[/bold]"
    details = "  ".join(f"{key}={value}" for key, value in node.items() if isinstance(value, str | int | float))
    branch = Tree(f"{label}  {details}") if tree is None else tree.add(f"{label}  {details}")
    for child in node.get("children", []):
        _tree(child, branch)
    return branch


def probe(
    lake: LakeUri = DEFAULT_LAKE,
    writers: Annotated[int, typer.Option(min=2, max=64, help="Concurrent writers per key.")] = 16,
    keys: Annotated[int, typer.Option(min=1, max=200, help="Keys to race for.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Race writers against the store: is create-if-absent atomic, is a read after a write current?"""
    store = open_lake(lake).store
    console.print(f"racing {writers} writers for {keys} keys on {store.uri} …")
    report = probe_store(store, writers=writers, keys=keys)
    if as_json:
        print_json(asdict(report))
    else:
        typer.echo(str(report))
    if not report.ok:
        raise typer.Exit(1)
