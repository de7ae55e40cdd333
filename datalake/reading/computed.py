"""Random access to the rows of a computed dataset: made when they are asked for.

No store is needed; one that holds the dataset's attempt index makes them cheaper.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datalake.errors import ManifestError
from datalake.reading.attempts import AttemptIndex
from datalake.reading.row_reader import RowReader
from datalake.shards.computed import RowGenerator, check_computable
from datalake.shards.manifest import Manifest


def check_generator(manifest: Manifest, ref: str, generator: RowGenerator) -> None:
    """Raise GeneratorVersionError if ``generator`` would make other rows than those of computed dataset ``ref``.

    Nothing is wrong with a stored one: its rows are read, whoever made them.
    """
    if manifest.is_computed:
        check_computable(manifest.source, generator, f"the rows of computed dataset {ref}")


class ComputedReader(RowReader):
    """Rows of a computed dataset by index.

    Nothing is kept but what ``prefetch`` made last: a plan reads each row once an epoch. Picklable if the generator is,
    without what it keeps. ``index`` spares looking for the attempts that it knows. Raises ManifestError without a
    generator, GeneratorVersionError for one that would make other rows.
    """

    def __init__(self, manifest: Manifest, generator: RowGenerator | None, index: AttemptIndex | None = None) -> None:
        self.manifest = manifest
        self._index = index
        self._generator = check_computable(manifest.source, generator, "the rows of this computed dataset")
        # Replaced as a whole, never changed: threads may read while another fetches ahead.
        self._ready: tuple[np.ndarray, np.ndarray] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return ComputedReader, (self.manifest, self._generator, self._index)

    def rows(self, indices: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Tokens of rows ``indices`` (int64 [N], any order, repeats allowed): ``dtype`` [N, seq_len].

        ``out``, if given, is filled and returned: [N, seq_len] of any integer type that holds a token. Raises
        IndexError, and what the generator raises.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if out is None:
            out = np.empty((len(indices), self.manifest.seq_len), dtype=self.dtype)
        if not len(indices):
            return out
        self.check_rows(int(indices.min()), int(indices.max()))
        missing = np.ones(len(indices), dtype=bool)
        if self._ready is not None:
            ready_M, tokens_MT = self._ready
            place = np.minimum(np.searchsorted(ready_M, indices), len(ready_M) - 1)
            missing = ready_M[place] != indices
            out[~missing] = tokens_MT[place[~missing]]
        if missing.any():
            out[missing] = self._compute(indices[missing])
        return out

    def column(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Raise ManifestError: the rows of a computed dataset have no columns but their tokens."""
        raise ManifestError(
            f"no column {name!r} for {len(indices)} rows: a computed dataset has tokens only; `morphogen data "
            "materialize` stores their scores, too"
        )

    def prefetch(self, indices: np.ndarray) -> None:
        """Compute these rows at once, which is quicker than few at a time, and keep them until the next call."""
        wanted = np.unique(np.asarray(indices, dtype=np.int64))
        if len(wanted):
            self._ready = None
            self._ready = wanted, self.rows(wanted)

    def _compute(self, ids_N: np.ndarray) -> np.ndarray:
        source = self.manifest.source
        assert source.seed is not None, "a synthetic source has a seed"
        if self._index is None:
            return self._generator.tokens(source.spec, source.seed, ids_N)
        attempts_N = self._index.attempts(ids_N)
        known_N = attempts_N >= 0
        out_NT = np.empty((len(ids_N), self.manifest.seq_len), dtype=self.dtype)
        if known_N.any():
            out_NT[known_N] = self._generator.tokens(source.spec, source.seed, ids_N[known_N], attempts_N[known_N])
        if not known_N.all():
            out_NT[~known_N] = self._generator.tokens(source.spec, source.seed, ids_N[~known_N])
        return out_NT
