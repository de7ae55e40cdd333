"""Task `arithmetic`: sums and products of numbers of fixed length, one problem after another, the lowest digit first.

A problem is `a op b = c`: a and b have `digits` digits in `base`, leading zeros included, c as many as it may need: one
more for a sum, twice as many for a product. Every number is written with its lowest digit first, so that a carry is
known when it is needed. The answers are the digits of c. Tokens: the digits, then the operator, `=`.

Words of the SYMBOLS stream: for each problem a's digits, then b's.
"""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from generator import philox
from generator.families.drawing import draw_words
from generator.spec import SequenceSpec, Simulated


class ArithmeticSpec(SequenceSpec):
    """Which operation, on numbers of how many digits; a sequence ends where `seq_len` cuts it."""

    family: Literal["arithmetic"] = "arithmetic"
    task: Literal["addition", "multiplication"]
    seq_len: int = Field(default=64, ge=2, le=65536)
    digits: int = Field(default=3, ge=1, le=9)
    base: int = Field(default=10, ge=2, le=64)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.task == "multiplication" and self.base ** (2 * self.digits) > 1 << 62:
            raise ValueError(
                f"digits: products of {self.digits} digits in base {self.base} exceed 2^62; lower `digits` or `base`"
            )
        if not self.answer_mask().any():
            raise ValueError(
                f"seq_len: {self.seq_len} tokens end before the first answer, which begins at token "
                f"{2 * self.digits + 3}; raise `seq_len` or lower `digits`"
            )
        return self

    @property
    def answer_digits(self) -> int:
        """Digits of an answer."""
        return self.digits + 1 if self.task == "addition" else 2 * self.digits

    @property
    def problem_tokens(self) -> int:
        """Tokens of a problem: a, operator, b, `=`, c."""
        return 2 * self.digits + 2 + self.answer_digits

    @property
    def problems(self) -> int:
        """Problems that a sequence shows, the last perhaps in part."""
        return -(-self.seq_len // self.problem_tokens)

    @property
    def vocab_size(self) -> int:
        return self.base + 2

    @property
    def words(self) -> int:
        return self.problems * 2 * self.digits

    def answer_mask(self) -> np.ndarray:
        return np.arange(self.seq_len) % self.problem_tokens >= 2 * self.digits + 2


def simulate(spec: ArithmeticSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray, backend: str) -> Simulated:
    """Tokens and scored content (the whole sequence). Every backend runs this one NumPy code."""
    del backend
    words = draw_words(spec, seed, ids_N, attempts_N)
    drawn_NP2D = philox.below(words, spec.base).reshape(len(words), spec.problems, 2, spec.digits)
    values_NP2 = (drawn_NP2D * spec.base ** np.arange(spec.digits, dtype=np.int64)).sum(axis=-1)
    a_NP, b_NP = values_NP2[..., 0], values_NP2[..., 1]
    c_NP = a_NP + b_NP if spec.task == "addition" else a_NP * b_NP
    text = np.empty((len(words), spec.problems, spec.problem_tokens), spec.token_dtype)
    text[..., : spec.digits] = drawn_NP2D[..., 0, :]
    text[..., spec.digits] = spec.base
    text[..., spec.digits + 1 : 2 * spec.digits + 1] = drawn_NP2D[..., 1, :]
    text[..., 2 * spec.digits + 1] = spec.base + 1
    for place in range(spec.answer_digits):
        text[..., 2 * spec.digits + 2 + place] = c_NP % spec.base
        c_NP = c_NP // spec.base
    tokens = np.ascontiguousarray(text.reshape(len(words), -1)[:, : spec.seq_len])
    return Simulated(tokens, tokens.astype(np.int32))
