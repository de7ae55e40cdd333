"""The CPU kernel: one sequence at a time, only the cells that fire, sums of whole numbers in float32.

Every sum is below 2²⁴ (`weights.parse` refuses others), so any order of additions, and any fused multiplication, gives
the reference's result. `build_kernel` closes over the network's sizes: the inner loops have fixed lengths, and run
along the outputs, which are contiguous in memory.
"""

from collections.abc import Callable
from functools import lru_cache
from threading import Lock
from typing import Any

import numba
import numpy as np

from generator import philox
from generator.lattice.wiring import POSITIONS
from generator.machine_code import compiled

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_M0, _M1 = np.uint64(philox.MUL_0), np.uint64(philox.MUL_1)
_W0, _W1 = np.uint64(philox.WEYL_0), np.uint64(philox.WEYL_1)
_NOISE = philox.NOISE
_F0, _F1, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_MOST, _TOP = np.float32(127), np.float32(96)

_BUILDING = Lock()


@numba.njit(nogil=True, inline="always")
def _four_words(seed, address, number, block):
    c0, c1, c2, c3 = np.uint64(block), address, np.uint64(number) & _LOW, np.uint64(number) >> _32
    k0, k1 = np.uint64(seed) & _LOW, np.uint64(seed) >> _32
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@numba.njit(nogil=True, inline="always")
def _factor(total, log_width, unit):
    """What brings a mean magnitude of total / 2^log_width units of 2^-unit into [1/2, 1), in units of 1/16."""
    bits = 0
    rest = np.int64(total)
    while rest > 0:
        rest >>= 1
        bits += 1
    exponent = max(bits - unit - log_width, -5)
    shift = exponent + unit - 4
    factor = _F1
    for _ in range(shift):
        factor *= _HALF
    for _ in range(-shift):
        factor += factor
    return factor


@numba.njit(nogil=True, inline="always")
def _clip(x, low, high):
    return min(max(x, low), high)


def build_kernel(channels: int, gate: int, feed: int, visible: int, goal: int) -> Callable[..., None]:
    """The kernel for networks of these sizes, compiled once a process."""
    with _BUILDING:
        return _build(channels, gate, feed, visible, goal)


@lru_cache(maxsize=64)
def _build(channels: int, gate: int, feed: int, visible: int, goal: int) -> Callable[..., Any]:
    C, H, F = channels, gate, feed
    E, R = 2 * gate, POSITIONS * gate
    log_c, log_h = C.bit_length() - 1, H.bit_length() - 1

    def kernel(
        seed,
        ids,
        attempts,
        around,  # int64 [X, 7]
        types,  # int64 [X]
        below,  # fires if a word is less
        times,  # burn_in, stride, bits
        factors,  # float32 [6]: 2^-shift after w_in, gate, w_read, w_up, w_down
        w_in,
        b_in,
        w_gate,
        gain,
        shift,
        w_read,
        b_read,
        w_up,
        b_up,
        w_down,
        b_down,
        seeds,
        goals,
        moments,
        gone,
        lefts,
        rights,
        frames,  # uint8 [N, frames, X]: out
    ):
        cells = around.shape[0]
        blocks = (cells + 3) // 4
        state = np.zeros((cells, C), np.float32)
        hat = np.zeros((cells + 1, C), np.float32)
        firing = np.zeros(4 * blocks, np.bool_)
        a = np.zeros((POSITIONS, E), np.float32)
        v = np.zeros((POSITIONS, H), np.float32)
        m = np.zeros(H, np.float32)
        z = np.zeros(R, np.float32)
        r = np.zeros(C, np.float32)
        y = np.zeros(C, np.float32)
        q = np.zeros(F, np.float32)
        f = np.zeros(C, np.float32)
        burn_in, stride, bits = times
        count = frames.shape[1]
        last = burn_in + (count - 1) * stride
        for n in range(len(ids)):
            address = np.uint64(attempts[n]) * np.uint64(256) + np.uint64(_NOISE)
            state[:] = _F0
            for step in range(last + 1):
                if step >= burn_in and (step - burn_in) % stride == 0:
                    frame = (step - burn_in) // stride
                    for x in range(cells):
                        color = 0
                        for bit in range(bits):
                            color |= (state[x, bit] > _F0) << bit
                        frames[n, frame, x] = color
                if step == last:
                    break
                if moments[n] == step:
                    for x in range(cells):
                        if gone[n, x]:
                            state[x] = _F0
                for g in range(goal):
                    state[seeds[n], visible + g] = goals[n, g]
                for x in range(cells):
                    total = _F0
                    for c in range(C):
                        total += abs(state[x, c])
                    factor = _factor(total, log_c, 5)
                    for c in range(C):
                        hat[x, c] = _clip(np.floor(state[x, c] * factor + _HALF), -_MOST, _MOST)
                for block in range(blocks):
                    w0, w1, w2, w3 = _four_words(seed, address, ids[n], step * blocks + block)
                    firing[4 * block] = w0 < below
                    firing[4 * block + 1] = w1 < below
                    firing[4 * block + 2] = w2 < below
                    firing[4 * block + 3] = w3 < below
                for x in range(cells):
                    if not firing[x]:
                        continue
                    k = types[x]
                    for p in range(POSITIONS):
                        near = around[x, p]
                        for e in range(E):
                            a[p, e] = b_in[k, e]
                        for c in range(C):
                            seen = hat[near, c]
                            for e in range(E):
                                a[p, e] += seen * w_in[k, c, e]
                        total = _F0
                        for e in range(E):
                            a[p, e] = _clip(np.floor(a[p, e] * factors[0] + _HALF), _F0, _TOP)
                        for h in range(H):
                            total += a[p, H + h]
                        factor = _factor(total, log_h, 4)
                        for h in range(H):
                            v[p, h] = min(np.floor(a[p, H + h] * factor + _HALF), _MOST)
                    for p in range(POSITIONS):
                        for h in range(H):
                            m[h] = _F0
                        for other in range(POSITIONS):
                            weight = w_gate[k, p, other]
                            for h in range(H):
                                m[h] += weight * v[other, h]
                        for h in range(H):
                            gated = np.floor((m[h] * gain[k, h] + shift[k, p, h]) * factors[1] + _HALF)
                            gated = _clip(gated, -_MOST, _MOST) * a[p, h]
                            z[p * H + h] = _clip(np.floor(gated * np.float32(1 / 32) + _HALF), -_MOST, _MOST)
                    along = _F0
                    for c in range(C):
                        r[c] = b_read[k, c]
                    for i in range(R):
                        along += z[i] * lefts[n, i]
                        for c in range(C):
                            r[c] += z[i] * w_read[k, i, c]
                    total = _F0
                    for c in range(C):
                        r[c] = np.floor((r[c] + along * rights[n, c]) * factors[2] + _HALF)
                        y[c] = state[x, c] + r[c]
                        total += abs(y[c])
                    factor = _factor(total, log_c, 5)
                    for j in range(F):
                        q[j] = b_up[k, j]
                    for c in range(C):
                        wide = _clip(np.floor(y[c] * factor + _HALF), -_MOST, _MOST)
                        for j in range(F):
                            q[j] += wide * w_up[k, c, j]
                    for c in range(C):
                        f[c] = b_down[k, c]
                    for j in range(F):
                        rectified = _clip(np.floor(q[j] * factors[3] + _HALF), _F0, _TOP)
                        for c in range(C):
                            f[c] += rectified * w_down[k, j, c]
                    for c in range(C):
                        changed = y[c] + np.floor(f[c] * factors[4] + _HALF)
                        state[x, c] = _clip(changed, -_MOST, _MOST)

    return compiled(kernel)
