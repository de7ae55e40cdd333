"""Symbols of a deflate block for rows of small integers: cells of four bytes whose upper two are zero.

Strings of one phase (place modulo 4) match by whole cells, and `gzip_sweep` finds those for all cells at once: a match
that begins at a cell's first byte is that of its cell; one that begins in its zeros is that of the next cell with
the zeros in front; one that begins at its second byte is that of the next cell among cells of one high byte.

Strings of different phases have only zeros in common, and bytes that stand between zeros. Where no cell has a high byte
they match within runs of zeros alone: inside a run the place before has all of the run in common, which no other of
its kind exceeds, and at its start some string of the same phase is never worse. Elsewhere those places whose first
three bytes can occur in another phase are marked, and searched when the parse gets there.
"""

# mypy: disable-error-code="no-untyped-def,call-arg,var-annotated"
# Types are numba's to infer, and an intrinsic is called without its typing context.

import numba

from generator.gzip_bytes import LANES, alike, common, get, highest_bit, load32, put
from generator.gzip_sweep import LANES as CELL_LANES
from generator.gzip_sweep import NOTHING, SATURATED, longest_matches
from generator.gzip_trees import DISTANCE_CODE, END_OF_BLOCK, LENGTH_CODE, MAX_MATCH

LONGEST_ROW = 4096  # bytes: no chain is longer than what zlib follows, no match too far back, one block
SHORT_CHAIN, GOOD_LENGTH = 1024, 32  # with a match of GOOD_LENGTH in hand no longer chain is followed

# An entry of the table is a match's length, shifted, and its place.
_PLACE = 16
_PHASES_MEET, _UNKNOWN = 1 << 28, 1 << 29
_HIGH_BYTE, _LOW_ALONE, _HIGH_ALONE = 1, 2, 4
_OTHER_PHASES = 0xEEEEEEEE


@numba.njit(nogil=True, inline="never")
def _read_cells(data, cells, s):
    """Spread the cells for the sweep; returns the bits that any high byte, any upper byte has, and how many bytes of
    cells are zero: low ones, high ones."""
    low_high, spread = s.low_high, s.spread
    half = low_high.size >> 1
    any_high = any_upper = no_low = no_high = 0
    for m in range(cells):
        cell = load32(data, 4 * m)
        low, high = cell & 255, (cell >> 8) & 255
        put(low_high, CELL_LANES + m, low)
        put(low_high, half + CELL_LANES + m, high)
        put(spread, CELL_LANES + m, low * 0x01010101)
        put(spread, half + CELL_LANES + m, high * 0x01010101)
        any_high |= high
        any_upper |= cell >> 16
        no_low += low == 0
        no_high += high == 0
    return any_high, any_upper, no_low, no_high


@numba.njit(nogil=True, inline="always")
def _entry(half_cells, at, before, least):
    """The entry of a match of `half_cells`, as the sweep counts, that begins `before` bytes before byte `at`."""
    count = half_cells - NOTHING
    length = 2 * count - (count & 1)
    entry = (length + before) << _PLACE | (at - before)
    return _UNKNOWN if half_cells == SATURATED else entry if length >= least else 0


@numba.njit(nogil=True, inline="never")
def _fill_table(cells, s):
    """Entries of all places by matches of the same phase: phase by phase, `stride` elements each."""
    table = s.table
    stride = table.size >> 2
    put(table, 2 * stride + cells - 1, 0)
    put(table, 3 * stride + cells - 1, 0)
    for m in range(cells):
        length, at = get(s.length, CELL_LANES + m), 4 * get(s.place, CELL_LANES + m)
        put(table, m, _entry(length, at, 0, 3))
        put(table, 2 * stride + m - 1, _entry(length, at, 2, 1))
        put(table, 3 * stride + m - 1, _entry(length, at, 1, 3))
    for m in range(cells):
        length, at = get(s.inner_length, CELL_LANES + m), 4 * get(s.inner_place, CELL_LANES + m)
        entry = _entry(length, at + 4, 3, 0)
        put(table, stride + m, entry if length != 0 else 0)


@numba.njit(nogil=True, inline="never")
def _enter_runs(data, cells, s):
    """Where all high bytes are zero: inside a run of zeros the match with the place before, if it is no shorter."""
    table = s.table
    stride = table.size >> 2
    end = 4 * cells
    for m in range(cells - 1, -1, -1):
        if get(data, 4 * m) != 0:
            end = 4 * m
            continue
        for i in range(max(2, 4 * m - 2), min(4 * m + 2, 4 * cells - 2)):
            run = min(end - i, MAX_MATCH)
            at = (i & 3) * stride + (i >> 2)
            length = get(table, at) >> _PLACE
            if run >= length or run == MAX_MATCH:
                put(table, at, run << _PLACE | (i - 1))


@numba.njit(nogil=True, inline="never")
def _mark_meetings(data, cells, no_low, s):
    """Mark the places whose first three bytes can be those of another phase, by which bytes the row's cells have."""
    table, seen = s.table, s.seen
    stride = table.size >> 2
    for k in range(256):
        put(seen, k, 0)
    for m in range(cells):
        low, high = get(data, 4 * m), get(data, 4 * m + 1)
        put(seen, high, get(seen, high) | _HIGH_BYTE)
        if high == 0:
            put(seen, low, get(seen, low) | _LOW_ALONE)
        if low == 0:
            put(seen, high, get(seen, high) | _HIGH_ALONE)
    for m in range(cells):
        low, high = get(data, 4 * m), get(data, 4 * m + 1)
        of_low, of_high = get(seen, low), get(seen, high)
        # low high 0 meets high 0 0 of another cell, high 0 0 meets low 0 0, 0 0 low and 0 low 0 meet those of 0 high.
        at_cell = low == 0 or (high == 0 and of_low & _HIGH_BYTE != 0)
        inside = of_high & _LOW_ALONE != 0 if high != 0 else no_low != 0
        before = low == 0 or of_low & _HIGH_ALONE != 0
        just_before = low == 0 or (high == 0 and of_low & _HIGH_ALONE != 0)
        put(table, m, get(table, m) | at_cell * _PHASES_MEET)
        put(table, stride + m, get(table, stride + m) | inside * _PHASES_MEET)
        if m > 0:
            put(table, 2 * stride + m - 1, get(table, 2 * stride + m - 1) | before * _PHASES_MEET)
            put(table, 3 * stride + m - 1, get(table, 3 * stride + m - 1) | just_before * _PHASES_MEET)


@numba.njit(nogil=True, inline="never")
def _hash(data, length, hashes):
    """zlib's hash of the string at each place."""
    for k in range(length - 2):
        three = load32(data, k)
        put(hashes, LANES + k, ((three << 10) ^ (three >> 3 & 0x1FE0) ^ (three >> 16 & 0xFF)) & 0x7FFF)


@numba.njit(nogil=True, inline="never")
def _search(data, length, i, known, entry, hashes):
    """The entry of zlib's match at `i`, where the table's says that it is not all."""
    most = min(MAX_MATCH, length - i)
    if entry >= _UNKNOWN or known >= GOOD_LENGTH:
        best, found, lanes, chain = max(known, 2), 0, -1, SHORT_CHAIN if known >= GOOD_LENGTH else LONGEST_ROW
    else:
        entry &= _PHASES_MEET - 1
        best, found, lanes, chain = max(entry >> _PLACE, 2), entry & ((1 << _PLACE) - 1), _OTHER_PHASES, LONGEST_ROW
    ours = get(hashes, LANES + i)
    for start in range(i - LANES, -LANES + 1, -LANES):
        some = alike(hashes, LANES + start, ours) & lanes
        if start < 1:
            some &= -1 << (1 - start)
        while some != 0:
            bit = highest_bit(some)
            some ^= 1 << bit
            at = start + bit
            k = common(data, at, i, most)
            if k > best or (k == best and at > found and k >= 3):
                best, found = k, at
                if k >= most:
                    return k << _PLACE | at
            chain -= 1
            if chain == 0:
                return best << _PLACE | found if found else 0
    return best << _PLACE | found if found else 0


@numba.njit(nogil=True, inline="never")
def _parse(data, length, s):
    """Count the symbols of the row, by the table."""
    literal, distance, table, hashes = s.literal, s.distance, s.table, s.hashes
    stride = table.size >> 2
    i = known_place = 0
    known, waiting, hashed = 2, 0, False
    while i < length:
        entry = get(table, (i & 3) * stride + (i >> 2))
        if entry >= _PHASES_MEET or (known >= GOOD_LENGTH and i > SHORT_CHAIN):
            if not hashed:
                _hash(data, length, hashes)
                hashed = True
            entry = _search(data, length, i, known, entry, hashes) if i < length - 2 else 0
        match = entry >> _PLACE
        if known >= 3 and match <= known:
            at = END_OF_BLOCK + 1 + get(LENGTH_CODE, known)
            put(literal, at, get(literal, at) + 1)
            at = get(DISTANCE_CODE, i - 1 - known_place)
            put(distance, at, get(distance, at) + 1)
            i += known - 1
            known, waiting = 2, 0
        else:
            if i > 0:
                at = get(data, i - 1)
                put(literal, at, get(literal, at) + waiting)
            known, known_place = max(match, 2), entry & ((1 << _PLACE) - 1)
            waiting = 1
            i += 1
    if waiting:
        at = get(data, length - 1)
        put(literal, at, get(literal, at) + 1)


@numba.njit(nogil=True, inline="never")
def count_symbols(data, length, s):
    """Count the symbols of a row's only block, or return False if the row is none of small integers."""
    if length & 3 != 0 or length == 0 or length > LONGEST_ROW:
        return False
    cells = length >> 2
    any_high, any_upper, no_low, no_high = _read_cells(data, cells, s)
    if any_upper != 0:
        return False
    longest_matches(cells, s)
    _fill_table(cells, s)
    if any_high == 0:
        if no_low != 0:
            _enter_runs(data, cells, s)
    elif no_low != 0 or no_high != 0:
        _mark_meetings(data, cells, no_low, s)
    _parse(data, length, s)
    return True
