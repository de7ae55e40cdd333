"""How wide a dataset's tokens are: two bytes or four, chosen by its vocabulary and by nothing else."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

MAX_VOCABULARY = 1 << 31
NARROW, WIDE = np.dtype("<u2"), np.dtype("<u4")


def token_dtype(vocab_size: int) -> np.dtype:
    """Little-endian uint16 for a vocabulary of at most 65,536 tokens, uint32 for a larger one (at most 2**31)."""
    return NARROW if vocab_size <= 1 << 16 else WIDE


def widest(dtypes: Iterable[np.dtype]) -> np.dtype:
    """What holds the tokens of every dataset of a mixture; ``dtypes`` are those of ``token_dtype``, at least one."""
    return max(dtypes, key=lambda dtype: dtype.itemsize)
