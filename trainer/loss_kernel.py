"""Cross-entropy and its gradient in one pass over logits: each row is read from memory once and written once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from generator import vector_code
from generator.machine_code import checksum, compiled
from trainer import tiles, vectors
from trainer.vectors import LANES

# Their first argument, the compiler's, is given by numba.
_run_copy: Any = tiles.copy_rows
_run_weigh: Any = tiles.weigh

_SOURCES = checksum(vector_code, vectors, tiles)


@numba.njit(nogil=True)
def _copy(x: np.ndarray, at: int, out: np.ndarray, to: int, count: int, factor: np.float32) -> None:
    """``count`` numbers times ``factor``."""
    even = count - count % LANES
    _run_copy(x, at, 0, out, to, 0, 1, even, factor)
    for place in range(even, count):
        out[to + place] = x[at + place] * factor


def make_losses() -> Callable[..., int]:
    """``losses(logits, targets, out, vocab, first, last)`` for rows ``first`` … ``last`` - 1 of logits [N, vocab].

    All arrays are flat. out, float32 [N], is -log softmax(logits)[target], and its gradient takes the logits' place.
    Returns a checksum of the sources that it is compiled from.
    """
    sources = _SOURCES

    def losses(logits: np.ndarray, targets: np.ndarray, out: np.ndarray, vocab: int, first: int, last: int) -> int:
        chunks = -(-vocab // LANES)
        line, found = np.full(chunks * LANES, -np.inf, np.float32), np.empty(2, np.float32)
        for row in range(first, last):
            at, target = row * vocab, row * vocab + targets[row]
            wanted = logits[target]
            _copy(logits, at, line, 0, vocab, np.float32(1.0))
            for place in range(vocab, chunks * LANES):
                line[place] = -np.inf
            _run_weigh(line, 0, chunks, found, 0)
            out[row] = found[0] - math.log(found[1]) - wanted
            _copy(line, 0, logits, at, vocab, found[1])
            logits[target] -= np.float32(1.0)
        return sources

    return compiled(losses)
