"""A spec as rows of a table; other records are ``console.output.flat_rows``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def spec_rows(spec: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    """(dotted path, value as JSON) of every field of a spec, by name."""
    rows = []
    for name, value in sorted(spec.items()):
        nested = isinstance(value, Mapping) and value
        rows += spec_rows(value, f"{path}{name}.") if nested else [(f"{path}{name}", json.dumps(value))]
    return rows
