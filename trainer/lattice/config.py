"""What a lattice is: its size, its cells and how many distinct sets of weights they share."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from generator.lattice.wiring import Boundary, Layout
from trainer.config_model import ConfigModel

MAX_CELLS = 1 << 16

Sides = tuple[int, int, int]


class CoarseConfig(ConfigModel):
    """A coarse lattice of ``grid`` blocks: every ``every`` steps the mean of a block's first ``channels`` channels is
    written into the last ``channels`` channels of each of its cells."""

    grid: Sides = (5, 5, 4)
    every: int = Field(default=4, ge=1)
    channels: int = Field(default=4, ge=1)


class LatticeConfig(ConfigModel):
    """One lattice of cells.

    ``size`` gives the sides (x, y, z); z is the depth. A cell's state has ``channels`` floats, of which the first
    ``visible`` are its output and the ``goal`` ones after them hold the goal at input cells. ``hidden`` is the width
    that the gating unit halves, ``feed`` that of the feed-forward part. ``types`` is the number of distinct sets of
    weights: 1 is a classic cellular automaton, one per cell the largest; ``layout`` says which cell has which:
    ``blocks`` are runs of consecutive cells (x slowest), ``columns`` go by (x, y) and are shared along the depth.
    ``rank`` adds to each cell's four matrices a difference of that rank. ``fire`` is the chance that a cell updates in
    a step. ``norm`` is layer normalisation, or ``shift``: division by a power of two near the mean magnitude, which
    whole numbers can do. States are held within ±``limit``. Without ``links`` no cell sees another: a control.
    """

    size: Sides = (15, 15, 11)
    boundary: Boundary = "torus"
    channels: int = Field(default=32, ge=4, le=256)
    visible: int = Field(default=1, ge=1, le=16)
    goal: int = Field(default=4, ge=1, le=32)
    hidden: int = Field(default=128, ge=4, le=1024)
    feed: int = Field(default=96, ge=1, le=1024)
    types: int = Field(default=1, ge=1)
    layout: Layout = "blocks"
    rank: int = Field(default=0, ge=0, le=16)
    fire: float = Field(default=0.5, gt=0, le=1)
    norm: Literal["layer", "shift"] = "layer"
    limit: float = Field(default=127 / 32, gt=0)
    last_scale: float = Field(default=0.0, ge=0)
    links: bool = True
    coarse: CoarseConfig | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for side in self.size:
            if not 1 <= side <= 256:
                raise ValueError(f"size: side {side} is out of range; allowed is 1 to 256; change the side")
        if self.cells > MAX_CELLS:
            raise ValueError(f"size: {self.cells} cells; allowed are at most {MAX_CELLS}; make the lattice smaller")
        if self.hidden % 2:
            raise ValueError(f"hidden = {self.hidden}: the gating unit halves it; give an even number")
        most = self.cells if self.layout == "blocks" else self.size[0] * self.size[1]
        if self.types > most:
            kind = "cells" if self.layout == "blocks" else "columns"
            raise ValueError(
                f"types = {self.types}: the lattice has {most} {kind}, so some types would have no cell; allowed is 1 "
                f"to {most}; lower types"
            )
        used = self.visible + self.goal + (self.coarse.channels if self.coarse else 0)
        if used > self.channels:
            raise ValueError(
                f"channels = {self.channels}: visible, goal and coarse channels need {used}; raise channels"
            )
        if self.coarse is not None:
            for blocks, side in zip(self.coarse.grid, self.size, strict=True):
                if not 1 <= blocks <= side:
                    raise ValueError(
                        f"coarse.grid: {blocks} blocks along a side of {side} cells; allowed is 1 to {side}; change it"
                    )
        return self

    @property
    def cells(self) -> int:
        return math.prod(self.size)

    @property
    def gate(self) -> int:
        """The width of the gated half."""
        return self.hidden // 2

    @property
    def goal_channels(self) -> slice:
        return slice(self.visible, self.visible + self.goal)
