"""Working memory of the kernels that compute in tiles."""

from __future__ import annotations

import numba
import numpy as np

from trainer.vectors import LANES


@numba.njit(nogil=True)
def aligned_memory(size: int) -> np.ndarray:
    """``size`` float32 without values, whose first begins a line of the caches."""
    memory = np.empty(size + LANES, np.float32)
    skipped = -(memory.ctypes.data // 4) % LANES
    return memory[skipped : skipped + size]
