"""Who is where: the order of cells in memory, and the row of each of a cell's seven positions.

Cells are kept type after type, each type padded to the same number of cells by ones that touch nobody. A neighbourhood
is then a copy of whole rows, forwards and backwards, whatever the assignment of types.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from generator.lattice import wiring
from generator.lattice.wiring import POSITIONS
from trainer.lattice.config import LatticeConfig

# Own position first; then down and up along x, y, z, so that 2k-1 and 2k face each other.
OPPOSITE = (0, 2, 1, 4, 3, 6, 5)


@dataclass(frozen=True)
class Neighbours:
    """The lattice's wiring, in the order of rows.

    ``order`` int64 [rows]: the cell (x slowest) of each row, -1 for padding. ``row_of`` int64 [cells]: its inverse.
    ``gather`` int64 [rows, 7]: the row seen at each position, ``rows`` where there is none. ``scatter`` int64
    [rows, 7]: the flat (row, position) that sees this row there, ``7 · rows`` where none does. ``groups`` sets of
    weights with ``members`` rows each.
    """

    order: Tensor
    row_of: Tensor
    gather: Tensor
    scatter: Tensor
    groups: int
    members: int

    @property
    def rows(self) -> int:
        return self.groups * self.members

    def to(self, device: torch.device) -> Neighbours:
        parts = (self.order, self.row_of, self.gather, self.scatter)
        order, row_of, gather, scatter = (tensor.to(device) for tensor in parts)
        return Neighbours(order, row_of, gather, scatter, self.groups, self.members)


def neighbour_cells(config: LatticeConfig) -> np.ndarray:
    """The cell at each position of each cell, int64 [cells, 7]; -1 beyond a zero boundary and where links are cut."""
    cells = wiring.neighbour_cells(config.size, config.boundary, nobody=-1)
    if not config.links:
        cells[:, 1:] = -1
    return cells


def type_of_cells(config: LatticeConfig) -> np.ndarray:
    """The type of each cell, int64 [cells], x slowest."""
    return wiring.type_of_cells(config.size, config.layout, config.types)


def wire(config: LatticeConfig) -> Neighbours:
    """The wiring of ``config``; with ``rank`` each cell has weights of its own, and so a group of its own."""
    groups = config.cells if config.rank else config.types
    types = np.arange(config.cells) if config.rank else type_of_cells(config)
    members = int(np.bincount(types, minlength=groups).max())
    cells_of = np.full((groups, members), -1, dtype=np.int64)
    for group in range(groups):
        mine = np.flatnonzero(types == group) if groups < config.cells else np.array([group])
        cells_of[group, : len(mine)] = mine
    order = cells_of.reshape(-1)
    rows = len(order)
    real = np.flatnonzero(order >= 0)
    row_of = np.empty(config.cells, dtype=np.int64)
    row_of[order[real]] = real
    gather = np.full((rows, POSITIONS), rows, dtype=np.int64)
    cells = neighbour_cells(config)[order[real]]
    gather[real] = np.where(cells >= 0, row_of[cells], rows)
    # Who sees row r at position j: the cell that r itself sees at the opposite position.
    scatter = np.full((rows, POSITIONS), rows * POSITIONS, dtype=np.int64)
    for position, opposite in enumerate(OPPOSITE):
        there = gather[:, opposite]
        scatter[:, position] = np.where(there < rows, there * POSITIONS + position, rows * POSITIONS)
    tensors = [torch.from_numpy(part) for part in (order, row_of, gather, scatter)]
    return Neighbours(tensors[0], tensors[1], tensors[2], tensors[3], groups, members)
