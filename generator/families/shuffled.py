"""Family `shuffled`, a control: another family's very sequences with their content permuted over the whole sequence.

Same unigrams, no dynamics. The sequence with (seed, id) is made from the base's sequence with (seed, id): the band that
accepts is the base's, on the base's content; the stored scores are of the permuted sequence. Delimiters stay in place.
"""

from typing import Any, Literal, Self

import numpy as np
from pydantic import SerializeAsAny, field_validator, model_validator

from generator import philox
from generator.family import family_of, validate_spec
from generator.spec import Band, BaseSpec, GridSpec, Simulated


class ShuffledSpec(BaseSpec):
    """`base` is any other family's spec; `seq_len` is the base's, and the band is set there."""

    family: Literal["shuffled"] = "shuffled"
    base: SerializeAsAny[BaseSpec]
    band: None = None

    @field_validator("base", mode="before")
    @classmethod
    def _parse_base(cls, value: Any) -> BaseSpec:
        base: BaseSpec = value if isinstance(value, BaseSpec) else validate_spec(value)
        if isinstance(base, ShuffledSpec):
            raise ValueError("'shuffled' is itself shuffled; allowed is any other family; name the inner base")
        return base

    @model_validator(mode="before")
    @classmethod
    def _same_length(cls, values: Any) -> Any:
        if isinstance(values, dict) and "seq_len" not in values:
            base = values.get("base")
            length = base.seq_len if isinstance(base, BaseSpec) else (base or {}).get("seq_len", 1024)
            return {**values, "seq_len": length}
        return values

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        if self.seq_len != self.base.seq_len:
            raise ValueError(f"seq_len: {self.seq_len} is not the base's {self.base.seq_len}; leave `seq_len` out here")
        return self

    @property
    def vocab_size(self) -> int:
        return self.base.vocab_size

    @property
    def alphabet(self) -> int:
        return self.base.alphabet

    @property
    def score_tokens(self) -> int:
        return min(self.base.score_tokens, int(self.base.content_mask().sum()))

    @property
    def rule_group(self) -> int:
        return self.base.rule_group

    @property
    def accept_band(self) -> Band | None:
        return self.base.accept_band

    @property
    def frames_of(self) -> GridSpec | None:
        return self.base.frames_of

    def content_mask(self) -> np.ndarray:
        return self.base.content_mask()

    def answer_mask(self) -> np.ndarray | None:
        return self.base.answer_mask()


def simulate(spec: ShuffledSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray, backend: str) -> Simulated:
    """The base's candidates, content sorted by 64-bit keys from the SHUFFLE stream (two words each, first high)."""
    made = family_of(spec.base).simulate(spec.base, seed, ids_N, attempts_N, backend)
    where = np.flatnonzero(spec.content_mask())
    words = philox.words(seed, philox.SHUFFLE, ids_N, attempts_N, 2 * len(where)).astype(np.uint64)
    keys = (words[:, 0::2] << np.uint64(32)) | words[:, 1::2]
    order = np.argsort(keys, axis=1, kind="stable")
    tokens = made.tokens.copy()
    tokens[:, where] = np.take_along_axis(made.tokens[:, where], order, axis=1)
    content = np.ascontiguousarray(tokens[:, where[: spec.score_tokens]], dtype=np.int32)
    return Simulated(tokens, content, made.content)
