"""Who is whose neighbour and which weights a cell has: one definition for the generator's lattice and the trainer's."""

from __future__ import annotations

from typing import Literal

import numpy as np

POSITIONS = 7  # a cell itself and its six neighbours

Boundary = Literal["torus", "zero"]
Layout = Literal["blocks", "columns"]


def neighbour_cells(size: tuple[int, ...], boundary: Boundary, nobody: int) -> np.ndarray:
    """Return the cell at each position of each cell (x slowest), int64 [cells, 7], ``nobody`` beyond a zero boundary.

    Position 0 is the cell itself; then come the cells below and above it along x, y and z.
    """
    index = np.arange(np.prod(size)).reshape(size)
    seen = [index]
    for axis in range(3):
        for shift in (1, -1):
            rolled = np.roll(index, shift, axis=axis)
            if boundary == "zero":
                edge: list[slice | int] = [slice(None)] * 3
                edge[axis] = 0 if shift == 1 else -1
                rolled[tuple(edge)] = nobody
            seen.append(rolled)
    return np.stack(seen, axis=-1).reshape(-1, POSITIONS)


def type_of_cells(size: tuple[int, ...], layout: Layout, types: int) -> np.ndarray:
    """Return each cell's set of weights, int64 [cells]: runs of nearly equal length, of cells or (x, y) columns."""
    x, y, z = size
    if layout == "columns":
        return np.repeat(np.arange(x * y) * types // (x * y), z)
    return np.arange(x * y * z) * types // (x * y * z)
