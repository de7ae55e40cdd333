"""Task `markov`: in-context Markov chains, each sequence with symbols and successors of its own.

A sequence draws `states` distinct tokens of the vocabulary and, for each, a successor among them (itself is allowed).
It starts at a random one; every later token is the successor of the one before with `follow_probability`, otherwise any
of the sequence's tokens. The answers are the tokens from `answers_from` on: no model can know the successors but from
the sequence itself, and one that reads them is right `follow_probability` + (1 - `follow_probability`) / `states` of
the times that the current token was seen before.

Words of the SYMBOLS stream: `states` choose the tokens (a partial Fisher-Yates shuffle), `states` the successors, one
the start; then two for each later token, whether it follows and which it is if not.
"""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from generator.families.drawing import draw_distinct, draw_words, fill
from generator.spec import SequenceSpec, Simulated


class MarkovSpec(SequenceSpec):
    """Which chains: sizes, how often the rule is followed, and from which token on it is asked for."""

    family: Literal["markov"] = "markov"
    seq_len: int = Field(default=64, ge=2, le=65536)
    vocabulary: int = Field(default=100, ge=2, le=65_536)
    states: int = Field(default=12, ge=2, le=4096)
    follow_probability: float = Field(default=0.85, gt=0.0, lt=1.0)
    answers_from: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.states > self.vocabulary:
            raise ValueError(
                f"states: {self.states} distinct tokens of a vocabulary of {self.vocabulary}; allowed are at most as "
                "many; lower `states` or raise `vocabulary`"
            )
        if self.answers_from >= self.seq_len:
            raise ValueError(
                f"answers_from: {self.answers_from} leaves no answer in {self.seq_len} tokens; allowed is less than "
                "`seq_len`; lower it"
            )
        return self

    @property
    def vocab_size(self) -> int:
        return self.vocabulary

    @property
    def words(self) -> int:
        return 2 * self.states + 2 * self.seq_len - 1

    @property
    def operations(self) -> int:
        return super().operations + 4 * self.vocabulary

    def answer_mask(self) -> np.ndarray:
        return np.arange(self.seq_len) >= self.answers_from


def walk(words_NW: np.ndarray, chosen_NS: np.ndarray, follow_below: int, tokens_NT: np.ndarray) -> None:
    """Fill tokens from words [N, 2 states + 2T - 1] and each sequence's own tokens [N, states]. Plain Python, and the
    text that numba compiles."""
    states = chosen_NS.shape[1]
    successor = np.empty(states, np.int64)
    for n in range(tokens_NT.shape[0]):
        for s in range(states):
            successor[s] = (np.int64(words_NW[n, states + s]) * states) >> 32
        at = 2 * states
        state = (np.int64(words_NW[n, at]) * states) >> 32
        tokens_NT[n, 0] = chosen_NS[n, state]
        for t in range(1, tokens_NT.shape[1]):
            at += 2
            other = (np.int64(words_NW[n, at]) * states) >> 32
            state = successor[state] if words_NW[n, at - 1] < follow_below else other
            tokens_NT[n, t] = chosen_NS[n, state]


def simulate(spec: MarkovSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray, backend: str) -> Simulated:
    """Tokens and scored content (the whole sequence)."""
    words = draw_words(spec, seed, ids_N, attempts_N)
    chosen = draw_distinct(words[:, : spec.states], spec.vocabulary, backend)
    return fill(walk, spec, words, backend, chosen, int(spec.follow_probability * 2**32))
