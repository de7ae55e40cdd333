"""`morphogen lineage` and `morphogen probe`: questions about the lake as a whole."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.tree import Tree

from datalake import lineage as trace_lineage
from datalake import probe_store, record_conformance
from orchestration.commands.common import DEFAULT_LAKE, AsJson, LakeUri, open_lake, print_json
from orchestration.console.foreign import styled
from orchestration.console.output import print_renderable, say
from orchestration.console.progress import stage


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
        print_renderable(_tree(found))


def _tree(found: dict[str, Any], above: Tree | None = None) -> Tree:
    """A model, its run, its data with the parameters that made it, and below that the models it started from."""
    model, run = found["model"], found["run"]
    label = styled("model ", (model["ref"], "bold"), f"  {model['digest']}{_mark(model)}")
    tree = Tree(label) if above is None else above.add(label)
    tree.add(
        styled(
            "run ",
            (run["name"], "bold"),
            "  (its log is gone)" if "missing" in run else f"  {run['status']}{_mark(run)}",
        )
    )
    for dataset in found["datasets"]:
        size = f"  {dataset['digest']}  {dataset['tokens']:,} tokens{_mark(dataset)}"
        branch = tree.add(styled("dataset ", (dataset["ref"], "bold"), size))
        branch.add(f"spec  {dataset['spec_digest']}")
        if dataset["params"]:
            made_by = dataset["params"]
            branch.add(styled("parameters ", (made_by["ref"], "bold"), f"  {made_by['digest']}{_mark(made_by)}"))
    for parent in found["parents"]:
        _tree(parent, tree)
    return tree


def _mark(part: dict[str, Any]) -> str:
    return "  (retired)" if part["retired"] else ""


def probe(
    lake: LakeUri = DEFAULT_LAKE,
    writers: Annotated[int, typer.Option(min=2, max=64, help="Concurrent writers per key.")] = 32,
    keys: Annotated[int, typer.Option(min=1, max=200, help="Keys to race for.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Race writers against the store and keep the result: a store that fails is refused by every later write."""
    opened = open_lake(lake)
    title = f"{writers} writers race for {keys} keys on {opened.uri}"
    with stage(title, keys) as advance:
        report = probe_store(
            opened.store, writers, keys, opened.system, progress=lambda done, _all: advance(done, "races")
        )
    record_conformance(opened.store, report, opened.system)
    if as_json:
        print_json(asdict(report))
    else:
        for violation in report.violations:
            say(violation)
        say(f"{report.keys} keys, {report.writers} writers each, {report.seconds:.1f} s: {_conformance(report.ok)}")
    if not report.ok:
        raise typer.Exit(1)


def _conformance(ok: bool) -> str:
    if ok:
        return "one writer won each, and all saw its object at once: this store may hold a lake"
    return "this store must not hold a lake; writing to it is refused from now on"
