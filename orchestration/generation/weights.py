"""The weights that a spec names, brought to the process that computes with them: from the lake's model repository."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datalake import Lake
from generator.errors import WeightsError
from generator.lattice import weights


def lacks_weights(spec: Mapping[str, Any]) -> str | None:
    """The SHA-256 of weights that ``spec`` (or the spec inside it) needs and this process does not have."""
    base = spec.get("base")
    if isinstance(base, Mapping):
        return lacks_weights(base)
    digest = spec.get("weights")
    needed = spec.get("family") == "lattice" and isinstance(digest, str) and not weights.has(digest)
    return str(digest) if needed else None


def provide_weights(lake: Lake, spec: Mapping[str, Any]) -> None:
    """Make the weights that ``spec`` names known to this process, if it lacks any.

    WeightsError if neither the package nor a version of the lake's models has a file with that SHA-256.
    """
    digest = lacks_weights(spec)
    if digest is None:
        return
    for model in lake.models.names():
        for version in lake.models.history(model):
            for name, file in version.files.items():
                if file["sha256"] == digest:
                    weights.provide(lake.models.open_file(version, name), digest)
                    return
    raise WeightsError(
        f"weights: no model of lake {lake.store.uri} has a file with SHA-256 {digest}, nor does the package; publish "
        "the lattice there (`morphogen lattice train` with quantise_fraction and publish set)"
    )
