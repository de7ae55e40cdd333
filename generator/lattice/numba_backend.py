"""Frames by the compiled kernel, equal to the reference's to the bit."""

import numpy as np

from generator.lattice.draws import draw
from generator.lattice.numba_kernel import build_kernel
from generator.lattice.packing import pack, packed_lefts
from generator.lattice.spec import LatticeSpec
from generator.lattice.weights import Network
from generator.lattice.wiring import POSITIONS, neighbour_cells, type_of_cells


def simulate_frames(
    spec: LatticeSpec, network: Network, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray
) -> np.ndarray:
    """Frames uint8 [N, F, *grid] of colours; the GIL is released meanwhile."""
    packed = pack(network)
    drawn = draw(spec, network, seed, ids_N, attempts_N)
    around = neighbour_cells(spec.grid, spec.boundary, nobody=spec.cells)
    types = type_of_cells(spec.grid, spec.layout, network.types)
    frames = np.empty((len(ids_N), spec.frames, spec.cells), dtype=np.uint8)
    build_kernel(packed.sizes)(
        np.uint64(seed),
        np.ascontiguousarray(ids_N, dtype=np.int64),
        np.ascontiguousarray(attempts_N, dtype=np.int64),
        np.concatenate([around, np.full((1, POSITIONS), spec.cells)]),
        np.searchsorted(types, np.arange(network.types + 1)),
        np.int64(round(spec.fire * 2**32)),
        (spec.burn_in, spec.stride, spec.bits, network.visible),
        packed.shifts,
        packed.arrays,
        (
            drawn.seed_N,
            drawn.goal_NG.astype(np.int16),
            drawn.moment_N,
            np.ascontiguousarray(drawn.gone_NX),
            packed_lefts(drawn.left_NR, network.gate),
            np.ascontiguousarray(drawn.right_NC, dtype=np.int32).reshape(-1),
        ),
        frames,
    )
    return frames.reshape(len(ids_N), spec.frames, *spec.grid)
