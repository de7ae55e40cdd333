"""From an experiment's TOML file to a checked ``ExperimentFile``: its fields, then every configuration of its arms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from datalake import sha256_hex
from generator.toml_files import problems_of
from orchestration.errors import ExperimentError, InvalidRequestError
from orchestration.experiment.config.configs import check_configs
from orchestration.experiment.config.file import ExperimentFile
from orchestration.toml_files import parse_toml, read_settings


def load_experiment(path: Path) -> ExperimentFile:
    """Read and check the file. Raises ExperimentError in one line, a clause per problem."""
    try:
        data = read_settings(path)
        table = parse_toml(data, path)
    except InvalidRequestError as error:
        raise ExperimentError(str(error)) from error
    table.setdefault("name", path.stem)
    return parse_experiment(table, folder=path.absolute().parent, file_digest=sha256_hex(data))


def parse_experiment(table: Mapping[str, Any], folder: Path = Path(), file_digest: str = "") -> ExperimentFile:
    """Check a parsed table. Raises ExperimentError."""
    for private in ("folder", "file_digest"):
        if private in table:
            raise ExperimentError(f"{private}: unknown field; remove it")
    try:
        file = ExperimentFile.model_validate({**table, "folder": folder, "file_digest": file_digest})
    except ValidationError as error:
        raise ExperimentError(problems_of(error)) from error
    check_configs(file)
    return file
