"""What every command shares: where the lake is, TOML in, tables or JSON out, and how an interrupt ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from datalake import Lake
from datalake.folders import expanded
from datalake.store.addresses import parse_address
from generator import GenerationSpec, parse_spec
from generator.presets import list_presets, load_preset
from orchestration.cluster.submitted import inside_ray_job
from orchestration.console.output import print_fields
from orchestration.console.output import print_json as print_json
from orchestration.console.output import print_table as print_table
from orchestration.console.progress import console as progress_console
from orchestration.errors import InvalidRequestError, OutputError
from orchestration.runs.signals import GraceOver, Stop, stoppable
from orchestration.toml_files import read_toml

LakeUri = Annotated[
    str, typer.Option("--lake", envvar="MORPHOGEN_LAKE", metavar="URI", help="A folder or s3://bucket/prefix.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Message = Annotated[str, typer.Option("--message", "-m", help="Why, for the history.")]

DEFAULT_LAKE = "lake"


def open_lake(uri: str, *, to_write: bool = False) -> Lake:
    """Open the lake; a relative folder becomes absolute, because Ray's workers have another working directory.

    `to_write` refuses, before anything is started or computed, a store that is known to fail the probe.
    """
    lake = _opened(uri)
    if to_write:
        lake.check_writable()
    return lake


def _opened(uri: str) -> Lake:
    address = parse_address(uri)
    if not isinstance(address, Path):
        return Lake.open(uri)
    path = expanded(address, "lake =")
    if inside_ray_job() and not path.is_absolute():
        raise InvalidRequestError(
            f"lake = {uri!r}: a folder relative to a Ray job's working directory is deleted with the job; "
            "set --lake or MORPHOGEN_LAKE to s3://bucket/prefix or to an absolute folder that all nodes share"
        )
    return Lake.open(os.path.abspath(path))


def spec_from(source: str, lake: str | None = None) -> GenerationSpec:
    """The spec that `source` means: a TOML file, a preset, or (with a lake) a registered NAME, NAME@V or NAME@ALIAS."""
    if source.endswith(".toml") or Path(source).is_file():
        return parse_spec(read_toml(Path(source)))
    if source in list_presets():
        return load_preset(source)
    if lake is None:
        raise InvalidRequestError(
            f"spec = {source!r}: neither a TOML file nor a preset; give a file or one of {', '.join(list_presets())}"
        )
    return parse_spec(open_lake(lake).params.get(source).spec)


def print_summary(summary: dict[str, Any], as_json: bool) -> None:
    """Print what a job came to: a row per value, or JSON."""
    if as_json:
        print_json(summary)
    else:
        print_fields(summary)


@contextmanager
def writing(path: Path, option: str) -> Iterator[None]:
    """Turn what the file system says against writing ``path`` in the block into an OutputError that names it."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{option} = {str(path)!r}: cannot be written ({error.strerror or error}); give a path in a folder that "
            "exists and that you may write"
        ) from error


def check_output(path: Path, option: str) -> None:
    """Raise OutputError, before anything is computed, if no file can be made at ``path``."""
    with writing(path, option):
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        if not path.parent.is_dir():
            raise FileNotFoundError(None, "its folder does not exist")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(None, "no permission")


@contextmanager
def resumable() -> Iterator[None]:
    """End an interrupted job with what to do next, and the exit code that shells expect of SIGINT."""
    try:
        yield
    except KeyboardInterrupt:
        progress_console.print("interrupted; what is done is kept: run the same command again to go on")
        raise typer.Exit(130) from None


@contextmanager
def job() -> Iterator[Stop]:
    """Run a job that SIGTERM and SIGINT stop well; leave at once at a second SIGINT or when the grace is over."""
    with resumable(), stoppable() as stop:
        try:
            yield stop
        except GraceOver:
            progress_console.print(
                f"stopped at once ({stop.reason}, and its grace is over); what was checkpointed is kept: "
                "run the same command again to go on"
            )
            raise typer.Exit(stop.exit_code) from None
