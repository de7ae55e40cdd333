"""Family `shuffle-dyck`: brackets of k types, each well nested by itself, freely interleaved.

Tokens, words and limits as in `dyck`, but a closing token picks, by the second word, one of all the open brackets.
"""

from typing import Literal

import numpy as np

from generator.families.dyck import BracketSpec, fill_brackets
from generator.spec import Simulated


class ShuffleDyckSpec(BracketSpec):
    """`depth` limits the open brackets of all types together."""

    family: Literal["shuffle-dyck"] = "shuffle-dyck"


def interleave(words_NW: np.ndarray, types: int, depth: int, open_below: int, tokens_NT: np.ndarray) -> None:
    """Fill tokens from words [N, 2T]. Plain Python, and the text that numba compiles."""
    open_types = np.empty(depth, np.int64)
    for n in range(tokens_NT.shape[0]):
        height = 0
        for i in range(tokens_NT.shape[1]):
            if height == 0 or (height < depth and words_NW[n, 2 * i] < open_below):
                kind = (np.int64(words_NW[n, 2 * i + 1]) * types) >> 32
                open_types[height] = kind
                height += 1
                tokens_NT[n, i] = kind
            else:
                place = (np.int64(words_NW[n, 2 * i + 1]) * height) >> 32
                tokens_NT[n, i] = types + open_types[place]
                height -= 1
                open_types[place] = open_types[height]


def simulate(spec: ShuffleDyckSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray, backend: str) -> Simulated:
    """Tokens and scored content (the whole sequence)."""
    return fill_brackets(interleave, spec, seed, ids_N, attempts_N, backend)
