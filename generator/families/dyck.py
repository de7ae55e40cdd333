"""Family `dyck`: well-nested brackets of k types with a depth limit, as an endless stream cut to seq_len.

Token t opens type t, token k + t closes it. Words 2i and 2i + 1 of the SYMBOLS stream decide token i: the first whether
it opens (always at depth 0, never at the limit), the second which type opens.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import Field

from generator.families.drawing import draw_words, fill
from generator.spec import SequenceSpec, Simulated


class BracketSpec(SequenceSpec):
    """What `dyck` and `shuffle-dyck` share."""

    types: int = Field(default=64, ge=1, le=32_767)
    depth: int = Field(default=16, ge=1, le=1024)
    open_probability: float = Field(default=0.5, gt=0.0, lt=1.0)

    @property
    def vocab_size(self) -> int:
        return 2 * self.types

    @property
    def words(self) -> int:
        return 2 * self.seq_len

    @property
    def open_below(self) -> int:
        """A word below this opens."""
        return int(self.open_probability * 2**32)


class DyckSpec(BracketSpec):
    """Closing brackets match the last one open."""

    family: Literal["dyck"] = "dyck"


def nest(words_NW: np.ndarray, types: int, depth: int, open_below: int, tokens_NT: np.ndarray) -> None:
    """Fill tokens from words [N, 2T]. Plain Python, and the text that numba compiles."""
    stack = np.empty(depth, np.int64)
    for n in range(tokens_NT.shape[0]):
        height = 0
        for i in range(tokens_NT.shape[1]):
            if height == 0 or (height < depth and words_NW[n, 2 * i] < open_below):
                kind = (np.int64(words_NW[n, 2 * i + 1]) * types) >> 32
                stack[height] = kind
                height += 1
                tokens_NT[n, i] = kind
            else:
                height -= 1
                tokens_NT[n, i] = types + stack[height]


def fill_brackets(
    function: Callable[..., None], spec: BracketSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray, backend: str
) -> Simulated:
    """Draw the words, and let `function` turn them into tokens."""
    words = draw_words(spec, seed, ids_N, attempts_N)
    return fill(function, spec, words, backend, spec.types, spec.depth, spec.open_below)


def simulate(spec: DyckSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray, backend: str) -> Simulated:
    """Tokens and scored content (the whole sequence)."""
    return fill_brackets(nest, spec, seed, ids_N, attempts_N, backend)
