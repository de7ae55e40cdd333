"""What a reader of a dataset's rows offers, wherever they come from."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from datalake.errors import ManifestError
from datalake.shards.manifest import Manifest
from datalake.shards.roles import has_roles


class RowReader(Protocol):
    """Rows of one manifest by index. Readers derive from it: what the manifest says is said here."""

    manifest: Manifest

    def __len__(self) -> int:
        return self.manifest.sequences

    @property
    def dtype(self) -> np.dtype:
        """What a token is read as."""
        return self.manifest.token_dtype

    @property
    def has_roles(self) -> bool:
        """Whether ``roles`` has something to say."""
        return has_roles(self.manifest)

    def check_rows(self, low: int, high: int) -> None:
        """Raise IndexError unless rows ``low`` to ``high`` are there."""
        if low < 0 or high >= len(self):
            raise IndexError(f"rows {low} to {high} of a dataset of {len(self)}")

    def rows(self, indices: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Tokens of rows ``indices`` (int64 [N], any order, repeats allowed): ``dtype`` [N, seq_len], or ``out``."""
        ...

    def column(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Values of another column at rows ``indices``: [N] of the column's own dtype. Raises ManifestError."""
        ...

    def roles(self, indices: np.ndarray) -> np.ndarray:
        """What each token of rows ``indices`` is for: uint8 [N, seq_len]. Raises ManifestError where nothing says."""
        raise ManifestError(
            f"{len(indices)} rows of a dataset without roles: nothing says which of its tokens are answers; add "
            "prompts and answers with `morphogen corpus add --prompt-field … --answer-field …`"
        )

    def prefetch(self, indices: np.ndarray) -> None:
        """Get these rows ready now, so that ``rows`` finds them at hand."""
        ...
