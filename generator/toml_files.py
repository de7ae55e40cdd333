"""TOML as people have it: read whole and bounded, and refused in one line that names the file and what is wrong.

Specs, configurations and experiment files all come through here, from the command line and from the library.
"""

from __future__ import annotations

import codecs
import tomllib
from pathlib import Path
from typing import Any

from generator.errors import TomlError
from generator.regular_files import read_bounded

MAX_BYTES = 4 << 20  # settings are kilobytes; a parse costs tens of bytes for each of the file's
MAX_DEPTH = 64

# The longer marks first: UTF-32's begins with UTF-16's.
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file of settings. Raises TomlError."""
    return parse_toml(read_settings(path), path)


def read_settings(path: Path) -> bytes:
    """The bytes of a file of settings; TomlError where it cannot be read or is larger than ``MAX_BYTES``."""
    try:
        data = read_bounded(path, MAX_BYTES)
    except OSError as error:
        raise TomlError(f"{path}: cannot be read ({error.strerror}); give the path of a readable TOML file") from error
    if data is None:
        raise TomlError(
            f"{path}: is larger than {MAX_BYTES >> 20} MiB, which no file of settings is; give the path of a TOML file"
        )
    return data


def parse_toml(data: bytes, path: Path) -> dict[str, Any]:
    """The table in TOML bytes, a byte order mark or not; ``path`` is for the message. Raises TomlError."""
    for mark, encoding in _OTHER_MARKS.items():
        if data.startswith(mark):
            raise TomlError(f"{path}: is {encoding} by its byte order mark; save the file as UTF-8")
    try:
        # tomllib alone takes the mark that Windows editors put first for a key.
        table = tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise TomlError(f"{path}: is not UTF-8 at byte {error.start}, and TOML is; save the file as UTF-8") from error
    except RecursionError as error:
        raise TomlError(f"{path}: is nested too deeply to be settings; mend the file") from error
    except ValueError as error:  # TOMLDecodeError, and a number of more digits than Python converts
        raise TomlError(f"{path}: is not TOML ({error}); mend the file") from error
    if _deeper_than(table, MAX_DEPTH):
        raise TomlError(f"{path}: is nested deeper than {MAX_DEPTH} levels; mend the file")
    return table


def _deeper_than(table: dict[str, Any], depth: int) -> bool:
    """Level by level, since a chain of dotted keys may be nested deeper than a recursion gets."""
    level: list[Any] = [table]
    for _ in range(depth):
        level = [
            value
            for container in level
            for value in (container.values() if isinstance(container, dict) else container)
            if isinstance(value, dict | list)
        ]
    return bool(level)
