"""The spec of family `nca`: which random rules, on which grid, run for how long."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from generator.nca.lattice import LOGIT_LIMIT, Lattice
from generator.spec import FrozenModel, GridSpec

# Keeps the block number of the noise stream within 32 bits at 256 colours.
MAX_UPDATES = 1 << 27


class Compat(FrozenModel):
    """Where the published code differs from the published text."""

    channel_wrap: bool = False
    init: Literal["categorical", "uniform"] = "categorical"


class NcaSpec(GridSpec):
    """One random rule (or one for `sequences_per_rule` sequences) run from random initial cells."""

    family: Literal["nca"] = "nca"
    grid: tuple[int, ...] = Field(default=(12, 12), min_length=2, max_length=3)
    embed: int = Field(default=4, ge=1, le=64)
    hidden: int = Field(default=16, ge=1, le=128)
    neighborhood: Literal["moore", "von_neumann"] = "moore"
    burn_in: int = Field(default=10, ge=0, le=10_000)
    stride: int = Field(default=1, ge=1, le=1_000)
    temperature: float = Field(default=0.0, ge=0.0, le=100.0)
    identity_bias: float = Field(default=0.0, ge=-100.0, le=100.0)
    sequences_per_rule: int = Field(default=1, ge=1, le=4096)
    compat: Compat = Compat()

    @field_validator("compat", mode="before")
    @classmethod
    def _published_code(cls, value: Any) -> Any:
        """`compat = true` is short for all that the published code does."""
        if isinstance(value, bool):
            return {"channel_wrap": value, "init": "categorical"}
        return value

    @model_validator(mode="after")
    def _stays_exact(self) -> Self:
        if self.steps * self.cells > MAX_UPDATES:
            raise ValueError(
                f"stride: {self.steps} steps of {self.cells} cells a sequence; allowed are at most {MAX_UPDATES} "
                "cell updates; lower `burn_in`, `stride`, `seq_len` or `grid`"
            )
        limit = Lattice.of(self).logit_bound
        if limit > LOGIT_LIMIT:
            raise ValueError(
                f"temperature: {self.temperature} with identity_bias {self.identity_bias} needs lattice logits up "
                f"to {limit}; allowed are at most {LOGIT_LIMIT}; lower `temperature` or `identity_bias`"
            )
        return self

    @property
    def rule_group(self) -> int:
        return self.sequences_per_rule

    @property
    def steps(self) -> int:
        """Updates of one candidate: burn-in, then `stride` between frames."""
        return self.burn_in + (self.frames - 1) * self.stride
