"""TOML as people have it: read whole and bounded, and refused in one line that names the file and what is wrong.

Specs, configurations and experiment files all come through here, from the command line and from the library.
"""

from __future__ import annotations

import codecs
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from generator.errors import TomlError
from generator.regular_files import read_bounded

MAX_BYTES = 4 << 20  # settings are kilobytes; a parse costs tens of bytes for each of the file's
MAX_DEPTH = 64
MAX_NAMED = 20  # problems of one table

# Parts of a place that pydantic adds for the members of a union.
_INNER = ("str", "dict[str,any]")

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


def problems_of(error: ValidationError, within: str = "") -> str:
    """Return what pydantic found, one clause a problem; fields are named ``within.field`` where that is given."""
    return "; ".join(_problem(item, within) for item in error.errors()[:MAX_NAMED]) + (
        f"; and {error.error_count() - MAX_NAMED} more problems" if error.error_count() > MAX_NAMED else ""
    )


def _problem(item: Any, within: str) -> str:
    parts = [str(part)[:80] for part in item["loc"] if part not in _INNER]
    field = ".".join([within, *parts] if within else parts)
    if item["type"] == "extra_forbidden":
        return f"{field}: unknown field; remove it or check its spelling"
    if item["type"] == "missing":
        return f"{field}: missing; give it a value"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return message if not field or message.startswith(field) else f"{field}: {message}"
    found = repr(item["input"])
    shown = found if len(found) <= 80 else f"{found[:80]}…"
    return f"{field} = {shown}: {message[0].lower()}{message[1:]}"
