"""Saying in which fields two configurations of a run differ, with both values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from datalake.log.changes import diff_specs

_SHOWN = 4


def describe_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """``steps = 4, not 8; data.0.dataset = 'c@1', not 'c@2'``: the first few fields that differ, and how many more."""
    found = [f"{path} = {_brief(old)}, not {_brief(new)}" for path, old, new in differences(there, here)]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(path, value there, value here) of every field that differs, within lists too; None where there is none."""
    for change in diff_specs(_by_place(there), _by_place(here)):
        yield change.path, change.old, change.new


def _by_place(value: Any) -> Any:
    """Lists as objects by position, since specs are compared within objects only."""
    if isinstance(value, Mapping):
        return {str(name): _by_place(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return {str(place): _by_place(each) for place, each in enumerate(value)}
    return value


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
