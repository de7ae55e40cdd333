"""Causal attention in float32 for heads of 16 numbers and more, as products of tiles (``trainer.tiles``).

BLOCK queries of one head are taken at once. Their scores with all keys that they may see lie in a piece of memory that
the nearest caches hold; nothing of [T, T] is kept. The gradient works scores out again, as in Dao et al. 2022 (arXiv
2205.14135), from each row's maximum and the inverse of its sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from generator import vector_code
from generator.machine_code import checksum, compiled
from trainer import tiles, vectors
from trainer.tiles import PANEL, TILE_ROWS
from trainer.vectors import LANES

BLOCK = 8 * TILE_ROWS
"""Queries that are taken at once."""

_SOURCES = checksum(vector_code, vectors, tiles)

# Their first argument, the compiler's, is given by numba.
_run_copy: Any = tiles.copy_rows
_run_dot: Any = tiles.dot
_run_turn: Any = tiles.turn
_run_tile: Any = tiles.tile
_run_weigh: Any = tiles.weigh
_run_slope: Any = tiles.slope


@numba.njit(nogil=True)
def _up(count: int, unit: int) -> int:
    """The next multiple of ``unit``."""
    return -(-count // unit) * unit


@numba.njit(nogil=True)
def _panels(x: np.ndarray, at: int, step: int, length: int, width: int, out: np.ndarray) -> None:
    """Rows of x as columns: panels of PANEL positions, in each a row for each of ``width`` numbers."""
    even = length - length % LANES
    for t in range(0, even, LANES):
        for e in range(0, width, LANES):
            _run_turn(x, at + t * step + e, step, out, (t - t % PANEL) * width + e * PANEL + t % PANEL)
    for t in range(even, length):
        for e in range(width):
            out[(t - t % PANEL) * width + e * PANEL + t % PANEL] = x[at + t * step + e]


@numba.njit(nogil=True)
def _by_tile(
    a: np.ndarray,
    a_at: int,
    a_row: int,
    a_step: int,
    b: np.ndarray,
    b_at: int,
    b_step: int,
    c: np.ndarray,
    c_at: int,
    c_row: int,
    count: int,
    vectors: int,
    adds: bool,
) -> None:
    """`_tile`, whose number of vectors is found as it runs. At most TILE_VECTORS are worked out."""
    if adds:
        if vectors >= 4:
            _run_tile(a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, count, 4, True)
        elif vectors == 3:
            _run_tile(a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, count, 3, True)
        elif vectors == 2:
            _run_tile(a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, count, 2, True)
        else:
            _run_tile(a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, count, 1, True)
    elif vectors >= 4:
        _run_tile(a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, count, 4, False)
    elif vectors == 3:
        _run_tile(a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, count, 3, False)
    elif vectors == 2:
        _run_tile(a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, count, 2, False)
    else:
        _run_tile(a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, count, 1, False)


@numba.njit(nogil=True)
def _products(
    left: np.ndarray, first: int, rows: int, panels: np.ndarray, width: int, out: np.ndarray, line: int, length: int
) -> None:
    """Rows ``first`` … ``first + rows - 1`` of ``left`` times the columns in ``panels`` up to each row's own."""
    for column in range(0, min(first + rows, length), PANEL):
        for row in range(0, rows, TILE_ROWS):
            wanted = first + row + TILE_ROWS - column
            if wanted > 0:
                a_at, b_at, c_at = (first + row) * width, column * width, row * line + column
                vectors = _up(wanted, LANES) // LANES
                _by_tile(left, a_at, width, 1, panels, b_at, PANEL, out, c_at, line, width, vectors, False)


@numba.njit(nogil=True)
def _mix(
    left: np.ndarray,
    at: int,
    left_row: int,
    left_step: int,
    right: np.ndarray,
    first: int,
    width: int,
    out: np.ndarray,
    to: int,
    count: int,
    adds: bool,
) -> None:
    """TILE_ROWS rows of ``width`` numbers, from row ``to`` of ``out`` on: sums of ``count`` rows of ``right``."""
    for e in range(0, width, PANEL):
        b_at, c_at, vectors = first * width + e, to * width + e, (width - e) // LANES
        _by_tile(left, at, left_row, left_step, right, b_at, width, out, c_at, width, count, vectors, adds)


@numba.njit(nogil=True)
def _fill(line: np.ndarray, at: int, first: int, end: int, value: float) -> None:
    for place in range(at + first, at + end):
        line[place] = value


def make_forward() -> Callable[..., int]:
    """``forward(q, k, v, out, rows, length, heads, kv_heads, width, steps, first, last)``.

    Computes blocks ``first`` … ``last`` - 1: a block is a sequence's head of keys with the heads of queries it serves.
    All arrays are flat; ``width``, of a head, is a multiple of LANES. ``steps`` are the strides over
    B, T and H of q [B, T, H, width], k and v [B, T, K, width]; out
    has q's shape and rows, for the backward pass, is [B, T, H, 2], both contiguous. Returns a checksum of the sources
    that it is compiled from.
    """
    sources = _SOURCES

    def forward(
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        out: np.ndarray,
        rows: np.ndarray,
        length: int,
        heads: int,
        kv_heads: int,
        width: int,
        steps: Any,
        first: int,
        last: int,
    ) -> int:
        tall, line = _up(length, TILE_ROWS), _up(length, PANEL) + LANES
        q_, out_ = np.zeros(tall * width, np.float32), np.empty(tall * width, np.float32)
        v_, k_ = np.zeros(tall * width, np.float32), np.zeros(_up(length, PANEL) * width, np.float32)
        scores = np.empty(BLOCK * line, np.float32)
        one, scale = np.float32(1.0), np.float32(1.0 / math.sqrt(width))
        groups = heads // kv_heads
        for block in range(first, last):
            b, kv_head = divmod(block, kv_heads)
            _panels(k, b * steps[3] + kv_head * steps[5], steps[4], length, width, k_)
            _run_copy(v, b * steps[6] + kv_head * steps[8], steps[7], v_, 0, width, length, width, one)
            for head in range(kv_head * groups, (kv_head + 1) * groups):
                _run_copy(q, b * steps[0] + head * steps[2], steps[1], q_, 0, width, length, width, scale)
                for start in range(0, tall, BLOCK):
                    count = min(BLOCK, tall - start)
                    _products(q_, start, count, k_, width, scores, line, length)
                    for row in range(count):
                        seen = min(start + row + 1, length)
                        _fill(scores, row * line, seen, _up(seen, LANES), -np.inf)
                        if start + row < length:
                            place = ((b * length + start + row) * heads + head) * 2
                            _run_weigh(scores, row * line, _up(seen, LANES) // LANES, rows, place)
                        _fill(scores, row * line, seen, start + _up(row + 1, TILE_ROWS), 0.0)
                    for row in range(0, count, TILE_ROWS):
                        seen = start + row + TILE_ROWS
                        _mix(scores, row * line, line, 1, v_, 0, width, out_, start + row, seen, False)
                for t in range(length):
                    place = (b * length + t) * heads + head
                    _run_copy(out_, t * width, width, out, place * width, width, 1, width, rows[2 * place + 1])
        return sources

    return compiled(forward)


def make_backward() -> Callable[..., int]:
    """``backward(q, k, v, grad, out, rows, grad_q, grad_k, grad_v, …)``, the rest as in ``make_forward``.

    ``steps`` ends with those of ``grad``, of out's shape; all after it are contiguous.
    """
    sources = _SOURCES

    def backward(
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        grad: np.ndarray,
        out: np.ndarray,
        rows: np.ndarray,
        grad_q: np.ndarray,
        grad_k: np.ndarray,
        grad_v: np.ndarray,
        length: int,
        heads: int,
        kv_heads: int,
        width: int,
        steps: Any,
        first: int,
        last: int,
    ) -> int:
        tall, line = _up(length, TILE_ROWS), _up(length, PANEL) + LANES
        size, wide = tall * width, _up(length, PANEL) * width
        q_, k_, grad_ = np.zeros(size, np.float32), np.zeros(size, np.float32), np.zeros(size, np.float32)
        grad_q_, grad_k_, grad_v_ = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
        k_panels, v_panels = np.zeros(wide, np.float32), np.zeros(wide, np.float32)
        weights, slopes = np.empty(BLOCK * line, np.float32), np.empty(BLOCK * line, np.float32)
        found = np.empty(3, np.float32)
        one, scale = np.float32(1.0), np.float32(1.0 / math.sqrt(width))
        groups = heads // kv_heads
        for block in range(first, last):
            b, kv_head = divmod(block, kv_heads)
            k_at, v_at = b * steps[3] + kv_head * steps[5], b * steps[6] + kv_head * steps[8]
            _run_copy(k, k_at, steps[4], k_, 0, width, length, width, one)
            _panels(k, k_at, steps[4], length, width, k_panels)
            _panels(v, v_at, steps[7], length, width, v_panels)
            grad_k_[:] = 0.0
            grad_v_[:] = 0.0
            for head in range(kv_head * groups, (kv_head + 1) * groups):
                _run_copy(q, b * steps[0] + head * steps[2], steps[1], q_, 0, width, length, width, scale)
                _run_copy(grad, b * steps[9] + head * steps[11], steps[10], grad_, 0, width, length, width, one)
                for start in range(0, tall, BLOCK):
                    count = min(BLOCK, tall - start)
                    end = start + count
                    _products(q_, start, count, k_panels, width, weights, line, length)
                    _products(grad_, start, count, v_panels, width, slopes, line, length)
                    for row in range(count):
                        t = start + row
                        seen = min(t + 1, length)
                        if t < length:
                            place = (b * length + t) * heads + head
                            found[0], found[1] = rows[2 * place], rows[2 * place + 1]
                            _run_dot(grad_, t * width, out, place * width, width, found, 2)
                            _run_slope(weights, slopes, row * line, _up(seen, LANES) // LANES, found, 0)
                        else:
                            seen = 0
                        _fill(weights, row * line, seen, end, 0.0)
                        _fill(slopes, row * line, seen, end, 0.0)
                    for row in range(0, count, TILE_ROWS):
                        seen = start + row + TILE_ROWS
                        _mix(slopes, row * line, line, 1, k_, 0, width, grad_q_, start + row, seen, False)
                    for key in range(0, end, TILE_ROWS):
                        skipped = max(0, key - start)
                        at, left = skipped * line + key, count - skipped
                        _mix(slopes, at, 1, line, q_, start + skipped, width, grad_k_, key, left, True)
                        _mix(weights, at, 1, line, grad_, start + skipped, width, grad_v_, key, left, True)
                for t in range(length):
                    place = (b * length + t) * heads + head
                    _run_copy(grad_q_, t * width, width, grad_q, place * width, width, 1, width, scale)
            for t in range(length):
                place = (b * length + t) * kv_heads + kv_head
                _run_copy(grad_k_, t * width, width, grad_k, place * width, width, 1, width, one)
                _run_copy(grad_v_, t * width, width, grad_v, place * width, width, 1, width, one)
        return sources

    return compiled(backward)
