"""The size of a gzip stream at level 9 without the stream: what madler's zlib would write, counted by a numba kernel.

The rules are those of its `deflate` (RFC 1951; memory level 8, 32 KiB window) at every point where another choice would
give another size: which strings count as matches, when a better one at the next byte is waited for, where a block ends,
how a Huffman tree breaks ties, which of a block's three forms is the shortest.

It is faster because the search is another one with the same answer. zlib walks the chain of all strings whose first
three bytes hash alike, most recent first, and keeps the first that is longest. Where no longer chain than it follows is
met, that is the most recent of the longest strings: found among those that share four bytes, and only if there is none,
among those that share three. Both chains hang on the bytes alone, so they are linked before anything is parsed. Rows of
small integers, which is what the generator scores, need no chains: `gzip_cells` knows their matches beforehand.
"""

# mypy: disable-error-code="no-untyped-def,call-arg,var-annotated"
# Types are numba's to infer, and an intrinsic is called without its typing context.

from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np

from generator import gzip_bytes, gzip_cells, gzip_sweep, gzip_trees, vector_code
from generator.gzip_bytes import HASHES, LANES, common, get, hash_of, load32, load64, put, trailing_zeros
from generator.gzip_cells import LONGEST_ROW, count_symbols
from generator.gzip_trees import (
    CODES,
    DISTANCE_CODE,
    DISTANCES,
    END_OF_BLOCK,
    GOOD_LENGTH,
    LENGTH_CODE,
    LITERALS,
    LONGEST_CHAIN,
    MAX_MATCH,
    TOO_FAR,
    TREE_SIZE,
    WINDOW,
    end_block,
)
from generator.machine_code import checksum, compiled, is_kept

MIN_LOOKAHEAD = 262
MAX_DISTANCE = WINDOW - MIN_LOOKAHEAD
BLOCK_SYMBOLS = (1 << 14) - 1
CONTAINER_BYTES = 18
PADDING = 512  # bytes behind the data that a comparison may read
QUAD_BITS = 13


class Scratch(NamedTuple):
    """Working memory of one running kernel. `head3`, `head4`: the last place of each hash; `prev3`, `prev4`: for each
    place, the one before of the same hash (0: none); `depth`: how many there are before it on `prev3`. Those from
    `low_high` on are for rows of cells: what `gzip_sweep` reads and finds, the entries of all matches, which bytes the
    cells have, and the hashes of all places."""

    data: np.ndarray
    head3: np.ndarray
    head4: np.ndarray
    prev3: np.ndarray
    prev4: np.ndarray
    depth: np.ndarray
    literal: np.ndarray
    distance: np.ndarray
    codes: np.ndarray
    literal_length: np.ndarray
    distance_length: np.ndarray
    code_length: np.ndarray
    heap: np.ndarray
    order: np.ndarray
    per_length: np.ndarray
    low_high: np.ndarray
    spread: np.ndarray
    edges: np.ndarray
    state: np.ndarray
    numbers: np.ndarray
    length: np.ndarray
    place: np.ndarray
    inner_length: np.ndarray
    inner_place: np.ndarray
    table: np.ndarray
    seen: np.ndarray
    hashes: np.ndarray


def allocate(length: int) -> Scratch:
    """Zeroed arrays for rows of `length` bytes; threads need one each."""
    places = [np.zeros(length + 1, np.int32) for _ in range(3)]
    counts = [np.zeros(size, np.int32) for size in (LITERALS, DISTANCES, CODES)]
    lengths = [np.zeros(TREE_SIZE, np.int32) for _ in range(3)]
    trees = [np.zeros(size, np.int32) for size in (TREE_SIZE, TREE_SIZE, 16)]
    heads = [np.zeros(size, np.int32) for size in (HASHES, 1 << QUAD_BITS)]
    cells = min(length, LONGEST_ROW) // 4 + 2 * gzip_sweep.LANES
    sweep = [
        np.zeros(2 * cells, np.uint8),
        np.zeros(2 * cells, np.uint32),
        np.zeros(2 * cells, np.uint32),
        np.zeros(gzip_sweep.STATE, np.uint8),
        np.arange(gzip_sweep.PLACES, dtype=np.uint32) * np.uint32(0x01010101),
        *(np.zeros(cells, kind) for kind in (np.uint8, np.int32, np.uint8, np.int32)),
        np.zeros(4 * cells, np.int32),
        np.zeros(gzip_cells.SEEN, np.uint8),
        np.zeros(4 * cells + LANES, np.uint16),
    ]
    return Scratch(np.zeros(length + PADDING, np.uint8), *heads, *places, *counts, *lengths, *trees, *sweep)


@numba.njit(nogil=True, inline="never")
def _link(data, length, offset, s):
    """Chain all places of a row. Heads hold places plus `offset`, which grows from row to row: older ones are none."""
    head3, head4, prev3, prev4, depth = s.head3, s.head4, s.prev3, s.prev4, s.depth
    for i in range(length - 2):
        x = load32(data, i)
        at = hash_of(x)
        before = max(0, get(head3, at) - offset)
        put(prev3, i, before)
        put(head3, at, i + offset)
        put(depth, i, get(depth, before) + 1)  # a start of a chain counts as one or two, which only errs upward
        at = ((x * 2654435761) >> (32 - QUAD_BITS)) & ((1 << QUAD_BITS) - 1)
        before = max(0, get(head4, at) - offset)
        put(prev4, i, before)
        put(head4, at, i + offset)


@numba.njit(nogil=True, inline="never")
def _follow(data, prev3, i, best, most, farthest, chain):
    """(length, place) by zlib's own walk, at most `chain` strings long."""
    found, at = 0, get(prev3, i)
    while True:
        k = common(data, at, i, most)
        if k > best:
            found, best = at, k
            if best >= most:
                break
        at = get(prev3, at)
        chain -= 1
        if at <= farthest or chain == 0:
            break
    return best, found


@numba.njit(nogil=True, inline="always")
def _longest(data, i, known, most, prev3, prev4, depth):
    """(length, place) of the match that zlib would take at `i`; `known` and any place where none is longer."""
    head = get(prev3, i)
    if head == 0 or i - head > MAX_DISTANCE:
        return known, 0
    farthest = max(i - MAX_DISTANCE, 0)
    chain = LONGEST_CHAIN >> 2 if known >= GOOD_LENGTH else LONGEST_CHAIN
    if get(depth, i) > chain:
        return _follow(data, prev3, i, known, most, farthest, chain)
    # The most recent string may lie as far back as the window allows, the ones behind it one byte less.
    farthest -= head == farthest
    best, found = max(known, 3), 0
    ours = load64(data, i)
    at = get(prev4, i)
    while at > farthest:
        unlike = load64(data, at) ^ ours
        k = 0
        if unlike == 0:
            if best < 8 or load64(data, at + best - 7) == load64(data, i + best - 7):
                k = common(data, at, i, most)
        elif best < 8:
            k = min(trailing_zeros(unlike) >> 3, most)
        if k > best:
            found, best = at, k
            if best >= most:
                break
        at = get(prev4, at)
    if found:
        return best, found
    if known < 3:
        at = head
        while at > farthest:
            if ((load32(data, at) ^ ours) & 0xFFFFFF) == 0:
                return 3, at
            at = get(prev3, at)
    return known, 0


@numba.njit(nogil=True, inline="never")
def _stream_bytes(data, length, offset, s):
    """Bytes of the gzip stream of data[:length]."""
    if count_symbols(data, length, s):
        return CONTAINER_BYTES + ((end_block(0, length, True, s) + 7) >> 3)
    _link(data, length, offset, s)
    literal, distance, prev3, prev4, depth = s.literal, s.distance, s.prev3, s.prev4, s.depth
    bits = block_start = base = symbols = i = 0
    filled = min(length, 2 * WINDOW)
    match, place, waiting = 2, 0, False
    while True:
        # zlib's buffer is two windows; when the second is nearly read, the first is dropped, and with it the chance to
        # store a block that began there.
        if filled - i < MIN_LOOKAHEAD:
            if i - base >= WINDOW + MAX_DISTANCE:
                base += WINDOW
            filled = min(length, base + 2 * WINDOW)
            if i == length:
                break
        known, known_place = match, place
        match = 2
        most = min(MAX_MATCH, length - i)
        if known < most and most >= 3:
            match, place = _longest(data, i, known, most, prev3, prev4, depth)
            if match == 3 and i - place > TOO_FAR:
                match = 2
        if known >= 3 and match <= known:
            at = END_OF_BLOCK + 1 + get(LENGTH_CODE, known)
            put(literal, at, get(literal, at) + 1)
            at = get(DISTANCE_CODE, i - 1 - known_place)
            put(distance, at, get(distance, at) + 1)
            i += known - 1
            match, waiting = 2, False
            symbols += 1
            if symbols == BLOCK_SYMBOLS:
                bits = end_block(bits, i - block_start, block_start >= base, s)
                block_start, symbols = i, 0
        else:
            if waiting:
                at = get(data, i - 1)
                put(literal, at, get(literal, at) + 1)
                symbols += 1
                if symbols == BLOCK_SYMBOLS:
                    bits = end_block(bits, i - block_start, block_start >= base, s)
                    block_start, symbols = i, 0
            waiting = True
            i += 1
    if waiting:
        literal[data[length - 1]] += 1
    bits = end_block(bits, length - block_start, block_start >= base, s)
    return CONTAINER_BYTES + ((bits + 7) >> 3)


def _build() -> Callable[..., int]:
    sources = checksum(vector_code, gzip_bytes, gzip_trees, gzip_sweep, gzip_cells)

    def sizes(rows_NB, sizes_N, s):
        """Write the size of each row's stream: rows uint8 [N, B], sizes int64 [N]."""
        data, length = s.data, rows_NB.shape[1]
        offset = (1 << 31) - 1
        for n in range(rows_NB.shape[0]):
            if offset + length >= (1 << 31) - 1:
                offset = 1
                s.head3[:] = 0
                s.head4[:] = 0
            for k in range(length):
                data[k] = rows_NB[n, k]
            sizes_N[n] = _stream_bytes(data, length, offset, s)
            offset += length + 1
        return sources

    return compiled(sizes, boundscheck=False)


_run = _build()


def loads_at_once() -> bool:
    """Whether the kernel's machine code is kept on this machine's disk, so that no call has to wait for it."""
    return is_kept(_run, np.zeros((1, 1), np.uint8), np.zeros(1, np.int64), allocate(1))


def stream_sizes(rows_NB: np.ndarray) -> np.ndarray:
    """Bytes of gzip level 9 of each row, uint8 [N, B]; int64 [N]. B < 2**30. The GIL is free meanwhile."""
    sizes_N = np.empty(len(rows_NB), np.int64)
    _run(np.ascontiguousarray(rows_NB), sizes_N, allocate(rows_NB.shape[1]))
    return sizes_N
