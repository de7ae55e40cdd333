"""Causal attention in float32 for heads of 16 numbers and more, as products of tiles (``trainer.tile_products``).

QUERIES queries of one head are taken at once. Their scores with all keys that they may see lie in a piece of memory
that the nearest caches hold; nothing of [T, T] is kept. The gradient works scores out again, as in Dao et al. 2022
(arXiv 2205.14135), from each query's maximum and the inverse of its sum.

Scores lie key by key, LANES queries to a vector, so that what is found for a query is never spread over a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from generator import vector_code
from generator.machine_code import checksum, compiled
from trainer import aligned_memory as memory
from trainer import tile_loops, tile_products, tiles, vectors
from trainer.aligned_memory import aligned_memory
from trainer.tile_loops import (
    AHEAD,
    also_ahead,
    clear,
    first_stop,
    look_ahead,
    mix_keys,
    mix_rows,
    scores,
    slopes,
    turn_rows,
    up,
    weights,
)
from trainer.tiles import KEY_ROWS, MIX_ROWS, QUERIES
from trainer.vectors import LANES

_SOURCES = checksum(vector_code, vectors, tiles, tile_products, tile_loops, memory)

# Their first argument, the compiler's, is given by numba.
_run_copy: Any = tiles.copy_rows
_run_copy_dots: Any = tiles.copy_dots
_run_sum_lanes: Any = tiles.sum_lanes
_run_weigh: Any = tiles.weigh_columns


@numba.njit(nogil=True)
def _place(steps: Any, tensor: int, b: int, t: int, head: int) -> int:
    """The first number of a head in one of the tensors that ``steps`` has the strides of."""
    return b * steps[3 * tensor] + t * steps[3 * tensor + 1] + head * steps[3 * tensor + 2]


def make_forward() -> Callable[..., int]:
    """``forward(q, k, v, out, rows, length, heads, kv_heads, width, steps, first, last)``.

    Computes blocks ``first`` … ``last`` - 1: a block is a sequence's head of keys with the heads of queries it serves.
    All arrays are flat; ``width``, of a head, is a multiple of LANES. ``steps`` are the strides over
    B, T and H of q [B, T, H, width], k and v [B, T, K, width]; out has q's shape and rows, for the backward pass, is
    [B, H, 2, T up to a multiple of LANES], both contiguous. Returns a checksum of the sources that it is compiled from.
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
        tall, line = up(length, KEY_ROWS), up(length, LANES)
        keys, values = 0, tall * width
        q_rows = 2 * tall * width
        q_columns = q_rows + QUERIES * width
        pairs = q_columns + QUERIES * width
        found = pairs + (line + LANES) * QUERIES
        spare = found + 2 * QUERIES + LANES
        work = aligned_memory(spare + MIX_ROWS * width)
        ahead = np.empty(AHEAD, np.int64)
        one, scale = np.float32(1.0), np.float32(1.0 / math.sqrt(width))
        groups = heads // kv_heads
        for number in range(first * groups, last * groups):
            b, head = divmod(number, heads)
            kv_head, begins = head // groups, head % groups == 0
            look_ahead(ahead, length, 1)
            if number + 1 < last * groups:
                b_, head_ = divmod(number + 1, heads)
                also_ahead(ahead, q, _place(steps, 0, b_, 0, head_), steps[1])
                if head_ % groups == 0:
                    also_ahead(ahead, k, _place(steps, 1, b_, 0, head_ // groups), steps[4])
                    also_ahead(ahead, v, _place(steps, 2, b_, 0, head_ // groups), steps[7])
            for stop in range(first_stop(length), line + 1, QUERIES):
                start = max(0, stop - QUERIES)
                count = min(stop, length) - start
                if begins:
                    for x, tensor, part in ((k, 1, keys), (v, 2, values)):
                        at, to = _place(steps, tensor, b, start, kv_head), part + start * width
                        _run_copy(x, at, steps[3 * tensor + 1], work, to, width, count, width, one)
                _run_copy(q, _place(steps, 0, b, start, head), steps[1], work, q_rows, width, count, width, scale)
                turn_rows(work, q_rows, width, count, q_columns)
                work[found : found + QUERIES] = -np.inf
                scores(work, ahead, keys, q_columns, width, start, count, pairs, found, 0)
                for column in range(0, count, LANES):
                    _run_weigh(work, pairs + column, min(start + column + LANES, tall), found + column)
                    to = number * 2 * line + start + column
                    _run_copy(work, found + column, QUERIES, rows, to, line, 2, LANES, one)
                clear(work, pairs, start, count, length)
                to, row = ((b * length + start) * heads + head) * width, heads * width
                mix_rows(work, pairs, values, width, start, count, found + QUERIES, 1, spare, out, to, row)
            for end in ((2 * number + 1) * line, (2 * number + 2) * line):
                rows[end - line + length : end] = 0.0
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
        tall, line = up(length, KEY_ROWS), up(length, LANES)
        keys, values = 0, tall * width
        k_sums = 2 * tall * width
        v_sums = k_sums + up(length, MIX_ROWS) * width
        q_rows = v_sums + up(length, MIX_ROWS) * width
        q_columns = q_rows + QUERIES * width
        g_rows = q_columns + QUERIES * width
        g_columns = g_rows + QUERIES * width
        shares = g_columns + QUERIES * width
        pairs = shares + (line + LANES) * QUERIES
        found = pairs + (line + LANES) * QUERIES
        means = found + 2 * QUERIES
        terms = means + QUERIES
        scales = terms + QUERIES * LANES
        ones = scales + LANES
        spare = ones + LANES
        work = aligned_memory(spare + MIX_ROWS * width)
        ahead = np.empty(AHEAD, np.int64)
        one, scale = np.float32(1.0), np.float32(1.0 / math.sqrt(width))
        work[scales:ones], work[ones:spare] = scale, one
        groups = heads // kv_heads
        for number in range(first * groups, last * groups):
            b, head = divmod(number, heads)
            kv_head, begins = head // groups, head % groups == 0
            row, kv_row = heads * width, kv_heads * width
            look_ahead(ahead, length, 2)
            if number + 1 < last * groups:
                b_, head_ = divmod(number + 1, heads)
                also_ahead(ahead, q, _place(steps, 0, b_, 0, head_), steps[1])
                also_ahead(ahead, grad, _place(steps, 3, b_, 0, head_), steps[10])
                also_ahead(ahead, out, b_ * length * row + head_ * width, row)
                if head_ % groups == 0:
                    also_ahead(ahead, k, _place(steps, 1, b_, 0, head_ // groups), steps[4])
                    also_ahead(ahead, v, _place(steps, 2, b_, 0, head_ // groups), steps[7])
            for stop in range(first_stop(length), line + 1, QUERIES):
                start = max(0, stop - QUERIES)
                count = min(stop, length) - start
                if begins:
                    for x, tensor, part in ((k, 1, keys), (v, 2, values)):
                        at, to = _place(steps, tensor, b, start, kv_head), part + start * width
                        _run_copy(x, at, steps[3 * tensor + 1], work, to, width, count, width, one)
                to, kv_to = (b * length + start) * row + head * width, b * length * kv_row + kv_head * width
                _run_copy(q, _place(steps, 0, b, start, head), steps[1], work, q_rows, width, count, width, scale)
                at = _place(steps, 3, b, start, head)
                _run_copy_dots(grad, at, steps[10], out, to, row, work, g_rows, terms, count, width)
                turn_rows(work, q_rows, width, count, q_columns)
                turn_rows(work, g_rows, width, count, g_columns)
                for column in range(0, count, LANES):
                    _run_sum_lanes(work, terms + column * LANES, means + column)
                    at = number * 2 * line + start + column
                    _run_copy(rows, at, line, work, found + column, QUERIES, 2, LANES, one)
                weights(work, ahead, keys, q_columns, width, start, count, shares, found, 0)
                slopes(work, ahead, values, g_columns, width, start, count, pairs, means, shares)
                clear(work, shares, start, count, length)
                clear(work, pairs, start, count, length)
                mix_rows(work, pairs, keys, width, start, count, scales, 0, spare, grad_q, to, row)
                ends = stop >= length and head % groups == groups - 1
                for part, x_rows, sums, x in ((pairs, q_rows, k_sums, grad_k), (shares, g_rows, v_sums, grad_v)):
                    mix_keys(work, part, x_rows, width, start, count, ones, sums, x, kv_to, kv_row, begins, ends)
        return sources

    return compiled(backward)
