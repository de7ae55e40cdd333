"""The generator as a lake's readers are given it: rows of any spec by its fields, and the version that fixes them.

A lake knows specs as JSON and generators by their version, and imports none: whoever reads or repairs data hands one
in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from generator.batch import generate_batch, generate_rows
from generator.errors import WeightsError
from generator.lattice import weights
from generator.registry import parse_spec

# Raised whenever any sequence of any spec would come out different.
GENERATOR_VERSION = "1"

FetchWeights = Callable[[str], bytes | None]
"""``fetch(sha256)``: the file with that SHA-256, or None where there is none."""


@dataclass(frozen=True)
class SpecGenerator:
    """Sequences of specs given as JSON fields. ``fetch_weights`` brings the weights that a spec names and that neither
    the package nor this process has; it must be picklable if this is to be pickled. ``threads`` make a table: all cores
    by default."""

    fetch_weights: FetchWeights | None = None
    threads: int | None = None
    version: ClassVar[str] = GENERATOR_VERSION

    def table(self, spec: Mapping[str, Any], seed: int, first: int, rows: int) -> pa.Table:
        """Sequences ``first`` … ``first + rows - 1`` as ``generate_batch`` gives them.

        Raises SpecError, WeightsError, RangeError and BandError.
        """
        provide_weights(spec, self.fetch_weights)
        return generate_batch(parse_spec(spec), seed, first, rows, threads=self.threads)

    def tokens(
        self, spec: Mapping[str, Any], seed: int, ids_N: np.ndarray, attempts_N: np.ndarray | None = None
    ) -> np.ndarray:
        """Tokens of sequences ``ids_N`` (int64 [N]) as ``generate_rows`` gives them: [N, seq_len]; raises the same."""
        provide_weights(spec, self.fetch_weights)
        return generate_rows(parse_spec(spec), seed, ids_N, attempts_N)


def lacks_weights(spec: Mapping[str, Any]) -> str | None:
    """The SHA-256 of weights that ``spec`` (or the spec inside it) needs and this process does not have."""
    base = spec.get("base")
    if isinstance(base, Mapping):
        return lacks_weights(base)
    digest = spec.get("weights")
    needed = spec.get("family") == "lattice" and isinstance(digest, str) and not weights.has(digest)
    return str(digest) if needed else None


def provide_weights(spec: Mapping[str, Any], fetch: FetchWeights | None) -> None:
    """Make the weights that ``spec`` names known to this process, if it lacks any.

    WeightsError if neither the package nor ``fetch`` (None: nothing more is asked) has a file with that SHA-256.
    """
    if fetch is None or (digest := lacks_weights(spec)) is None:
        return
    data = fetch(digest)
    if data is None:
        raise WeightsError(
            f"weights: no model of the lake has a file with SHA-256 {digest}, nor does the package; publish the "
            "lattice there (`morphogen lattice train` with quantise_fraction and publish set)"
        )
    weights.provide(data, digest)
