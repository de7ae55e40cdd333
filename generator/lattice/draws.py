"""What tells one sequence from another: goal, seed cell, damage, modulation, all from the counter RNG."""

import math
from dataclasses import dataclass

import numpy as np

from generator import philox
from generator.lattice.spec import LatticeSpec
from generator.lattice.weights import Network
from generator.lattice.wiring import POSITIONS

UNIT = 32  # 1 in units of a state


@dataclass(frozen=True)
class Draws:
    """Of N sequences: seed_N cells; goal_NG of ±UNIT; moment_N the step before which damage comes (-1: never), gone_NC
    bool, the cells that it hits; left_NR [N, 7H] and right_NC [N, C] whose product is added to the weights w_read."""

    seed_N: np.ndarray
    goal_NG: np.ndarray
    moment_N: np.ndarray
    gone_NX: np.ndarray
    left_NR: np.ndarray
    right_NC: np.ndarray


def draw(spec: LatticeSpec, network: Network, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray) -> Draws:
    """The RULE stream: 12 words for seed cell and damage, then the goal's bits, then the modulation's bytes."""
    head = philox.words(seed, philox.RULE, ids_N, attempts_N, 12)
    goal_words = philox.words(seed, philox.SYMBOLS, ids_N, attempts_N, network.goal)
    goal = np.where(goal_words >> 31 == 1, UNIT, -UNIT).astype(np.float32)
    count = POSITIONS * network.gate + network.channels
    bytes_NM = philox.stream_bytes(seed, philox.COLOR_LOGITS, ids_N, attempts_N, count).astype(np.int64)
    # A byte below 128 changes nothing; the others are whole numbers from -1 to 1 (right) or -modulation … (left).
    span = 2 * spec.modulation + 1
    left = np.where(bytes_NM < 128, 0, (bytes_NM - 128) * span // 128 - spec.modulation)
    right = np.where(bytes_NM < 128, 0, (bytes_NM - 128) * 3 // 128 - 1)
    if spec.modulation == 0:
        left = np.zeros_like(left)
    rows = POSITIONS * network.gate
    never = head[:, 1] >= np.uint32(min(round(spec.damage * 2.0**32), 2**32 - 1)) if spec.damage < 1 else False
    moment = philox.below(head[:, 2], max(1, spec.steps))
    return Draws(
        seed_N=philox.below(head[:, 0], spec.cells),
        goal_NG=goal,
        moment_N=np.where(never, -1, moment),
        gone_NX=_gone(spec, head[:, 3:]),
        left_NR=left[:, :rows].astype(np.float32),
        right_NC=right[:, rows:].astype(np.float32),
    )


def _gone(spec: LatticeSpec, words_N9: np.ndarray) -> np.ndarray:
    """The cells that damage hits, bool [N, cells]: a ball around any cell, or one side of a plane through its cell."""
    middle_N = philox.below(words_N9[:, 0], spec.cells)
    # By axis: how far each place along it is from the middle.
    middles = np.unravel_index(middle_N, spec.grid)
    apart = [np.arange(side) - at_N[:, None] for side, at_N in zip(spec.grid, middles, strict=True)]
    radius_N = 1 + philox.below(words_N9[:, 1], max(1, min(spec.grid) // 2))
    axis_N = philox.below(words_N9[:, 2], 3)
    below_N = words_N9[:, 3] >> 31 == 0
    ball_N = words_N9[:, 4] >> 31 == 1
    gone = np.empty((len(words_N9), *spec.grid), bool)
    x, y, z = (each[ball_N] ** 2 for each in apart)
    gone[ball_N] = (
        x[:, :, None, None] + (y[:, None, :, None] + z[:, None, None, :]) <= radius_N[ball_N, None, None, None] ** 2
    )
    for axis in range(3):
        rows = ~ball_N & (axis_N == axis)
        half = (apart[axis][rows] < 0) == below_N[rows, None]
        gone[rows] = half.reshape(-1, *(side if k == axis else 1 for k, side in enumerate(spec.grid)))
    return gone.reshape(-1, spec.cells)


def fires(spec: LatticeSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray, step: int) -> np.ndarray:
    """Which cells fire in ``step``, bool [N, cells]: a word of the NOISE stream each, four cells to a block."""
    blocks = math.ceil(spec.cells / 4)
    words = philox.words(seed, philox.NOISE, ids_N, attempts_N, spec.cells, first=4 * blocks * step)
    below = round(spec.fire * 2**32)
    return np.ones(words.shape, bool) if below == 2**32 else words < np.uint32(below)
