"""Files of settings that a command is given: ``generator.toml_files``, refused as every other argument is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from generator import toml_files
from generator.errors import TomlError
from generator.toml_files import MAX_BYTES
from orchestration.errors import InvalidRequestError

__all__ = ["MAX_BYTES", "parse_toml", "read_settings", "read_toml"]


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file of settings. Raises InvalidRequestError."""
    with _refused():
        return toml_files.read_toml(path)


def read_settings(path: Path) -> bytes:
    """The bytes of a file of settings; InvalidRequestError where it cannot be read or is larger than ``MAX_BYTES``."""
    with _refused():
        return toml_files.read_settings(path)


def parse_toml(data: bytes, path: Path) -> dict[str, Any]:
    """The table in TOML bytes; ``path`` is for the message. Raises InvalidRequestError."""
    with _refused():
        return toml_files.parse_toml(data, path)


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except TomlError as error:
        raise InvalidRequestError(str(error)) from error
