"""Complexity: how well gzip packs the content of a sequence.

`gzip-int32-v1` = bytes of gzip level 9 (container included) of the content tokens as little-endian int32, divided by
the bytes before. `gzip-int32-v1-normalized` = (r - r_const) / (r_iid - r_const), where r_const is the score of as many
zeros and r_iid the mean score of as many tokens drawn uniformly from the alphabet.
"""

import sys
import threading
import zlib
from functools import lru_cache

import numpy as np

from generator import philox
from generator.spec import BaseSpec

GZIP_WBITS = 31
IID_SAMPLES = 64

# So many rows a process scores by zlib where the kernel's machine code is not kept on disk, or numba is not loaded yet:
# to compile it, once a machine, takes as long as zlib takes for 280,000 rows, and to load numba as for 10,000.
ROWS_BY_ZLIB = 100_000


class _RowCounter:
    """Counts rows over all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.rows = 0

    def add(self, rows: int) -> int:
        """Add to the count and return what it was before."""
        with self._lock:
            before = self.rows
            self.rows += rows
            return before


_scored = _RowCounter()


def gzip_sizes(content_NS: np.ndarray) -> np.ndarray:
    """Bytes of gzip level 9 of each row [N, S] as little-endian int32; int64 [N]. The GIL is free meanwhile."""
    rows = np.ascontiguousarray(content_NS, dtype="<i4")
    return byte_sizes(rows.view(np.uint8).reshape(len(rows), 4 * rows.shape[1]))


def byte_sizes(rows_NB: np.ndarray) -> np.ndarray:
    """Bytes of gzip level 9 of each row of bytes, uint8 [N, B]; int64 [N]: as madler's zlib has them, whatever zlib
    this Python is linked with."""
    if zlib_defines_scores() and _scored.add(len(rows_NB)) < ROWS_BY_ZLIB and not _kernel_at_hand():
        return zlib_sizes(rows_NB)
    from generator.gzip_kernel import stream_sizes  # takes seconds to compile where that was never done

    return stream_sizes(rows_NB)


def _kernel_at_hand() -> bool:
    """Whether the kernel can count from the first row on: it then takes 0.03 s to load."""
    return "numba" in sys.modules and _kernel_is_kept()


@lru_cache(maxsize=1)
def _kernel_is_kept() -> bool:
    from generator.gzip_kernel import loads_at_once

    return loads_at_once()


def zlib_sizes(rows_NB: np.ndarray) -> np.ndarray:
    """``byte_sizes`` by this Python's zlib."""
    return np.array([len(zlib.compress(row, 9, wbits=GZIP_WBITS)) for row in rows_NB], dtype=np.int64)


def score_content(spec: BaseSpec, content_NS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores `gzip-int32-v1` and `gzip-int32-v1-normalized`, float64 [N] each, of content int32 [N, score_tokens]."""
    ratio_N = gzip_sizes(content_NS) / (4.0 * content_NS.shape[1])
    flat, noise = reference_scores(content_NS.shape[1], spec.alphabet)
    return ratio_N, (ratio_N - flat) / (noise - flat)


@lru_cache(maxsize=256)
def reference_scores(length: int, alphabet: int) -> tuple[float, float]:
    """(r_const, r_iid) for `length` tokens below `alphabet`; r_iid is over IID_SAMPLES rows of Philox words, seed 0."""
    flat = int(gzip_sizes(np.zeros((1, length), np.int32))[0])
    total = 0
    rows = max(1, (4 << 20) // length)  # at a time: long contents take 60 bytes a token while they are drawn
    for first in range(0, IID_SAMPLES, rows):
        ids = np.arange(first, min(first + rows, IID_SAMPLES))
        noise = philox.below(philox.words(0, philox.REFERENCE, ids, np.zeros_like(ids), length), alphabet)
        total += int(gzip_sizes(noise).sum())
    # A row too short or an alphabet too small to be told from zeros would divide by nothing.
    mean = max(total / IID_SAMPLES, flat + 1.0)
    return flat / (4.0 * length), mean / (4.0 * length)


# Sizes under zlib 1.2.11 to 1.3.1 of the arrays that `probe_content` makes; other deflate code gives others.
PROBE_SIZES: tuple[int, ...] = (52, 892, 562, 136, 311, 674, 965, 456)


def probe_content() -> list[np.ndarray]:
    """Fixed arrays, int32 [1, 360] each, whose compressed sizes tell deflate implementations apart."""
    steps = np.arange(360, dtype=np.int64)
    noise = philox.words(1, philox.REFERENCE, np.arange(4), np.zeros(4, np.int64), 360)
    arrays = [steps % 7, steps * steps % 9973, (steps // 36) * 1000 + steps % 36]
    arrays += [philox.below(row, bound) for row, bound in zip(noise, (2, 10, 300, 10_000), strict=True)]
    arrays.append(np.where(noise[0] >> 30 == 0, steps % 36, philox.below(noise[1], 50)))
    return [a.astype(np.int32)[None] for a in arrays]


@lru_cache(maxsize=1)
def zlib_defines_scores() -> bool:
    """Whether this Python's zlib gives the sizes that define the scores; zlib-ng and other forks give others."""
    return tuple(int(zlib_sizes(a.view(np.uint8))[0]) for a in probe_content()) == PROBE_SIZES
