"""`morphogen models`: list, show, tag, export, evaluate, delete."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from datalake import lineage
from orchestration.commands.common import (
    DEFAULT_LAKE,
    AsJson,
    LakeUri,
    open_lake,
    print_json,
    print_table,
    version_shown,
)
from orchestration.commands.delete import delete_version
from orchestration.commands.evaluate import evaluate
from orchestration.console.output import print_fields, say
from orchestration.errors import InvalidRequestError
from orchestration.folders import writing
from orchestration.reports.cards import UNKNOWN, check_license, model_card

app = typer.Typer(no_args_is_help=True)
app.command()(evaluate)
app.command("delete")(delete_version("models"))


LicenseOption = Annotated[
    str, typer.Option(metavar="ID", help="Licence in the card, as the Hub names it: apache-2.0, cc-by-4.0, …")
]


class Format(StrEnum):
    """Layouts that a model can be exported in."""

    HF = "hf"


@app.command("list")
def list_(lake: LakeUri = DEFAULT_LAKE, as_json: AsJson = False) -> None:
    """List the models with their latest versions."""
    latest = open_lake(lake).models.list()
    if as_json:
        print_json([asdict(each) for each in latest])
        return
    rows = [(each.name, version_shown(each), each.run, ", ".join(each.datasets), each.created) for each in latest]
    print_table(["name", "latest", "run", "datasets", "created"], rows)


@app.command()
def show(
    reference: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or NAME@ALIAS.")],
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Show one version: its files with digests, its run, its data and its metrics."""
    version = open_lake(lake).models.get(reference)
    if as_json:
        print_json(asdict(version))
        return
    facts = {field: value for field, value in asdict(version).items() if field != "retired"}
    print_fields(facts, title=f"{version.name}@{version_shown(version)}")


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
    say(f"{target.name}@{alias} -> {target.version}")


@app.command()
def export(
    reference: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or NAME@ALIAS.")],
    out: Annotated[Path, typer.Argument(help="A folder that does not exist yet or is empty.")],
    layout: Annotated[Format, typer.Option("--format", help="hf: as Hugging Face transformers opens it.")] = Format.HF,
    license: LicenseOption = UNKNOWN,
    lake: LakeUri = DEFAULT_LAKE,
) -> None:
    """Write a version's files, verified, its tokenizer if any, a card (README.md) and its origins (lineage.json)."""
    from orchestration.evaluation.hf_export import write_hf_folder  # PyTorch takes seconds to import

    check_license(license)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidRequestError(f"out = {str(out)!r}: exists and is not an empty folder; give a new one")
    opened = open_lake(lake)
    version = opened.models.usable(reference)
    extra = {"lineage.json": json.dumps(lineage(opened, version.ref), indent=2).encode()}
    with writing(out, "out"):
        out.mkdir(parents=True, exist_ok=True)
        files, lacking = write_hf_folder(
            opened, version, out, extra, card=lambda config, text: model_card(opened, version, config, license, text)
        )
    say(f"{version.ref} -> {out} ({layout.value}: {', '.join(sorted(files))})")
    for said in lacking:
        say(said)
