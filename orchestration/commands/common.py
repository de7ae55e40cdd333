"""What every command shares: where the lake is, TOML in, tables or JSON out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from datalake import Lake
from datalake.log.versioned import Version
from datalake.store.addresses import expanded, parse_address
from generator import GenerationSpec, parse_spec
from generator.compute import lacks_weights
from generator.presets import list_presets, load_preset
from orchestration.cluster.submitted import inside_ray_job
from orchestration.console.output import print_fields, say
from orchestration.console.output import print_json as print_json
from orchestration.console.output import print_table as print_table
from orchestration.errors import InvalidRequestError
from orchestration.generation.weights import provide_weights
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
        fields = read_toml(Path(source))
        if lake is not None and lacks_weights(fields):
            provide_weights(open_lake(lake), fields)
        spec = parse_spec(fields)
        if spec.advice is not None:
            say(spec.advice, err=True)
        return spec
    if source in list_presets():
        return load_preset(source)
    if lake is None:
        raise InvalidRequestError(
            f"spec = {source!r}: neither a TOML file nor a preset; give a file or one of {', '.join(list_presets())}"
        )
    opened = open_lake(lake)
    registered = opened.params.get(source).spec
    provide_weights(opened, registered)
    return parse_spec(registered)


def version_shown(version: Version) -> str:
    """A version's number, and whether it is retired."""
    return f"{version.version} (retired)" if version.retired else str(version.version)


def print_summary(summary: dict[str, Any], as_json: bool) -> None:
    """Print what a job came to: a row per value, or JSON."""
    if as_json:
        print_json(summary)
    else:
        print_fields(summary)
