"""`morphogen pipeline`: generate, pre-pre-train, carry over, evaluate and publish, as one job that resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orchestration.commands.common import DEFAULT_LAKE, AsJson, LakeUri, open_lake, print_json
from orchestration.console.output import say
from orchestration.jobs import pipeline_run
from orchestration.toml_files import read_toml


def pipeline(
    file: Annotated[Path, typer.Argument(metavar="PIPELINE.toml", help="TOML file: params, [generate], [pre], …")],
    run: Annotated[str | None, typer.Option(help="Run name; made of the file's digest by default.")] = None,
    actors: Annotated[
        int | None, typer.Option(help="Generator actors; by default what the cluster has room for.")
    ] = None,
    backend: Annotated[str, typer.Option(help="Generator: auto, numba, triton, reference; same bytes.")] = "auto",
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N|LOW..HIGH",
            help="DDP workers, or a range such as 2..8 that follows the cluster; by default one per GPU, or two.",
        ),
    ] = None,
    gpu: Annotated[bool | None, typer.Option("--gpu/--no-gpu", help="One GPU per worker; if there are any.")] = None,
    no_ray: Annotated[bool, typer.Option("--no-ray", help="In this process, on this machine's cores.")] = False,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Generate, train, carry over, evaluate and publish as PIPELINE.toml says; what is done is not done again."""
    from orchestration.pipeline.config import parse_pipeline

    config = parse_pipeline(read_toml(file), file.stem)
    settings = {"actors": actors, "backend": backend, "workers": workers, "gpu": gpu, "ray": not no_ray}
    print_pipeline(pipeline_run(open_lake(lake, to_write=True), config, run, settings), as_json)


def print_pipeline(result: dict[str, Any], as_json: bool) -> None:
    """Print what a pipeline came to."""
    if as_json:
        print_json(result)
        return
    for field in ("run", "params", "dataset", "heldout"):
        say(f"{field:>10}  {result[field]}")
    for name, training in result["trainings"].items():
        scores = (f"{ref}: loss {scores['loss']:.4f}" for ref, scores in training["evals"].items() if "loss" in scores)
        say(f"{name:>10}  {training['model']}  run {training['run']}  {', '.join(scores)}")
