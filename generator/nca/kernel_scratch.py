"""Working memory of the CPU kernel, allocated outside it: numba compiles the kernel in half the time without."""

from typing import NamedTuple

import numpy as np

from generator.nca.kernel_plan import KernelPlan
from generator.nca.simd import INDEX_LANES, LANES


class Scratch(NamedTuple):
    """`stream` and `halves` are byte and uint16 views of `words`; `packed` is an int32 view of `second`."""

    words: np.ndarray
    stream: np.ndarray
    halves: np.ndarray
    weights: np.ndarray
    conv: np.ndarray
    first: np.ndarray
    near: np.ndarray
    tables: np.ndarray
    second: np.ndarray
    packed: np.ndarray
    cumulative: np.ndarray
    entries: np.ndarray
    units: np.ndarray
    now: np.ndarray
    pad: np.ndarray
    noise: np.ndarray


def allocate(plan: KernelPlan) -> Scratch:
    """Zeroed arrays for one running kernel; threads need one each."""
    colors, channels, embed, hidden, _, _, noisy = plan.rule
    cells, _, pad_cells, _, _, neighbors = plan.geometry
    _, groups, rows, padded = plan.tables
    lane_cells = -(-cells // LANES) * LANES
    rule_blocks = -(-(neighbors * channels * embed + embed * hidden + hidden * colors) // 16)
    words = np.zeros(4 * max(rule_blocks, -(-cells // 4), -(-colors // 16), cells * noisy), np.uint32)
    second = np.zeros((colors, padded), np.int8)
    return Scratch(
        words=words,
        stream=words.view(np.uint8),
        halves=words.view(np.uint16),
        weights=np.zeros(16 * rule_blocks, np.int8),
        conv=np.zeros(embed, np.int16),
        first=np.zeros(embed * padded, np.int16),
        near=np.zeros(neighbors * colors * padded, np.int16),
        tables=np.zeros(groups * rows * padded, np.int16),
        second=second,
        packed=second.reshape(-1).view(np.int32),
        cumulative=np.zeros(colors, np.uint64),
        entries=np.zeros(groups * plan.joins[1], np.uint16),
        units=np.zeros(padded * lane_cells, np.uint8),
        now=np.zeros(lane_cells, np.uint8),
        # Blocks of index lanes run past the last cell: leave room for that.
        pad=np.zeros(pad_cells + 2 * INDEX_LANES, np.uint8),
        noise=np.zeros(colors * lane_cells * noisy, np.int32),
    )
