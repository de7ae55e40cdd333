"""What a lattice is asked to do. The goal enters at one face or one seed cell: all else must be told by neighbours.

``surface``: each cell of the front face (z = 0) is given a random bit, and the back face must show those bits permuted.
``growth``: the seed cell in the middle is given a code, and the lattice must show the voxel shape of that code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from generator import philox
from trainer.errors import ConfigError
from trainer.lattice.config import LatticeConfig
from trainer.lattice.masks import GOAL
from trainer.lattice.shapes import SHAPES, voxels
from trainer.lattice.train_config import TargetConfig


class Target(ABC):
    """A task on one lattice. Cells are numbered x slowest."""

    inputs: np.ndarray  # int64 [I], the cells whose goal channels are written
    judged: np.ndarray  # int64 [J], the cells whose visible channel counts
    distance: np.ndarray  # int64 [J], steps that the goal needs to reach each of them

    @abstractmethod
    def draw(self, seed: int, ids_B: np.ndarray) -> np.ndarray:
        """The codes of samples ``ids_B``, int64 [B, L], a function of (seed, id)."""

    @abstractmethod
    def goals(self, codes_BL: np.ndarray) -> np.ndarray:
        """What the goal channels of the inputs are set to, float32 [I, B, goal]."""

    @abstractmethod
    def wanted(self, codes_BL: np.ndarray) -> np.ndarray:
        """What the judged cells should show, float32 [J, B] of -1 and 1."""


class Surface(Target):
    """Bits at the front, a permutation of them at the back; ``reach`` is the farthest that a bit moves sideways."""

    def __init__(self, config: LatticeConfig, target: TargetConfig) -> None:
        x, y, z = config.size
        if z < 2:
            raise ConfigError(f"lattice.size: depth {z} has one face; target 'surface' needs 2 or more; make it deeper")
        index = np.arange(config.cells).reshape(config.size)
        self.inputs, self.judged = index[:, :, 0].reshape(-1), index[:, :, -1].reshape(-1)
        self._goal = config.goal
        self.source = swaps((x, y), target.seed)
        here = np.stack(np.unravel_index(np.arange(x * y), (x, y)))
        there = np.stack(np.unravel_index(self.source, (x, y)))
        self.distance = np.abs(here - there).sum(0) + z - 1
        if config.boundary == "torus":
            raise ConfigError(
                "lattice.boundary = 'torus': the back face would touch the front one; target 'surface' needs 'zero'"
            )

    def draw(self, seed: int, ids_B: np.ndarray) -> np.ndarray:
        words = philox.words(seed, GOAL, ids_B, np.zeros_like(ids_B), len(self.inputs))
        return (words >> 31).astype(np.int64)

    def goals(self, codes_BL: np.ndarray) -> np.ndarray:
        goals = np.ones((len(self.inputs), len(codes_BL), self._goal), dtype=np.float32)
        goals[:, :, 0] = (2 * codes_BL - 1).T
        return goals

    def wanted(self, codes_BL: np.ndarray) -> np.ndarray:
        return (2 * codes_BL[:, self.source] - 1).T.astype(np.float32)


class Growth(Target):
    """A code at the seed cell, its shape around it."""

    def __init__(self, config: LatticeConfig, target: TargetConfig) -> None:
        extent = target.extent or min(config.size)
        if extent > min(config.size):
            raise ConfigError(
                f"target.extent = {extent}: larger than the lattice, whose shortest side is {min(config.size)}; "
                "lower it"
            )
        if target.shapes > 1 << config.goal:
            raise ConfigError(
                f"target.shapes = {target.shapes}: lattice.goal = {config.goal} channels code {1 << config.goal}; "
                "raise lattice.goal"
            )
        middle = tuple(side // 2 for side in config.size)
        self.inputs = np.array([np.ravel_multi_index(middle, config.size)])
        self.judged = np.arange(config.cells)
        self.shapes = np.stack([voxels(name, config.size, extent) for name in list(SHAPES)[: target.shapes]])
        place = np.stack(np.unravel_index(self.judged, config.size))
        steps = np.abs(place - np.array(middle)[:, None])
        if config.boundary == "torus":
            steps = np.minimum(steps, np.array(config.size)[:, None] - steps)
        self.distance = steps.sum(0)
        self._goal = config.goal

    def draw(self, seed: int, ids_B: np.ndarray) -> np.ndarray:
        return philox.below(philox.words(seed, GOAL, ids_B, np.zeros_like(ids_B), 1), len(self.shapes))

    def goals(self, codes_BL: np.ndarray) -> np.ndarray:
        bits = codes_BL >> np.arange(self._goal) & 1
        return (2 * bits - 1).astype(np.float32)[None]

    def wanted(self, codes_BL: np.ndarray) -> np.ndarray:
        return (2.0 * self.shapes[codes_BL[:, 0]] - 1.0).reshape(len(codes_BL), -1).T.astype(np.float32)


def make_target(config: LatticeConfig, target: TargetConfig) -> Target:
    """The task; ConfigError where the lattice cannot hold it."""
    return Surface(config, target) if target.kind == "surface" else Growth(config, target)


def swaps(face: tuple[int, int], seed: int) -> np.ndarray:
    """A permutation of a face's cells that swaps disjoint neighbours: where each bit is from, int64 [cells]."""
    index = np.arange(face[0] * face[1])
    source = index.copy()
    pairs = [(a, a + face[1]) for a in index[: -face[1]]] + [(a, a + 1) for a in index if (a + 1) % face[1]]
    keys = philox.words(seed, GOAL, np.array([1 << 40]), np.array([0]), len(pairs))[0]
    for at in np.argsort(keys, kind="stable"):
        a, b = pairs[at]
        if source[a] == a and source[b] == b:
            source[a], source[b] = b, a
    return source
