"""The part of a configuration that all arms share: its hash, and where two configurations differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from datalake import digest_of


def shared_hash(config: Mapping[str, Any], leave_out: Iterable[str]) -> str:
    """SHA-256 of the canonical JSON of ``config`` without the dotted paths ``leave_out`` ("seed", "optimizer.lr")."""
    return digest_of(without(config, leave_out))


def without(config: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """``config`` less the tables and values at the dotted paths; a table stays, empty, when all in it is left out."""
    gone = [path.partition(".") for path in paths]
    kept = {}
    for key, value in config.items():
        below = [rest for head, _, rest in gone if head == key]
        if "" not in below:
            kept[key] = without(value, below) if below and isinstance(value, Mapping) else value
    return kept


def differences(
    one: Mapping[str, Any], other: Mapping[str, Any], leave_out: Iterable[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Dotted path -> (value in ``one``, value in ``other``) where they differ; None where one has no such path."""
    paths = tuple(leave_out)
    mine, theirs = dict(_leaves(without(one, paths))), dict(_leaves(without(other, paths)))
    return {
        path: (mine.get(path), theirs.get(path))
        for path in sorted(mine.keys() | theirs.keys())
        if mine.get(path, ...) != theirs.get(path, ...)
    }


def _leaves(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        inner = value.items()
    elif isinstance(value, list | tuple) and value:
        inner = dict(enumerate(value)).items()
    else:
        yield path, value
        return
    for name, each in inner:
        yield from _leaves(each, f"{path}.{name}" if path else str(name))
