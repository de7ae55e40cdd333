"""What a reader of a dataset's rows offers, wherever they come from."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from datalake.shards.manifest import Manifest


class RowReader(Protocol):
    """Rows of one manifest by index."""

    @property
    def manifest(self) -> Manifest:
        """What is read."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """What a token is read as."""
        ...

    def __len__(self) -> int: ...

    def rows(self, indices: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Tokens of rows ``indices`` (int64 [N], any order, repeats allowed): ``dtype`` [N, seq_len], or ``out``."""
        ...

    def column(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Values of another column at rows ``indices``: [N] of the column's own dtype. Raises ManifestError."""
        ...

    def prefetch(self, indices: np.ndarray) -> None:
        """Get these rows ready now, so that ``rows`` finds them at hand."""
        ...
