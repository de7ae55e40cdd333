"""Family `nca`: neural cellular automata with random rules, in two or three dimensions."""

import numpy as np

from generator.nca.spec import Compat, NcaSpec
from generator.spec import Simulated
from generator.tokens import frames_to_tokens

__all__ = ["Compat", "NcaSpec", "simulate"]


def simulate(spec: NcaSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray, backend: str) -> Simulated:
    """Tokens and scored content of each (id, attempt), by the backend named."""
    if backend == "numba":
        from generator.nca.numba_backend import simulate_tokens

        return Simulated(*simulate_tokens(spec, seed, ids_N, attempts_N))
    if backend == "triton":
        from generator.nca.triton_backend import simulate_tokens as simulate_on_device

        return Simulated(*simulate_on_device(spec, seed, ids_N, attempts_N))
    from generator.nca.reference import simulate_frames

    return Simulated(*frames_to_tokens(spec, simulate_frames(spec, seed, ids_N, attempts_N)))
