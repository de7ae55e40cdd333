"""The weights that a spec names, brought to the process that computes with them: from the lake's model repository."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datalake import Lake
from generator import compute


def provide_weights(lake: Lake, spec: Mapping[str, Any]) -> None:
    """``generator.compute.provide_weights`` from ``lake``'s models."""
    compute.provide_weights(spec, lake.models.find_file)
