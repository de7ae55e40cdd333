"""Family `lattice`: a trained 3-D lattice of cells, in whole numbers."""

import numpy as np

from generator.errors import SpecError
from generator.lattice.spec import LatticeSpec
from generator.lattice.weights import check_types, network
from generator.spec import Simulated
from generator.tokens import frames_to_tokens

__all__ = ["LatticeSpec", "simulate"]


def simulate(spec: LatticeSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray, backend: str) -> Simulated:
    """Tokens and scored content of each (id, attempt); every backend but `reference` is numba's.

    Raises WeightsError if this process does not have the weights, SpecError if they do not fit the spec.
    """
    net = network(spec.weights)
    check_types(net.types, spec.cells if spec.layout == "blocks" else spec.grid[0] * spec.grid[1])
    if spec.bits > net.visible:
        raise SpecError(
            f"colors: {spec.colors} show {spec.bits} channels, the weights have {net.visible} visible; allowed are at "
            f"most {1 << net.visible} colours; lower `colors`"
        )
    if backend == "reference":
        from generator.lattice.reference import simulate_frames
    else:
        from generator.lattice.numba_backend import simulate_frames
    return Simulated(*frames_to_tokens(spec, simulate_frames(spec, net, seed, ids_N, attempts_N)))
