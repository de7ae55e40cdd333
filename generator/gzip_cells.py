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

from generator.gzip_bytes import LANES, alike, bits, common, get, hash_of, highest_bit, load32, put
from generator.gzip_sweep import LANES as CELL_LANES
from generator.gzip_sweep import NOTHING, SATURATED, longest_matches
from generator.gzip_trees import (
    DISTANCE_CODE,
    END_OF_BLOCK,
    GOOD_LENGTH,
    LENGTH_CODE,
    LONGEST_CHAIN,
    MAX_MATCH,
    TOO_FAR,
)

LONGEST_ROW = 8192  # bytes: one block, and only a hash of most strings can have a chain longer than zlib follows

_SHORT_CHAIN = LONGEST_CHAIN >> 2

# An entry of the table is a match's length, shifted, and its place.
_PLACE, _PLACES = 16, (1 << 16) - 1
_PHASES_MEET, _BEYOND_ZEROS, _UNKNOWN = 1 << 28, 1 << 29, 1 << 30
_LOW_BYTE, _HIGH_BYTE, _LOW_ALONE, _HIGH_ALONE, _NOT_ALONE = range(0, 1280, 256)
SEEN = 1025
_OTHER_PHASES = -0x1111111111111112


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
    return (entry & -1 << _PLACE) | _UNKNOWN if half_cells == SATURATED else entry if length >= least else 0


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
def _see(data, cells, seen):
    """Note for each byte in which cells it is; returns whether any cell is a high byte alone."""
    for k in range(SEEN):
        put(seen, k, 0)
    alone = 0
    for m in range(cells):
        low, high = get(data, 4 * m), get(data, 4 * m + 1)
        put(seen, _LOW_BYTE + low, 1)
        put(seen, _HIGH_BYTE + high, 1)
        put(seen, _LOW_ALONE + low if high == 0 else _NOT_ALONE, 1)
        put(seen, _HIGH_ALONE + high if low == 0 else _NOT_ALONE, 1)
        alone |= (low == 0) & (high != 0)
    return alone


@numba.njit(nogil=True, inline="always")
def _inside(table, stride, i, end, meets):
    """Enter what lies at `i` behind a zero, in zeros that end at `end`, if other phases can have its end's byte."""
    at = (i & 3) * stride + (i >> 2)
    entry, run = get(table, at), min(end - i, MAX_MATCH)
    if meets:
        put(table, at, entry | _PHASES_MEET | _BEYOND_ZEROS)
    elif run >= 3 and i >= 2 and (run >= entry >> _PLACE or run == MAX_MATCH):
        put(table, at, run << _PLACE | (i - 1))


@numba.njit(nogil=True, inline="always")
def _mark(table, at, longest, meets):
    """Mark an entry that is no longer than the longest match of another phase, which goes on behind the zeros only if
    other phases can have the byte that ends them."""
    entry = get(table, at)
    if meets or entry >> _PLACE <= longest:
        put(table, at, entry | (_PHASES_MEET | _BEYOND_ZEROS if meets else _PHASES_MEET))


@numba.njit(nogil=True, inline="never")
def _enter_meetings(data, cells, any_high, s):
    """Enter the matches of different phases where they follow from the runs of zeros, and mark where they may not."""
    table, seen = s.table, s.seen
    stride = table.size >> 2
    alone = _see(data, cells, seen)
    end, meets = 4 * cells, False
    for m in range(cells - 1, -1, -1):
        low, high = get(data, 4 * m), get(data, 4 * m + 1)
        like_low_alone = get(seen, _LOW_ALONE + high)
        zeros = end - 4 * m - 4
        if low == 0 or high == 0 or zeros != 0 or meets or like_low_alone:
            _inside(table, stride, 4 * m + 3, end, meets)
            if high == 0:
                _inside(table, stride, 4 * m + 2, end, meets)
                if low == 0:
                    _inside(table, stride, 4 * m + 1, end, meets)
                    _inside(table, stride, 4 * m, end, meets)
                else:
                    if alone or (any_high != 0 and zeros != 0):
                        _mark(table, stride + m, zeros + 2 + alone, meets)
                    if get(seen, _HIGH_BYTE + low):
                        _mark(table, m, zeros + 4, meets)
            else:
                if meets or zeros != 0:
                    _mark(table, 2 * stride + m, zeros + 1 + alone, meets)
                if like_low_alone:
                    _mark(table, stride + m, zeros + 3, meets)
                if low == 0:
                    _inside(table, stride, 4 * m, 4 * m + 1, get(seen, _LOW_BYTE + high) != 0)
        if low != 0:
            end, meets = 4 * m, get(seen, _HIGH_ALONE + low) != 0
        elif high != 0:
            end, meets = 4 * m + 1, get(seen, _LOW_BYTE + high) != 0


@numba.njit(nogil=True, inline="never")
def _hash(data, length, hashes):
    """zlib's hash of the string at each place."""
    for k in range(length - 2):
        put(hashes, LANES + k, hash_of(load32(data, k)))


@numba.njit(nogil=True, inline="never")
def _crowded(strings, hashes):
    """Whether more than LONGEST_CHAIN of so many strings, at most twice as many, have one hash: by a vote."""
    most = votes = 0
    for k in range(LANES, LANES + strings):
        ours = get(hashes, k)
        most = ours if votes == 0 else most
        votes += 1 if ours == most else -1
    count = 0
    for k in range(LANES, LANES + strings):
        count += get(hashes, k) == most
    return count > LONGEST_CHAIN


@numba.njit(nogil=True, inline="never")
def _search(data, length, i, known, entry, hashes):
    """The entry of the match that zlib finds at `i`, where the one of the same phase, `entry`, may not be it."""
    most = bound = min(MAX_MATCH, length - i)
    lanes, chain = -1, LONGEST_CHAIN
    if known >= GOOD_LENGTH and i > _SHORT_CHAIN:
        best, found, chain = known, 0, _SHORT_CHAIN
    else:
        best, found = max(entry >> _PLACE & 0x1FF, 2), entry & _PLACES
        if entry < _UNKNOWN:
            lanes = _OTHER_PHASES
        if entry < _BEYOND_ZEROS:
            bound = 1
            while bound < most and get(data, i + bound) == 0:
                bound += 1
    ours, least = get(hashes, LANES + i), max(best + (chain == _SHORT_CHAIN), 3)
    for start in range(i - LANES, -LANES + 1, -LANES):
        if start + LANES <= found:
            if best >= bound:
                break
            least = best + 1
        some = alike(hashes, LANES + start, ours) & lanes
        if start < 1:
            some &= -1 << (1 - start)
        strings = bits(some)
        while strings > chain:
            some &= some - 1
            strings -= 1
        chain -= strings
        # What is no shorter than `least` shares the last three bytes of that, too.
        some &= alike(hashes, LANES + start + least - 3, get(hashes, LANES + i + least - 3))
        while some != 0:
            bit = highest_bit(some)
            some ^= 1 << bit
            at = start + bit
            k = common(data, at, i, most)
            if k > best or (k == best and at > found):
                best, found = k, at
                if k >= bound:
                    return best << _PLACE | found
        if chain == 0:
            break
    return best << _PLACE | found if found else 0


@numba.njit(nogil=True, inline="never")
def _parse(data, length, hashed, s):
    """Count the symbols of the row, by the table; `hashed`: its hashes are known."""
    literal, distance, table, hashes = s.literal, s.distance, s.table, s.hashes
    stride = table.size >> 2
    i = known_place = 0
    known, waiting = 2, 0
    while i < length:
        entry = get(table, (i & 3) * stride + (i >> 2))
        if entry >= _PHASES_MEET or (known >= GOOD_LENGTH and i > _SHORT_CHAIN):
            if not hashed:
                _hash(data, length, hashes)
                hashed = True
            searched = i < length - 2 and known < min(MAX_MATCH, length - i)
            entry = _search(data, length, i, known, entry, hashes) if searched else 0
        match = entry >> _PLACE
        if i > TOO_FAR and match == 3 and i - (entry & _PLACES) > TOO_FAR:
            match = 2
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
            known, known_place = max(match, 2), entry & _PLACES
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
    hashed = length > LONGEST_CHAIN
    if hashed:
        _hash(data, length, s.hashes)
        if _crowded(length - 2, s.hashes):
            return False
    longest_matches(cells, s)
    _fill_table(cells, s)
    if no_low != 0 or (no_high != 0 and any_high != 0):
        _enter_meetings(data, cells, any_high, s)
    _parse(data, length, hashed, s)
    return True
