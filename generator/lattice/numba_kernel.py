"""The CPU kernel: one sequence at a time, and of its cells those that fire, LANES of one set of weights at once.

Numbers are integers as in the reference; products are made of packed pairs (`generator.lattice.simd`). A network's
sums are below 2²⁴ (`weights.parse` refuses others), so 32 bits hold them. What a network is packed into is made by
`generator.lattice.packing`; `build_kernel` closes over its sizes, which become compile-time constants.
"""

import inspect
import zlib
from collections.abc import Callable
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np

from generator import philox, vector_code
from generator.lattice import simd
from generator.lattice.packing import Sizes
from generator.lattice.simd import (
    BLOCK_LANES,
    LANES,
    PAIRS,
    activate,
    draw_fires,
    feed_forward,
    gate,
    normalise,
    read_out,
)
from generator.lattice.wiring import POSITIONS
from generator.machine_code import compiled

# Numba renews its disk cache when this file changes or a constant below does: this one stands for the other files whose
# contents end up in the machine code.
_SOURCES = zlib.crc32("".join(inspect.getsource(module) for module in (philox, simd, vector_code)).encode())
_NOISE = philox.NOISE
_BUILDING = Lock()


def build_kernel(sizes: Sizes) -> Callable[..., int]:
    """Return kernel(seed, ids, attempts, around, firsts, below, times, shifts, packed, drawn, frames), compiled once a
    process for networks of these sizes.

    ids, attempts int64 [N]; around int64 [X + 1, 7], of neighbours, X where nobody is; firsts int64 [K + 1], where each
    set's cells begin; a cell fires if its word is less than below; times (burn_in,
    stride, bits, visible); shifts int32 [5];
    packed of `packing.pack`; drawn (seed_N, goal_NG int16, moment_N, gone_NX, left_NR packed, right_NC int32). It
    writes frames uint8 [N, F, X], releases the GIL and returns a checksum of the sources that it was compiled from.
    """
    with _BUILDING:
        return _build(sizes)


@lru_cache(maxsize=64)
def _build(sizes: Sizes) -> Callable[..., Any]:
    C, H, F = sizes.channels, sizes.gate, sizes.feed
    E, half_c, half_f = 2 * H, C // 2, F // 2
    in_sizes, up_sizes = (half_c, E, 0), (half_c, F, 1)
    read_sizes, down_sizes = (H * PAIRS, C), (half_f, C)
    log_c, log_h = C.bit_length() - 1, H.bit_length() - 1
    state_norm, gate_norm = (C, log_c, 5, 1), (H, log_h, 4, 0)
    sources = _SOURCES

    def kernel(seed, ids, attempts, around, firsts, below, times, shifts, packed, drawn, frames):
        w_in, b_in, w_gate, gain, b_gate, w_read, b_read, w_up, b_up, w_down, b_down = packed
        seeds, goals, moments, gone, lefts, rights = drawn
        burn_in, stride, bits, visible = times
        cells = around.shape[0] - 1
        rows = -(-(cells + 1) // LANES) * LANES  # cell number `cells` is nobody: nothing, and it stays so
        blocks = -(-cells // (4 * BLOCK_LANES)) * BLOCK_LANES
        state = np.zeros((C, rows), np.int16)
        hat = np.zeros((rows, half_c), np.int32)
        firing = np.zeros(4 * blocks, np.uint8)
        chosen = np.zeros(rows + LANES, np.int64)
        own = np.zeros(C * LANES, np.int32)
        seen = np.zeros(POSITIONS * half_c * LANES, np.int32)
        wide = np.zeros(POSITIONS * E * LANES, np.int32)
        gated = np.zeros(H * PAIRS * LANES, np.int32)
        near = np.zeros(C * LANES, np.int32)
        near_hat = np.zeros(half_c * LANES, np.int32)
        fed = np.zeros(half_f * LANES, np.int32)
        count = frames.shape[1]
        last = burn_in + (count - 1) * stride
        for n in range(len(ids)):
            address = attempts[n] * 256 + _NOISE
            state[:] = 0
            for step in range(last + 1):
                if step >= burn_in and (step - burn_in) % stride == 0:
                    frame = frames[n, (step - burn_in) // stride]
                    for x in range(cells):
                        frame[x] = state[0, x] > 0
                    for bit in range(1, bits):
                        for x in range(cells):
                            frame[x] |= (state[bit, x] > 0) << bit
                if step == last:
                    break
                if moments[n] == step:
                    for c in range(C):
                        for x in range(cells):
                            if gone[n, x]:
                                state[c, x] = 0
                for g in range(goals.shape[1]):
                    state[visible + g, seeds[n]] = goals[n, g]
                for first in range(0, rows, LANES):
                    for c in range(C):
                        for lane in range(LANES):
                            own[c * LANES + lane] = state[c, first + lane]
                    normalise(own, 0, near_hat, 0, state_norm)  # type: ignore[call-arg]
                    for lane in range(LANES):
                        for i in range(half_c):
                            hat[first + lane, i] = near_hat[i * LANES + lane]
                for block in range(0, blocks, BLOCK_LANES):
                    draw_fires(seed, address, ids[n], step * (-(-cells // 4)) + block, below, firing, block, blocks)  # type: ignore[call-arg]
                for k in range(len(firsts) - 1):
                    many = 0
                    for x in range(firsts[k], firsts[k + 1]):
                        chosen[many] = x
                        many += firing[(x & 3) * blocks + (x >> 2)]
                    chosen[many : many + LANES] = cells
                    for first in range(0, many, LANES):
                        for lane in range(LANES):
                            x = chosen[first + lane]
                            for c in range(C):
                                own[c * LANES + lane] = state[c, x]
                            for p in range(POSITIONS):
                                other = around[x, p]
                                for i in range(half_c):
                                    seen[(p * half_c + i) * LANES + lane] = hat[other, i]
                        for p in range(POSITIONS):
                            source, to = p * half_c * LANES, p * E * LANES
                            activate(seen, source, w_in, k * half_c * E, b_in, k * E, wide, to, shifts[0], in_sizes)  # type: ignore[call-arg]
                            at = to + H * LANES
                            normalise(wide, at, wide, at, gate_norm)
                        at_w, at_b = k * PAIRS * POSITIONS, k * H * POSITIONS
                        gate(wide, 0, w_gate, at_w, gain, k * H, b_gate, at_b, gated, 0, shifts[1], H)  # type: ignore[call-arg]
                        at_w, left, right = k * H * PAIRS * C, n * H * PAIRS, n * C
                        read_out(
                            gated, 0, w_read, at_w, b_read, k * C, lefts, left, rights, right,
                            own, 0, near, 0, shifts[2], read_sizes,
                        )  # fmt: skip
                        normalise(near, 0, near_hat, 0, state_norm)
                        activate(near_hat, 0, w_up, k * half_c * F, b_up, k * F, fed, 0, shifts[3], up_sizes)
                        feed_forward(fed, 0, w_down, k * half_f * C, b_down, k * C, near, 0, shifts[4], down_sizes)
                        for lane in range(min(LANES, many - first)):
                            x = chosen[first + lane]
                            for c in range(C):
                                state[c, x] = near[c * LANES + lane]
        return sources

    return compiled(kernel, boundscheck=False)
