"""A network as the CPU kernel reads it: pairs of 16-bit weights in one number, sums with the half unit that rounds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from generator.lattice.weights import Network
from generator.lattice.wiring import POSITIONS


@dataclass(frozen=True)
class Sizes:
    """What a kernel is compiled for; ``feed`` is even."""

    channels: int
    gate: int
    feed: int


@dataclass(frozen=True)
class Packed:
    """A network's ``sizes``, its five ``shifts`` (int32: after w_in, gate, w_read, w_up, w_down) and its ``arrays``,
    int32 and flat, each of the K sets after the other:

    w_in [C/2, 2H], b_in [2H]; w_gate [4, 7], gain [H], b_gate [H, 7]; w_read [4H, C], b_read [C]; w_up [C/2, F],
    b_up [F]; w_down [F/2, C], b_down [C]. An entry of a matrix w holds two rows of the network's: channels 2i and
    2i + 1, or of w_gate and w_read positions 2i and 2i + 1, of which the eighth is nobody's.
    """

    sizes: Sizes
    shifts: np.ndarray
    arrays: tuple[np.ndarray, ...]


def packed_pairs(rows: np.ndarray, axis: int) -> np.ndarray:
    """Rows 2i and 2i + 1 along ``axis`` of numbers of 16 bits, in one int32 each; zeros are added to an odd number."""
    rows = np.moveaxis(rows.astype(np.int64), axis, 0)
    if len(rows) % 2:
        rows = np.concatenate([rows, np.zeros_like(rows[:1])])
    return np.moveaxis((rows[::2] & 0xFFFF) | (rows[1::2] << 16), 0, axis).astype(np.int32)


def packed_lefts(left_NR: np.ndarray, gate: int) -> np.ndarray:
    """The modulation's left factor as a column of w_read, int32 [N · 4H]."""
    rows = left_NR.reshape(len(left_NR), POSITIONS, gate)
    return packed_pairs(rows, 1).transpose(0, 2, 1).reshape(-1)


@lru_cache(maxsize=8)
def pack(network: Network) -> Packed:
    """The network, packed; kept for the next call."""
    s, arrays = network.shifts, network.arrays
    shifts = [s["w_in"], s["w_gate"] + s["gain"] - 1, s["w_read"] - 1, s["w_up"], s["w_down"] - 1]
    halves = [1 << shift >> 1 for shift in shifts]
    k, h, feed = network.types, network.gate, network.feed + network.feed % 2
    more = [(0, 0), (0, feed - network.feed)]
    w_read = arrays["w_read"].reshape(k, POSITIONS, h, network.channels)
    made = (
        packed_pairs(arrays["w_in"], 1),
        arrays["b_in"] + halves[0],
        packed_pairs(arrays["w_gate"].transpose(0, 2, 1), 1),
        arrays["gain"],
        arrays["shift"].transpose(0, 2, 1) + halves[1],
        packed_pairs(w_read, 1).transpose(0, 2, 1, 3),
        arrays["b_read"] + halves[2],
        packed_pairs(np.pad(arrays["w_up"], [(0, 0), *more]), 1),
        np.pad(arrays["b_up"] + halves[3], more),
        packed_pairs(arrays["w_down"], 1),
        arrays["b_down"] + halves[4],
    )
    return Packed(
        Sizes(network.channels, h, feed),
        np.array(shifts, np.int32),
        tuple(np.ascontiguousarray(array, dtype=np.int32).reshape(-1) for array in made),
    )
