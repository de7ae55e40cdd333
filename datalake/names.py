"""What may be called what: names, aliases, ``NAME@V`` references and object keys.

Keys are a subset that is safe as a file path and as an S3 key alike. No segment may start with a dot, which keeps
the local store's ``.tmp`` folder (and ``.`` and ``..``) out of the key space.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from datalake.errors import InvalidNameError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,127}")
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_MAX_KEY = 700  # S3 allows 1,024 bytes; the rest is left to the lake's own prefix


class Ref(NamedTuple):
    """A parsed reference: ``selector`` is a version number, an alias, or None for the latest version."""

    name: str
    selector: int | str | None

    def __str__(self) -> str:
        return self.name if self.selector is None else f"{self.name}@{self.selector}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_name(name: str, what: str = "name") -> str:
    """Return ``name``; raise InvalidNameError unless it is a letter or digit, then up to 127 of ``A-Za-z0-9._-``."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidNameError(
            f"{what} {_shown(name)} is not allowed: use 1 to 128 of A-Z a-z 0-9 . _ -, starting with a letter or digit"
        )
    return name


def check_alias(alias: str) -> str:
    """Return ``alias``; raise InvalidNameError unless it is a name that starts with a letter and is not ``latest``."""
    if not isinstance(alias, str) or not _ALIAS.fullmatch(alias) or alias == "latest":
        raise InvalidNameError(
            f"alias {_shown(alias)} is not allowed: use 1 to 128 of A-Z a-z 0-9 . _ -, starting with a letter, "
            f"and not 'latest' (a bare NAME already means the latest version)"
        )
    return alias


def parse_ref(ref: str, what: str = "reference") -> Ref:
    """Parse ``NAME``, ``NAME@VERSION`` or ``NAME@ALIAS``; raise InvalidNameError for anything else."""
    if not isinstance(ref, str):
        raise InvalidNameError(f"{what} {_shown(ref)} is not text: write NAME, NAME@VERSION or NAME@ALIAS")
    name, at, selector = ref.partition("@")
    check_name(name, what)
    if not at or selector == "latest":
        return Ref(name, None)
    if selector.isascii() and selector.isdigit() and len(selector) <= 9:
        return Ref(name, int(selector))
    return Ref(name, check_alias(selector))


def check_key(key: str) -> str:
    """Return ``key``; raise InvalidNameError unless it is a relative path of plain segments, at most 700 characters."""
    if not isinstance(key, str) or not is_key(key):
        raise InvalidNameError(
            f"object key {_shown(key)} is not allowed: use segments of A-Z a-z 0-9 . _ - joined by '/', "
            f"none empty or starting with a dot, at most {_MAX_KEY} characters"
        )
    return key


def is_key(key: str) -> bool:
    """Whether ``key`` can be an object of a lake. What cannot, such as a file that someone put into the folder, or the
    empty object by which a console marks a folder (``params/``), is none of ours: listings leave it out."""
    return len(key) <= _MAX_KEY and all(_SEGMENT.fullmatch(part) for part in key.split("/"))


def is_name(name: str) -> bool:
    """Whether ``name`` is one that ``check_name`` accepts."""
    return _NAME.fullmatch(name) is not None


def check_prefix(prefix: str) -> str:
    """Return ``prefix``; raise InvalidNameError unless it is empty, or a key, or a key followed by one slash."""
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix
