"""The spec of family `lattice`: which trained network, on which lattice, shown how."""

from typing import Literal, Self

from pydantic import Field, model_validator

from generator.lattice.wiring import Boundary, Layout
from generator.spec import GridSpec

MAX_UPDATES = 1 << 26


class LatticeSpec(GridSpec):
    """One trained lattice, from nothing, with a goal at a seed cell.

    `weights` is the SHA-256 of the network's file. Each sequence draws a goal, a seed cell, with chance `damage` a
    moment at which a ball or one side of a plane is set to zero, and, with `modulation` above 0, a change of rank one
    to the weights that read out, of entries up to `modulation`. `colors` = 2 to the number of visible channels shown.
    `patch` is per axis. Cells get their type as `layout` says; they fire with chance `fire` in each step.
    """

    family: Literal["lattice"] = "lattice"
    weights: str = Field(pattern="^[0-9a-f]{64}$")
    grid: tuple[int, ...] = Field(default=(12, 12, 8), min_length=3, max_length=3)
    colors: int = Field(default=2, ge=2, le=256)
    patch: tuple[int, ...] = Field(default=(2, 2, 2), min_length=3, max_length=3)  # type: ignore[assignment]
    boundary: Boundary = "zero"
    layout: Layout = "blocks"
    fire: float = Field(default=0.5, gt=0.0, le=1.0)
    burn_in: int = Field(default=0, ge=0, le=10_000)
    stride: int = Field(default=1, ge=1, le=1_000)
    damage: float = Field(default=0.5, ge=0.0, le=1.0)
    modulation: int = Field(default=1, ge=0, le=8)

    @model_validator(mode="after")
    def _countable(self) -> Self:
        if self.colors & (self.colors - 1):
            raise ValueError(f"colors: {self.colors} is no power of two; allowed are 2, 4, 8, …; change `colors`")
        if self.steps * self.cells > MAX_UPDATES:
            raise ValueError(
                f"stride: {self.steps} steps of {self.cells} cells a sequence; allowed are at most {MAX_UPDATES} "
                "cell updates; lower `burn_in`, `stride`, `seq_len` or `grid`"
            )
        return self

    @property
    def patch_sides(self) -> tuple[int, ...]:
        return self.patch

    @property
    def steps(self) -> int:
        """Steps of one sequence: burn-in, then `stride` between frames."""
        return self.burn_in + (self.frames - 1) * self.stride

    @property
    def bits(self) -> int:
        """Visible channels that are shown, one bit each."""
        return self.colors.bit_length() - 1
