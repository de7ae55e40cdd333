"""Frames by the compiled kernel, equal to the reference's to the bit."""

import numpy as np

from generator.lattice.draws import draw
from generator.lattice.numba_kernel import build_kernel
from generator.lattice.spec import LatticeSpec
from generator.lattice.weights import Network
from generator.lattice.wiring import neighbour_cells, type_of_cells

ORDER = ("w_in", "b_in", "w_gate", "gain", "shift", "w_read", "b_read", "w_up", "b_up", "w_down", "b_down")


def simulate_frames(
    spec: LatticeSpec, network: Network, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray
) -> np.ndarray:
    """Frames uint8 [N, F, *grid] of colours; the GIL is released meanwhile."""
    kernel = build_kernel(network.channels, network.gate, network.feed, network.visible, network.goal)
    drawn = draw(spec, network, seed, ids_N, attempts_N)
    frames = np.empty((len(ids_N), spec.frames, spec.cells), dtype=np.uint8)
    s = network.shifts
    shifts = [s["w_in"], s["w_gate"] + s["gain"] - 1, s["w_read"] - 1, s["w_up"], s["w_down"] - 1]
    kernel(
        np.uint64(seed),
        np.ascontiguousarray(ids_N, dtype=np.int64),
        np.ascontiguousarray(attempts_N, dtype=np.int64),
        neighbour_cells(spec.grid, spec.boundary, nobody=spec.cells),
        type_of_cells(spec.grid, spec.layout, network.types),
        np.uint64(round(spec.fire * 2**32)),
        (spec.burn_in, spec.stride, spec.bits),
        np.array([2.0**-shift for shift in shifts], dtype=np.float32),
        *(np.ascontiguousarray(network.arrays[name]) for name in ORDER),
        drawn.seed_N,
        drawn.goal_NG,
        drawn.moment_N,
        np.ascontiguousarray(drawn.gone_NX),
        drawn.left_NR,
        drawn.right_NC,
        frames,
    )
    return frames.reshape(len(ids_N), spec.frames, *spec.grid)
