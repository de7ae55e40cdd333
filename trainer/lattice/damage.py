"""Damage: cells of a ball or of one side of a plane are set to zero, drawn from the counter RNG."""

from __future__ import annotations

import numpy as np

from generator import philox
from trainer.lattice.masks import DAMAGE


def damaged_cells(size: tuple[int, int, int], seed: int, ids_B: np.ndarray) -> np.ndarray:
    """The cells that damage (seed, id) hits, bool [cells, B]: a ball or a half-space, each in half of the cases.

    A ball's middle is any cell and its radius 1/4 to 1/2 of the shortest side; a half-space lies beyond one of the six
    directions' planes, which go through the middle half of the lattice.
    """
    words = philox.words(seed, DAMAGE, ids_B, np.zeros_like(ids_B), 8)
    unit = words / 2.0**32
    places_B3 = unit[:, 1:4] * (np.array(size) - 1)
    where_N3 = np.stack(np.unravel_index(np.arange(np.prod(size)), size), axis=1)
    radius_B = min(size) * (0.25 + 0.25 * unit[:, 4])
    ball = ((where_N3[:, None] - places_B3) ** 2).sum(2) <= radius_B**2
    axis_B = philox.below(words[:, 5], 3)
    planes_B = (0.25 + 0.5 * unit[:, 6]) * np.array(size)[axis_B]
    beyond = where_N3[:, axis_B] >= planes_B
    half = np.where(words[:, 7] >> 31 == 1, beyond, ~beyond)
    return np.where(words[:, 0] >> 31 == 1, ball, half)
