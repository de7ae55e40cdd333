"""Task `needle`: context recall. Pairs of a marker and a value, then one of the markers again: which value was its own?

A sequence is m1 v1 m2 v2 ... mP vP q a: the markers are distinct tokens below `markers`, the values any of the `values`
tokens above them, the query q one of the sequence's markers, and the answer a, the last token, that marker's value.
After the task HAYSTACK of arXiv 2505.22308 (section 3).

Words of the SYMBOLS stream: P choose the markers (a partial Fisher-Yates shuffle), P the values, one the query.
"""

from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from generator.families.drawing import draw_distinct, draw_words, fill
from generator.spec import SequenceSpec, Simulated


class NeedleSpec(SequenceSpec):
    """How many pairs, of how many tokens; `seq_len` follows: 2 pairs + 2."""

    family: Literal["needle"] = "needle"
    seq_len: int = Field(default=32, ge=2, le=65536)
    pairs: int = Field(default=15, ge=1, le=32_767)
    markers: int = Field(default=50, ge=1, le=32_768)
    values: int = Field(default=50, ge=2, le=32_768)

    @model_validator(mode="before")
    @classmethod
    def _length(cls, given: Any) -> Any:
        if isinstance(given, dict) and "seq_len" not in given and isinstance(pairs := given.get("pairs"), int):
            return {**given, "seq_len": 2 * pairs + 2}
        return given

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.pairs > self.markers:
            raise ValueError(
                f"pairs: {self.pairs} pairs of distinct markers, but there are {self.markers}; allowed are at most as "
                "many; lower `pairs` or raise `markers`"
            )
        if self.seq_len != 2 * self.pairs + 2:
            raise ValueError(
                f"seq_len: {self.seq_len} is not the 2 · {self.pairs} + 2 tokens of the pairs, the query and the "
                "answer; leave `seq_len` out"
            )
        return self

    @property
    def vocab_size(self) -> int:
        return self.markers + self.values

    @property
    def words(self) -> int:
        return 2 * self.pairs + 1

    @property
    def operations(self) -> int:
        return super().operations + 4 * self.markers

    def answer_mask(self) -> np.ndarray:
        return np.arange(self.seq_len) == self.seq_len - 1


def hide(words_NW: np.ndarray, marker_NP: np.ndarray, markers: int, values: int, tokens_NT: np.ndarray) -> None:
    """Fill tokens from words [N, 2P + 1] and each sequence's own markers [N, P]. Plain Python, and the text that numba
    compiles."""
    pairs = marker_NP.shape[1]
    for n in range(tokens_NT.shape[0]):
        for p in range(pairs):
            tokens_NT[n, 2 * p] = marker_NP[n, p]
            tokens_NT[n, 2 * p + 1] = markers + ((np.int64(words_NW[n, pairs + p]) * values) >> 32)
        asked = (np.int64(words_NW[n, 2 * pairs]) * pairs) >> 32
        tokens_NT[n, 2 * pairs] = tokens_NT[n, 2 * asked]
        tokens_NT[n, 2 * pairs + 1] = tokens_NT[n, 2 * asked + 1]


def simulate(spec: NeedleSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray, backend: str) -> Simulated:
    """Tokens and scored content (the whole sequence)."""
    words = draw_words(spec, seed, ids_N, attempts_N)
    own = draw_distinct(words[:, : spec.pairs], spec.markers, backend)
    return fill(hide, spec, words, backend, own, spec.markers, spec.values)
