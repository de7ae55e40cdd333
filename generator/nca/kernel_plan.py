"""The shapes and tables of positions that the CPU kernel is compiled for, computed from a spec."""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from generator.nca.lattice import Lattice, neighbor_offsets
from generator.nca.simd import INDEX_LANES
from generator.nca.spec import NcaSpec

# Tables of one rule should leave room in a 32 KiB first-level cache for states, indices and hidden units.
TABLE_BYTES = 16 * 1024


@dataclass(frozen=True)
class KernelPlan:
    """Tuples of integers that become compile-time constants, and small arrays of positions."""

    rule: tuple[int, ...]
    integers: tuple[int, ...]
    geometry: tuple[int, ...]
    tables: tuple[int, ...]
    output: tuple[int, ...]
    row_at: np.ndarray
    pad_source: np.ndarray
    joins: tuple[int, ...]
    patch_at: np.ndarray


def _members(neighbors: int, colors: int, padded: int) -> int:
    """Neighbours joined into one table: as many as fit the cache, then as few as need no more groups."""
    size = 1
    while size < neighbors and -(-neighbors // (size + 1)) * colors ** (size + 1) * padded * 2 <= TABLE_BYTES + 4096:
        size += 1
    groups = -(-neighbors // size)
    return -(-neighbors // groups)


def patch_positions(spec: NcaSpec) -> np.ndarray:
    """Cells of each patch, int64 [patches, patch**d], both in row-major order."""
    cells = np.arange(spec.cells, dtype=np.int64).reshape(spec.grid)
    corners = itertools.product(*(range(side // spec.patch) for side in spec.grid))
    return np.array(
        [cells[tuple(slice(c * spec.patch, (c + 1) * spec.patch) for c in corner)].ravel() for corner in corners]
    )


def kernel_plan(spec: NcaSpec) -> KernelPlan:
    """Grid states are padded by one cell on every side, so that a neighbour is a fixed offset from any cell."""
    lattice = Lattice.of(spec)
    around = neighbor_offsets(len(spec.grid), spec.neighborhood)
    padded = -(-spec.hidden // 16) * 16
    members = _members(len(around), spec.colors, padded)
    groups = -(-len(around) // members)
    sides = [side + 2 for side in spec.grid]
    strides = [math.prod(sides[axis + 1 :]) for axis in range(len(sides))]
    lead, width = spec.grid[:-1], spec.grid[-1]

    def row_number(place: tuple[int, ...]) -> int:
        return int(np.ravel_multi_index(tuple(p % side for p, side in zip(place, lead, strict=True)), lead)) * width

    pad_source = [row_number(place) for place in itertools.product(*(range(-1, side + 1) for side in lead))]
    row_at = [
        1 + sum((p + 1) * stride for p, stride in zip(place, strides[:-1], strict=True))
        for place in itertools.product(*(range(side) for side in lead))
    ]
    # For `join_neighbors`: members of a group, stride between groups, then (offset, factor) of each neighbour.
    joins = [members, -(-math.prod(sides) // INDEX_LANES) * INDEX_LANES + INDEX_LANES]
    for number, offset in enumerate(around):
        joins.append(sum(o * stride for o, stride in zip(offset, strides, strict=True)))
        joins.append(spec.colors ** (number % members) * padded)
    return KernelPlan(
        rule=(
            spec.colors,
            lattice.inputs,
            spec.embed,
            spec.hidden,
            int(spec.compat.channel_wrap),
            int(spec.compat.init == "uniform"),
            int(spec.temperature > 0),
        ),
        integers=(
            lattice.table_shift,
            lattice.hidden_shift,
            lattice.identity_logit,
            lattice.color_bits,
        ),
        geometry=(spec.cells, width, math.prod(sides), row_at[0], row_at[-1] + width, len(around)),
        tables=(members, groups, spec.colors**members, padded),
        output=(
            spec.burn_in,
            spec.stride,
            spec.frames,
            spec.seq_len,
            spec.patches,
            spec.patch ** len(spec.grid),
            spec.alphabet,
            spec.score_tokens,
        ),
        row_at=np.array(row_at, np.int64),
        pad_source=np.array(pad_source, np.int64),
        joins=tuple(joins),
        patch_at=patch_positions(spec),
    )
