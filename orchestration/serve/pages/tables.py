"""Nested JSON as rows of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def flat_rows(value: Any, path: str = "") -> list[tuple[str, str]]:
    """(dotted path, value as text) of every leaf of nested mappings, in order; floats to six digits."""
    if isinstance(value, dict) and value:
        return [row for key, inner in value.items() for row in flat_rows(inner, f"{path}.{key}" if path else key)]
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return [row for place, inner in enumerate(value) for row in flat_rows(inner, f"{path}[{place}]")]
    if isinstance(value, list | tuple):
        return [(path, ", ".join(map(_leaf, value)) or "none")]
    return [(path, _leaf(value))]


def spec_rows(spec: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    """(dotted path, value as JSON) of every field of a spec, by name."""
    rows = []
    for name, value in sorted(spec.items()):
        nested = isinstance(value, Mapping) and value
        rows += spec_rows(value, f"{path}{name}.") if nested else [(f"{path}{name}", json.dumps(value))]
    return rows


def _leaf(value: Any) -> str:
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
