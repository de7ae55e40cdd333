"""Family `eca`: elementary cellular automata (Wolfram, 1983) by rule number, one row of two-coloured cells a frame."""

from typing import Literal

import numpy as np
from pydantic import Field

from generator import philox
from generator.initial import colors_from_words
from generator.spec import GridSpec, Simulated
from generator.tokens import frames_to_tokens


class EcaSpec(GridSpec):
    """`rule` 0 to 255, or none: each sequence draws its own. The first row is uniform noise."""

    family: Literal["eca"] = "eca"
    grid: tuple[int, ...] = Field(default=(96,), min_length=1, max_length=1)
    colors: Literal[2] = 2
    patch: int = Field(default=8, ge=1, le=15)
    rule: int | None = Field(default=None, ge=0, le=255)
    burn_in: int = Field(default=10, ge=0, le=10_000)
    stride: int = Field(default=1, ge=1, le=1_000)


def simulate(spec: EcaSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray, backend: str) -> Simulated:
    """Every backend runs this one NumPy code. Bit (4 left + 2 middle + right) of the rule is the next cell."""
    del backend
    if spec.rule is None:
        rule_N1 = philox.below(philox.words(seed, philox.RULE, ids_N, attempts_N, 1), 256)
    else:
        rule_N1 = np.full((len(ids_N), 1), spec.rule, dtype=np.int64)
    cells_NW = colors_from_words(philox.words(seed, philox.CELLS, ids_N, attempts_N, spec.cells), 2, None)
    frames = np.empty((len(ids_N), spec.frames, spec.cells), dtype=np.uint8)
    for step in range(spec.burn_in + (spec.frames - 1) * spec.stride + 1):
        frame, between = divmod(step - spec.burn_in, spec.stride)
        if frame >= 0 and between == 0:
            frames[:, frame] = cells_NW
        seen = 4 * np.roll(cells_NW, 1, axis=1) + 2 * cells_NW + np.roll(cells_NW, -1, axis=1)
        cells_NW = ((rule_N1 >> seen) & 1).astype(np.uint8)
    return Simulated(*frames_to_tokens(spec, frames))
