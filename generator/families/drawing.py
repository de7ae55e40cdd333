"""From a candidate's stream of random words to its tokens, one after another: what families of sequences share."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from generator import philox
from generator.spec import SequenceSpec, Simulated


@cache
def compiled(function: Callable[..., None]) -> Any:
    """`function` as machine code that releases the GIL."""
    from generator.machine_code import compiled as to_machine_code  # brings numba

    return to_machine_code(function)


def runnable(function: Callable[..., None], backend: str) -> Callable[..., None]:
    """`function` as plain Python for the reference, compiled otherwise."""
    return function if backend == "reference" else compiled(function)


def draw_words(spec: SequenceSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray) -> np.ndarray:
    """The words that the candidates take, uint32 [N, spec.words]."""
    return philox.words(seed, philox.SYMBOLS, ids_N, attempts_N, spec.words)


def fill(
    function: Callable[..., None], spec: SequenceSpec, words_NW: np.ndarray, backend: str, *arguments: Any
) -> Simulated:
    """Let `function(words_NW, *arguments, tokens_NT)` turn words into tokens; all of them are scored content."""
    tokens = np.empty((len(words_NW), spec.seq_len), spec.token_dtype)
    runnable(function, backend)(words_NW, *arguments, tokens)
    return Simulated(tokens, tokens.astype(np.int32))


def choose_distinct(words_NS: np.ndarray, among: int, chosen_NS: np.ndarray) -> None:
    """Fill each row with distinct numbers below `among`, a word each: the first places of a Fisher-Yates shuffle.
    Plain Python, and the text that numba compiles."""
    numbers = np.empty(among, np.int64)
    for n in range(chosen_NS.shape[0]):
        for v in range(among):
            numbers[v] = v
        for s in range(chosen_NS.shape[1]):
            other = s + ((np.int64(words_NS[n, s]) * (among - s)) >> 32)
            chosen_NS[n, s] = numbers[other]
            numbers[other] = numbers[s]


def draw_distinct(words_NS: np.ndarray, among: int, backend: str) -> np.ndarray:
    """Distinct numbers below `among` (at most 2^31), int32 [N, S], from words [N, S]; see `choose_distinct`."""
    chosen_NS = np.empty(words_NS.shape, np.int32)
    runnable(choose_distinct, backend)(words_NS, among, chosen_NS)
    return chosen_NS
