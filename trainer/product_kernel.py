"""Products of matrices in float32, by tiles of sums in registers (``trainer.product_tiles``).

The second factor is copied into panels of PANEL columns that the second cache holds; the first is read where it lies.
Goto and van de Geijn 2008 (doi 10.1145/1356052.1356053) say what should be in which cache. A sum is made in one order
wherever it lies: of up to DEPTH products at a time, then of these sums.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types

from generator import vector_code
from generator.machine_code import checksum, compiled_for_c
from trainer import aligned_memory as memory
from trainer import product_tiles, vectors
from trainer.aligned_memory import aligned_memory
from trainer.product_tiles import AHEAD, PANEL, TILE_ROWS
from trainer.vectors import LANES

DEPTH = 512
"""The most products that are summed before the sum is put into memory."""

PACKED = 2**16
"""Numbers of the second factor that are held in panels: a quarter of a second cache of 1 MiB."""

BLOCK = 16 * TILE_ROWS
"""Rows of the first factor that meet all panels before the next rows are read."""

GIVEN = 14
"""How many numbers the kernel is given."""

_SOURCES = checksum(vector_code, vectors, product_tiles, memory)

# Their first argument, the compiler's, is given by numba.
_run_sums: Any = product_tiles.sums
_run_copy: Any = product_tiles.copy_to_panel
_run_turn: Any = product_tiles.turn_to_panel
_run_pointer: Any = product_tiles.pointer_to
_run_count: Any = product_tiles.count_on


@numba.njit(nogil=True)
def _pack(b: np.ndarray, at: int, step: int, column: int, count: int, width: int, panel: np.ndarray, to: int) -> None:
    """``count`` rows of ``width`` columns to a panel; columns up to the next whole vector are zeros there.

    b[k, n] is ``b[at + k · step + n · column]``, and one of the two steps is 1.
    """
    whole = width - width % LANES
    full = 0
    if column == 1:
        full = count
        if width == PANEL:
            _run_copy(b, at, step, panel, to, count, 4)
        else:
            for n in range(0, whole, LANES):
                _run_copy(b, at + n, step, panel, to + n, count, 1)
    else:
        full = count - count % LANES
        for n in range(0, whole, LANES):
            for k in range(0, full, LANES):
                _run_turn(b, at + n * column + k, column, panel, to + k * PANEL + n)
    for n in range(width):
        for k in range(full if n < whole else 0, count):
            panel[to + k * PANEL + n] = b[at + k * step + n * column]
    for n in range(width, -(-width // LANES) * LANES):
        for k in range(count):
            panel[to + k * PANEL + n] = 0.0


@numba.njit(nogil=True)
def _sums(
    a: np.ndarray,
    a_at: int,
    a_row: int,
    a_step: int,
    panel: np.ndarray,
    at: int,
    c: np.ndarray,
    c_at: int,
    c_row: int,
    count: int,
    beyond: int,
    vectors: int,
    adds: bool,
) -> None:
    """``sums``, whose number of vectors is found as it runs."""
    if vectors == 4:
        _run_sums(a, a_at, a_row, a_step, panel, at, c, c_at, c_row, count, beyond, 4, adds)
    elif vectors == 3:
        _run_sums(a, a_at, a_row, a_step, panel, at, c, c_at, c_row, count, beyond, 3, adds)
    elif vectors == 2:
        _run_sums(a, a_at, a_row, a_step, panel, at, c, c_at, c_row, count, beyond, 2, adds)
    else:
        _run_sums(a, a_at, a_row, a_step, panel, at, c, c_at, c_row, count, beyond, 1, adds)


@numba.njit(nogil=True)
def _put(edge: np.ndarray, at: int, width: int, c: np.ndarray, c_at: int, adds: bool) -> None:
    """``width`` sums to where they belong, added to what is there if ``adds``."""
    for n in range(width):
        c[c_at + n] = c[c_at + n] + edge[at + n] if adds else edge[at + n]


@numba.njit(nogil=True)
def _multiply(
    a: np.ndarray,
    a_row: int,
    a_step: int,
    b: np.ndarray,
    b_step: int,
    b_column: int,
    c: np.ndarray,
    rows: int,
    columns: int,
    inner: int,
    first: int,
    last: int,
) -> None:
    """c[m, n] = Σ over k < inner of a[m, k] · b[k, n], for rows ``first`` · TILE_ROWS … ``last`` · TILE_ROWS - 1 of c.

    c has at least TILE_ROWS rows, one after another. All arrays are flat; a[m, k] is ``a[m · a_row + k · a_step]``,
    b[k, n] is ``b[k · b_step + n · b_column]``, one of whose steps is 1.
    """
    pieces = -(-inner // DEPTH)
    depth = -(-inner // (pieces * LANES)) * LANES
    group = min(-(-columns // PANEL), max(1, PACKED // (depth * PANEL))) * PANEL
    panels, edge = aligned_memory(group * depth), aligned_memory(TILE_ROWS * PANEL)
    end = min(rows, last * TILE_ROWS)
    # The rows of the next tile, or of this one, whichever lie one after another.
    beyond = TILE_ROWS * a_row if a_step == 1 else AHEAD * a_step
    for k in range(0, inner, depth):
        count = min(depth, inner - k)
        for left in range(0, columns, group):
            right = min(columns, left + group)
            for n in range(left, right, PANEL):
                at, width = k * b_step + n * b_column, min(PANEL, right - n)
                _pack(b, at, b_step, b_column, count, width, panels, (n - left) * depth)
            for top in range(first * TILE_ROWS, end, BLOCK):
                for n in range(left, right, PANEL):
                    at, width = (n - left) * depth, min(PANEL, right - n)
                    for m in range(top, min(top + BLOCK, end), TILE_ROWS):
                        a_at, c_at = m * a_row + k * a_step, m * columns + n
                        whole = m + TILE_ROWS <= end and width % LANES == 0
                        if whole and width == PANEL:  # written out: a call would cost a hundredth of it
                            _run_sums(a, a_at, a_row, a_step, panels, at, c, c_at, columns, count, beyond, 4, k > 0)
                            continue
                        vectors = -(-width // LANES)
                        if whole:
                            _sums(a, a_at, a_row, a_step, panels, at, c, c_at, columns, count, beyond, vectors, k > 0)
                            continue
                        back = max(0, m + TILE_ROWS - rows)  # so many rows before these: to read none beyond a
                        a_at -= back * a_row
                        _sums(a, a_at, a_row, a_step, panels, at, edge, 0, PANEL, count, beyond, vectors, False)
                        for row in range(min(TILE_ROWS, end - m)):
                            _put(edge, (row + back) * PANEL, width, c, c_at + row * columns, k > 0)


def make_multiply() -> Any:
    """``multiply(given)`` for C, which any number of threads may call with the same ``given``, GIVEN numbers of int64.

    They are how many shares of the rows are taken and how many done, at first none, and how many there are; then where
    a, b and c begin; then rows, columns, inner, a_row, a_step, b_step and b_column as in ``_multiply``. The last is for
    a checksum of the sources that the kernel is compiled from.
    """
    sources = _SOURCES

    def multiply(given: Any) -> None:
        numbers = numba.carray(given, GIVEN)
        shares, a, b, c, rows, columns, inner, a_row, a_step, b_step, b_column = (
            numbers[2],
            numba.carray(_run_pointer(numbers[3]), 1),
            numba.carray(_run_pointer(numbers[4]), 1),
            numba.carray(_run_pointer(numbers[5]), 1),
            numbers[6],
            numbers[7],
            numbers[8],
            numbers[9],
            numbers[10],
            numbers[11],
            numbers[12],
        )
        tiles = -(-rows // TILE_ROWS)
        while True:
            share = _run_count(numbers, 0)
            if share >= shares:
                break
            first, last = share * tiles // shares, (share + 1) * tiles // shares
            _multiply(a, a_row, a_step, b, b_step, b_column, c, rows, columns, inner, first, last)
            _run_count(numbers, 1)
        numbers[13] = sources

    return compiled_for_c(multiply, types.void(types.CPointer(types.int64)))
