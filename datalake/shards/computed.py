"""Rows that are computed instead of fetched: what this package asks of a generator, of which it imports none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from pyarrow import Table

from datalake.errors import GeneratorVersionError, ManifestError
from datalake.shards.source import Source


class RowGenerator(Protocol):
    """Makes the sequences of synthetic sources, each a pure function of (``version``, spec, seed, sequence id)."""

    @property
    def version(self) -> str:
        """What a source names as its ``generator``."""
        ...

    def table(self, spec: Mapping[str, Any], seed: int, first: int, rows: int) -> Table:
        """Sequences ``first`` … ``first + rows - 1`` with all columns of a shard."""
        ...

    def tokens(
        self, spec: Mapping[str, Any], seed: int, ids_N: np.ndarray, attempts_N: np.ndarray | None = None
    ) -> np.ndarray:
        """Tokens of sequences ``ids_N`` (int64 [N], any order, repeats allowed): the source's token type [N, T].

        ``attempts_N`` (int64 [N]) are the attempts that the spec accepts, where they are known: none is looked for.
        """
        ...


def check_computable(source: Source, generator: RowGenerator | None, what: str) -> RowGenerator:
    """The generator itself. ``what`` names the rows in the errors.

    Raises ManifestError for a source that is not synthetic or without a generator, GeneratorVersionError if the
    generator would make other rows than the source's.
    """
    if source.kind != "synthetic":
        raise ManifestError(f"{what} of a {source.kind} dataset cannot be computed: only synthetic data can be")
    if generator is None:
        raise ManifestError(f"{what} are computed where they are read, and this reader has no generator: give it one")
    if source.generator != generator.version:
        raise GeneratorVersionError(
            f"{what} were made by generator version {source.generator}, this is {generator.version}: use the release "
            f"of morphogen that has version {source.generator}"
        )
    return generator


def compute_table(source: Source, generator: RowGenerator | None, first: int, rows: int) -> Table:
    """The table of sequences ``first`` … ``first + rows - 1``; raises as ``check_computable``, and what it raises."""
    able = check_computable(source, generator, f"sequences {first} to {first + rows - 1}")
    assert source.seed is not None, "a synthetic source has a seed"
    return able.table(source.spec, source.seed, first, rows)
