"""What every spec has in common: a frozen pydantic model whose canonical JSON's SHA-256 is its digest.

A family adds its own fields in `families/<name>.py`. `registry.parse_spec` picks the family and turns every problem
into one line. Nothing here knows how tokens are made.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_TOKENS = 1 << 31  # scored content is int32
NARROW_TOKENS = 1 << 16  # token ids of a vocabulary up to this size fit 16 bits
LARGE_VOCABULARY = 1 << 18  # from here on a user is told what such a vocabulary costs
MAX_CELLS = 1 << 16
SCORE_FRAMES = 10
_NUMBERS = (int, float, int | None, float | None, tuple[int, ...])


class FrozenModel(BaseModel):
    """Immutable, and refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_numbers(cls, values: Any) -> Any:
        """Refuse text and booleans for numbers, which pydantic would turn into some."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if field is not None and field.annotation in _NUMBERS:
                for item in value if isinstance(value, list | tuple) else [value]:
                    if isinstance(item, str | bool):
                        found = "text" if isinstance(item, str) else "true or false"
                        raise ValueError(f"{name}: {str(item)[:40]!r} is {found}; allowed are numbers; give one")
        return values


class Band(FrozenModel):
    """The closed interval [low, high] of a named score; sequences outside are redrawn."""

    score: Literal["gzip-int32-v1", "gzip-int32-v1-normalized"] = "gzip-int32-v1"
    low: float = Field(ge=-4.0, le=4.0)
    high: float = Field(ge=-4.0, le=4.0)

    @model_validator(mode="after")
    def _holds_something(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"[{self.low}, {self.high}] is empty; allowed is low < high; raise `high` or lower `low`")
        return self


@dataclass(frozen=True)
class Simulated:
    """What a family makes of N (id, attempt) addresses.

    tokens `BaseSpec.token_dtype` [N, seq_len]; content int32 [N, score_tokens], on which the scores are taken;
    judged, where the band judges something else than the scored content, int32 [N, anything].
    """

    tokens: np.ndarray
    content: np.ndarray
    judged: np.ndarray | None = None


class BaseSpec(FrozenModel):
    """Fields and derived sizes that every family shares. `family` is the discriminator."""

    family: str
    seq_len: int = Field(default=1024, ge=2, le=65536)
    band: Band | None = None

    @property
    def vocab_size(self) -> int:
        """Number of token ids, delimiters included; at most 2**31."""
        raise NotImplementedError

    @property
    def token_dtype(self) -> np.dtype:
        """Little-endian uint16, or uint32 where the vocabulary needs it."""
        return np.dtype("<u2" if self.vocab_size <= NARROW_TOKENS else "<u4")

    @property
    def advice(self) -> str | None:
        """What to consider before such sequences are made and trained on; None where nothing is unusual."""
        if self.vocab_size < LARGE_VOCABULARY:
            return None
        seen = self.seq_len / self.vocab_size
        return (
            f"vocabulary of {self.vocab_size:,} tokens: a model has a row for each in its embedding and its head (at "
            f"width 512 {self.vocab_size * 512 * 4 / 2**30:,.1f} GiB each, and two to three times that in training), "
            f"and a sequence of {self.seq_len:,} tokens shows at most {min(1.0, seen):.1%} of them; fewer `colors` or "
            "a smaller `patch` keep it under 262,144"
        )

    @property
    def alphabet(self) -> int:
        """Number of content tokens (no delimiters): what independent uniform noise would be drawn from."""
        raise NotImplementedError

    @property
    def score_tokens(self) -> int:
        """How many content tokens the complexity score is taken on."""
        raise NotImplementedError

    @property
    def rule_group(self) -> int:
        """How many consecutive sequences share one rule."""
        return 1

    @property
    def accept_band(self) -> Band | None:
        """The band that candidates must meet."""
        return self.band

    @property
    def frames_of(self) -> "GridSpec | None":
        """The spec whose frames the tokens show, if they show any."""
        return None

    def content_mask(self) -> np.ndarray:
        """bool [seq_len]: True where a sequence shows content, False at delimiters."""
        return np.ones(self.seq_len, dtype=bool)

    def answer_mask(self) -> np.ndarray | None:
        """bool [seq_len]: True at the tokens that a task asks for; None in a family that asks for none."""
        return None

    def canonical_json(self) -> str:
        """The one text of this spec: sorted keys, no spaces, no NaN."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of `canonical_json()`."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()


class SequenceSpec(BaseSpec):
    """A family without delimiters whose tokens are made one after another from a stream of random words."""

    @property
    def words(self) -> int:
        """Random words that one candidate takes."""
        raise NotImplementedError

    @property
    def operations(self) -> int:
        """Operations that one candidate takes, drawing its words included, about."""
        return 100 * self.seq_len + 50 * self.words

    @property
    def alphabet(self) -> int:
        return self.vocab_size

    @property
    def score_tokens(self) -> int:
        return self.seq_len


class GridSpec(BaseSpec):
    """A family whose sequences are frames of a periodic grid, cut into patches."""

    grid: tuple[int, ...] = Field(default=(12, 12), min_length=1, max_length=3)
    colors: int = Field(default=10, ge=2, le=256)
    patch: int = Field(default=2, ge=1, le=16)

    @property
    def cells(self) -> int:
        """Cells of one grid state."""
        return math.prod(self.grid)

    @property
    def patch_sides(self) -> tuple[int, ...]:
        """The sides of a patch, one per axis of the grid."""
        return (self.patch,) * len(self.grid)

    @property
    def patch_cells(self) -> int:
        """Cells of one patch."""
        return math.prod(self.patch_sides)

    @property
    def patches(self) -> int:
        """Patches, that is content tokens, of one frame."""
        return math.prod(side // patch for side, patch in zip(self.grid, self.patch_sides, strict=True))

    @property
    def frame_tokens(self) -> int:
        """Tokens of one frame: `<grid>`, the patches, `</grid>`."""
        return self.patches + 2

    @property
    def alphabet(self) -> int:
        return self.colors**self.patch_cells

    @property
    def vocab_size(self) -> int:
        return self.alphabet + 2

    @property
    def score_tokens(self) -> int:
        return SCORE_FRAMES * self.patches

    @property
    def frames(self) -> int:
        """Frames simulated after burn-in: those the sequence shows (the last may be cut), no fewer than are scored."""
        return max(SCORE_FRAMES, -(-self.seq_len // self.frame_tokens))

    @property
    def frames_of(self) -> "GridSpec | None":
        return self

    def content_mask(self) -> np.ndarray:
        place = np.arange(self.seq_len) % self.frame_tokens
        return (place > 0) & (place <= self.patches)

    @model_validator(mode="after")
    def _grid_fits(self) -> Self:
        for side, patch in zip(self.grid, self.patch_sides, strict=True):
            if not 1 <= side <= 1024:
                raise ValueError(f"grid: side {side} is out of range; allowed is 1 to 1024; change the side")
            if not 1 <= patch <= 16:
                raise ValueError(f"patch: side {patch} is out of range; allowed is 1 to 16; change `patch`")
            if side % patch:
                raise ValueError(
                    f"grid: side {side} is not divisible by patch {patch}; allowed are multiples of the patch; "
                    "change `grid` or `patch`"
                )
        if self.cells > MAX_CELLS:
            raise ValueError(f"grid: {self.cells} cells; allowed are at most {MAX_CELLS}; make the grid smaller")
        if self.patch_cells > 16 or self.vocab_size > MAX_TOKENS:
            sides = set(self.patch_sides)
            shape = f"{self.patch}^{len(self.grid)}" if len(sides) == 1 else "x".join(map(str, self.patch_sides))
            raise ValueError(
                f"colors: {self.colors} colours in patches of {shape} cells need a vocabulary of "
                f"{self.colors}^{self.patch_cells} + 2 tokens; allowed are at most {MAX_TOKENS}; "
                "lower `colors` or `patch`"
            )
        return self
