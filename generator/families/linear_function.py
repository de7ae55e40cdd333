"""Task `linear-function`: in-context regression in whole numbers, y = (slope x + offset) mod `modulus`.

A sequence draws slope (1 to modulus - 1) and offset, then shows x1 y1 x2 y2 ...: x uniform below the modulus, y the
function's value. The answers are the y from pair `answers_from` on (counted from 0): two pairs of different x fix the
function where the modulus is prime. Tokens: x below the modulus, y modulus higher.

Words of the SYMBOLS stream: slope, offset, then one for each x.
"""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from generator import philox
from generator.families.drawing import draw_words
from generator.spec import SequenceSpec, Simulated


class LinearFunctionSpec(SequenceSpec):
    """The modulus, and from which pair on y is asked for."""

    family: Literal["linear-function"] = "linear-function"
    seq_len: int = Field(default=32, ge=2, le=65536)
    modulus: int = Field(default=17, ge=2, le=32_768)
    answers_from: int = Field(default=3, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.answer_mask().any():
            raise ValueError(
                f"answers_from: pair {self.answers_from} has no y within {self.seq_len} tokens; lower it, or raise "
                "`seq_len`"
            )
        return self

    @property
    def vocab_size(self) -> int:
        return 2 * self.modulus

    @property
    def words(self) -> int:
        return 2 + -(-self.seq_len // 2)

    def answer_mask(self) -> np.ndarray:
        place = np.arange(self.seq_len)
        return (place % 2 == 1) & (place // 2 >= self.answers_from)


def simulate(spec: LinearFunctionSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray, backend: str) -> Simulated:
    """Tokens and scored content (the whole sequence). Every backend runs this one NumPy code."""
    del backend
    words = draw_words(spec, seed, ids_N, attempts_N)
    slope_N1 = 1 + philox.below(words[:, :1], spec.modulus - 1)
    offset_N1 = philox.below(words[:, 1:2], spec.modulus)
    x_NP = philox.below(words[:, 2:], spec.modulus)
    y_NP = spec.modulus + (slope_N1 * x_NP + offset_N1) % spec.modulus
    pairs = np.stack([x_NP, y_NP], axis=-1).reshape(len(words), -1)
    tokens = np.ascontiguousarray(pairs[:, : spec.seq_len]).astype(spec.token_dtype)
    return Simulated(tokens, tokens.astype(np.int32))
