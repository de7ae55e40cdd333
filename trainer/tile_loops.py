"""How attention in tiles goes from tile to tile: which are needed, and what memory is asked for meanwhile.

Numbers of a head lie far from those of its next position, so that a processor does not foresee what is read next. What
the next head is computed from is asked for a few rows with each tile: asked for at once it holds up all that computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from trainer import tile_products, tiles
from trainer.tile_products import SCORES, SLOPES, WEIGHTS
from trainer.tiles import KEY_ROWS, MIX_COLUMNS, MIX_ROWS, QUERIES
from trainer.vectors import LANES

# Their first argument, the compiler's, is given by numba.
_run_clear: Any = tiles.clear
_run_copy: Any = tiles.copy_rows
_run_fetch: Any = tiles.fetch
_run_turn: Any = tiles.turn
_run_pairs: Any = tile_products.pairs
_run_mix: Any = tile_products.mix
_run_add_mix: Any = tile_products.add_mix

_FEWEST = 4
"""Rows that are asked for at once, at least: fewer are not worth the tile's wait."""

# What is asked for early: in how many tiles, and each how many tiles; the next row, how many at a time, how many there
# are, of how many tensors; of each of these the address and the bytes from row to row.
_WAIT, _EVERY, _NEXT, _EACH, _ROWS, _TENSORS, _FIRST = range(7)
AHEAD = _FIRST + 2 * 5


@numba.njit(nogil=True)
def up(count: int, unit: int) -> int:
    """The next multiple of ``unit``."""
    return -(-count // unit) * unit


@numba.njit(nogil=True)
def first_stop(length: int) -> int:
    """How many queries come first, so that all that come after are QUERIES.

    Of positions the last are seen by the fewest queries and see the most keys: theirs are the tiles to be full.
    """
    return (up(length, LANES) - 1) % QUERIES + 1


@numba.njit(nogil=True)
def look_ahead(ahead: np.ndarray, length: int, passes: int) -> None:
    """Be ready to ask for ``length`` rows of each tensor, over the tiles of ``passes`` times all keys and queries."""
    count = 0
    for stop in range(first_stop(length), up(length, LANES) + 1, QUERIES):
        count += passes * (up(min(stop, length), KEY_ROWS) // KEY_ROWS)
    every = max(1, _FEWEST * count // length)
    ahead[_WAIT], ahead[_EVERY] = 1, every
    ahead[_NEXT], ahead[_EACH], ahead[_ROWS], ahead[_TENSORS] = 0, -(-length * every // count), length, 0


@numba.njit(nogil=True)
def also_ahead(ahead: np.ndarray, x: np.ndarray, at: int, step: int) -> None:
    place = _FIRST + 2 * ahead[_TENSORS]
    ahead[place], ahead[place + 1] = x.ctypes.data + 4 * at, 4 * step
    ahead[_TENSORS] += 1


@numba.njit(nogil=True)
def _fetch_ahead(ahead: np.ndarray, vectors: int) -> None:
    ahead[_WAIT] -= 1
    if ahead[_WAIT]:
        return
    ahead[_WAIT] = ahead[_EVERY]
    begin = ahead[_NEXT]
    end = min(begin + ahead[_EACH], ahead[_ROWS])
    ahead[_NEXT] = end
    for row in range(begin, end):
        for number in range(ahead[_TENSORS]):
            place = _FIRST + 2 * number
            _run_fetch(ahead[place] + row * ahead[place + 1], vectors, False)


@numba.njit(nogil=True)
def _fetch_out(out: np.ndarray, to: int, row: int, count: int, vectors: int) -> None:
    """Ask for rows that will be written."""
    address = out.ctypes.data + 4 * to
    for number in range(count):
        _run_fetch(address + 4 * number * row, vectors, True)


@numba.njit(nogil=True)
def turn_rows(work: np.ndarray, at: int, width: int, count: int, to: int) -> None:
    """``count`` rows as columns: rows that are QUERIES apart."""
    for t in range(0, count, LANES):
        for e in range(0, width, LANES):
            _run_turn(work, at + t * width + e, width, to + e * QUERIES + t)


def _make_pairs(stage: int) -> Callable[..., None]:
    """``pairs(work, ahead, keys, queries, width, start, count, out, found, weights)``.

    Keys times ``count`` queries from ``start`` on, in tiles without the vectors of queries that see no key of theirs.
    """

    @numba.njit(nogil=True)
    def pairs(
        work: np.ndarray,
        ahead: np.ndarray,
        keys: int,
        queries: int,
        width: int,
        start: int,
        count: int,
        out: int,
        found: int,
        weights: int,
    ) -> None:
        for key in range(0, start + count, KEY_ROWS):
            _fetch_ahead(ahead, width // LANES)
            hidden = max(key - start, -KEY_ROWS)
            left_out = max(hidden, 0) // LANES * LANES
            hidden -= left_out
            a, b, c = keys + key * width, queries + left_out, out + key * QUERIES + left_out
            x, w = found + left_out, weights + key * QUERIES + left_out
            vectors = up(count - left_out, LANES) // LANES
            if vectors == 3:
                _run_pairs(work, a, width, b, c, hidden, x, w, 3, stage)
            elif vectors == 2:
                _run_pairs(work, a, width, b, c, hidden, x, w, 2, stage)
            else:
                _run_pairs(work, a, width, b, c, hidden, x, w, 1, stage)

    return pairs


scores, weights, slopes = (_make_pairs(stage) for stage in (SCORES, WEIGHTS, SLOPES))


@numba.njit(nogil=True)
def clear(work: np.ndarray, scores: int, start: int, count: int, length: int) -> None:
    """Zeros where MIX_ROWS queries or keys reach past the end of a vector, or of all queries: no tile wrote there."""
    for columns in range(LANES, count, LANES):
        _run_clear(work, scores + (start + columns) * QUERIES + columns - LANES)
    if start + count < length and (start + count) % MIX_ROWS:
        for columns in range(0, count, LANES):
            _run_clear(work, scores + (start + count) * QUERIES + columns)


@numba.njit(nogil=True)
def _mix(
    work: np.ndarray,
    a: int,
    a_row: int,
    a_step: int,
    b: int,
    width: int,
    count: int,
    factors: int,
    out: np.ndarray,
    to: int,
    row: int,
) -> None:
    for e in range(0, width, MIX_COLUMNS):
        vectors = (width - e) // LANES
        if vectors >= 4:
            _run_mix(work, a, a_row, a_step, b + e, width, count, factors, out, to + e, row, 4)
        elif vectors == 3:
            _run_mix(work, a, a_row, a_step, b + e, width, count, factors, out, to + e, row, 3)
        elif vectors == 2:
            _run_mix(work, a, a_row, a_step, b + e, width, count, factors, out, to + e, row, 2)
        else:
            _run_mix(work, a, a_row, a_step, b + e, width, count, factors, out, to + e, row, 1)


@numba.njit(nogil=True)
def _add_mix(
    work: np.ndarray, a: int, b: int, width: int, count: int, before: int, out: np.ndarray, to: int, row: int
) -> None:
    for e in range(0, width, MIX_COLUMNS):
        vectors = (width - e) // LANES
        if vectors >= 4:
            _run_add_mix(work, a, QUERIES, 1, b + e, width, count, before + e, out, to + e, row, 4)
        elif vectors == 3:
            _run_add_mix(work, a, QUERIES, 1, b + e, width, count, before + e, out, to + e, row, 3)
        elif vectors == 2:
            _run_add_mix(work, a, QUERIES, 1, b + e, width, count, before + e, out, to + e, row, 2)
        else:
            _run_add_mix(work, a, QUERIES, 1, b + e, width, count, before + e, out, to + e, row, 1)


@numba.njit(nogil=True)
def mix_rows(
    work: np.ndarray,
    scores: int,
    values: int,
    width: int,
    start: int,
    count: int,
    factors: int,
    factor_step: int,
    spare: int,
    out: np.ndarray,
    to: int,
    row: int,
) -> None:
    """For each of ``count`` queries from ``start`` on a sum of the keys' values, times a factor."""
    for query in range(0, count, MIX_ROWS):
        left = count - query
        seen, factor, here = start + min(query + MIX_ROWS, count), factors + query * factor_step, to + query * row
        _fetch_out(out, here + MIX_ROWS * row, row, min(MIX_ROWS, left - MIX_ROWS), width // LANES)
        if left >= MIX_ROWS:
            _mix(work, scores + query, 1, QUERIES, values, width, seen, factor, out, here, row)
        else:
            _mix(work, scores + query, 1, QUERIES, values, width, seen, factor, work, spare, width)
            _run_copy(work, spare, width, out, here, row, left, width, np.float32(1.0))


@numba.njit(nogil=True)
def mix_keys(
    work: np.ndarray,
    weights: int,
    queries: int,
    width: int,
    start: int,
    count: int,
    ones: int,
    sums: int,
    out: np.ndarray,
    to: int,
    row: int,
    begins: bool,
    ends: bool,
) -> None:
    """For each key that they see a sum of ``count`` queries' rows, from ``start`` on, added to what is in ``sums``.

    With the first head of queries, which begins, no key from ``start`` on has sums yet; what ends goes to out instead.
    """
    end = start + count
    for key in range(0, end, MIX_ROWS):
        before = max(0, key - start)
        a, b, left = weights + key * QUERIES + before, queries + before * width, count - before
        here, there = sums + key * width, to + key * row
        is_new = begins and key >= start
        if ends:
            _fetch_out(out, there + MIX_ROWS * row, row, min(MIX_ROWS, end - key - MIX_ROWS), width // LANES)
        if ends and key + MIX_ROWS <= end:
            if is_new:
                _mix(work, a, QUERIES, 1, b, width, left, ones, out, there, row)
            else:
                _add_mix(work, a, b, width, left, here, out, there, row)
        else:
            if is_new:
                _mix(work, a, QUERIES, 1, b, width, left, ones, work, here, width)
            else:
                _add_mix(work, a, b, width, left, here, work, here, width)
            if ends:
                _run_copy(work, here, width, out, there, row, end - key, width, np.float32(1.0))
