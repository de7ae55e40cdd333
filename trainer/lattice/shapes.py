"""The voxel shapes that a lattice grows, by formula: coordinates run from -1 to 1 over the shape's extent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Axis = np.ndarray
SHAPES: dict[str, Callable[[Axis, Axis, Axis], np.ndarray]] = {
    "ball": lambda x, y, z: x * x + y * y + z * z <= 1.0,
    "cross": lambda x, y, z: np.sort(np.stack(np.broadcast_arrays(abs(x), abs(y), abs(z))), axis=0)[1] <= 0.2,
    "plate": lambda x, y, z: (abs(x) <= 1) & (abs(y) <= 1) & (abs(z) <= 0.34),
    "wall": lambda x, y, z: (abs(x) <= 0.34) & (abs(y) <= 1) & (abs(z) <= 1),
    "diamond": lambda x, y, z: abs(x) + abs(y) + abs(z) <= 1.05,
    "ring": lambda x, y, z: (abs(z) <= 0.34) & (np.maximum(abs(x), abs(y)) > 0.5),
    "rod": lambda x, y, z: (abs(x) <= 0.34) & (abs(y) <= 0.34) & (abs(z) <= 1),
    "half": lambda x, y, z: (x >= 0) & (abs(y) <= 1) & (abs(z) <= 1),
    "block": lambda x, y, z: (abs(x) <= 0.67) & (abs(y) <= 0.67) & (abs(z) <= 0.67),
    "pyramid": lambda x, y, z: np.maximum(abs(x), abs(y)) <= (1 - z) / 2,
    "stairs": lambda x, y, z: (x + z <= 0) & (abs(y) <= 1),
    "plus": lambda x, y, z: ((abs(x) <= 0.34) | (abs(y) <= 0.34)) & (abs(z) <= 0.34),
    "arch": lambda x, y, z: (abs(y) <= 0.34) & ((abs(x) > 0.5) | (z > 0.5)),
    "corner": lambda x, y, z: (x <= 0.1) & (y <= 0.1) & (z <= 0.1),
    "wedge": lambda x, y, z: (x + y + z >= 0) & (abs(x) <= 1),
    "rail": lambda x, y, z: (abs(y) > 0.5) & (abs(z) <= 0.34) & (abs(x) <= 1),
}


def voxels(name: str, size: tuple[int, int, int], extent: int) -> np.ndarray:
    """Shape ``name`` of ``extent`` voxels around the middle of a lattice of ``size``, bool [x, y, z]."""
    radius = max(1.0, (extent - 1) / 2)
    axes = []
    for axis, side in enumerate(size):
        along = (np.arange(side) - side // 2) / radius
        axes.append(along.reshape([-1 if k == axis else 1 for k in range(3)]))
    inside = np.broadcast_to(SHAPES[name](*axes), size)
    box = np.broadcast_to(np.maximum(np.maximum(abs(axes[0]), abs(axes[1])), abs(axes[2])) <= 1.0 + 1e-9, size)
    return inside & box
