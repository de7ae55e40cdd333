"""The bits of a deflate block, to the last tie: Huffman trees as madler's zlib builds them, and its choice of a form.

Among equal frequencies its heap takes the shallower node, and of equals in both the one that lies nearer: which symbol
gets which length hangs on that, and on the lengths hangs how many bits the lengths themselves take.
"""

# mypy: disable-error-code="no-untyped-def,call-arg,var-annotated"
# Types are numba's to infer, and an intrinsic is called without its typing context.

import numba
import numpy as np

from generator.gzip_bytes import LENGTHS, get, put, trailing_zeros, unlike_next

LITERALS, DISTANCES, CODES, END_OF_BLOCK = 286, 30, 19, 256
WINDOW = 1 << 15
MAX_MATCH = 258
TOO_FAR = 4096  # a match of three bytes that lies farther back costs more than three literals
LONGEST_CHAIN = 4096
GOOD_LENGTH = 32  # with such a match in hand a quarter of the chain is followed
_HEAP = 2 * LITERALS + 1
TREE_SIZE = 1 << 10

# A node of a heap is its frequency, its depth and its number in one integer; keys compare without the number.
_FREQUENCY, _DEPTH, _NUMBER = 15, 10, (1 << 10) - 1
_NEVER = (1 << 31) - 1
_DEPTHS = ((1 << _FREQUENCY) - 1) & ~_NUMBER


def _tables() -> tuple[np.ndarray, ...]:
    """(code of each length, code of each distance, fixed code lengths, extra bits of literals, of distances): RFC 1951,
    section 3.2.5 and 3.2.6."""
    length_extra = [0] * 8 + [bits for bits in range(1, 6) for _ in range(4)] + [0]
    length_code = np.zeros(MAX_MATCH + 1, np.int32)
    length_code[3:MAX_MATCH] = np.repeat(np.arange(28), [1 << bits for bits in length_extra[:28]])[: MAX_MATCH - 3]
    length_code[MAX_MATCH] = 28
    distance_extra = [0, 0, *(bits for bits in range(14) for _ in range(2))]
    distance_code = np.zeros(WINDOW + 1, np.int32)
    distance_code[1:] = np.repeat(np.arange(DISTANCES), [1 << bits for bits in distance_extra])
    fixed = np.repeat([8, 9, 7, 8], [144, 112, 24, 6]).astype(np.int32)
    literal_extra = np.array([0] * (END_OF_BLOCK + 1) + length_extra, np.int32)
    return length_code, distance_code, fixed, literal_extra, np.array(distance_extra, np.int32)


LENGTH_CODE, DISTANCE_CODE, _FIXED, _LITERAL_EXTRA, _DISTANCE_EXTRA = _tables()
_CODE_ORDER = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15], np.int32)


@numba.njit(nogil=True, inline="always")
def _sift(heap, levels, start, value):
    """Put `value` into the place `start`, or below it, where both of its sons are no less.

    `levels` down from there all lie behind the last. What is put down on its way moves nothing more: it is no greater
    than its own sons, so no branch hangs on where that was."""
    at = start
    for _ in range(levels):
        left, right = get(heap, at << 1), get(heap, (at << 1) + 1)
        second = right <= (left | _NUMBER)
        least = right if second else left
        stays = value <= (least | _NUMBER)
        put(heap, at, value if stays else least)
        value = least if stays else value
        at = (at << 1) + second
    put(heap, at, value)


@numba.njit(nogil=True, inline="never")
def _code_lengths(frequency, symbols, longest, heap, order, length, count):
    """Write the code length of each of `symbols`; returns (last symbol with a code, bits of all codes sent)."""
    size, last = 0, -1
    for n in range(symbols):
        put(length, n, 0)
        often = get(frequency, n)
        put(heap, size + 1, (often << _FREQUENCY) | n)
        some = often != 0
        size += some
        last = n if some else last
    bits = 0
    while size < 2:  # a tree has two codes at least; those that are not needed are never sent
        if last < 2:
            last += 1
            n = last
        else:
            n = 0
        size += 1
        put(heap, size, (1 << _FREQUENCY) | n)
        bits -= 1
    levels = 0
    while size >> levels != 0:
        levels += 1
    for n in range(size + 1, 2 << levels):
        put(heap, n, _NEVER)
    for start in range(size >> 1, 0, -1):
        below = 0
        while start << below + 1 <= size:
            below += 1
        _sift(heap, below, start, get(heap, start))
    node, at = symbols, _HEAP
    while True:
        first = get(heap, 1)
        value = get(heap, size)
        put(heap, size, _NEVER)
        size -= 1
        levels -= size >> levels - 1 == 0
        _sift(heap, levels - 1, 1, value)
        second = get(heap, 1)
        at -= 2
        put(order, at + 1, first)
        put(order, at, second)
        put(length, first & _NUMBER, node)
        put(length, second & _NUMBER, node)
        depth = max(first & _DEPTHS, second & _DEPTHS) + (1 << _DEPTH)
        often = (first >> _FREQUENCY) + (second >> _FREQUENCY)
        joined = (often << _FREQUENCY) | depth | node
        bits += often
        if size < 2:
            break
        node += 1
        _sift(heap, levels - 1, 1, joined)

    # From the root down, the length of a node's own code takes the place of its father's number.
    put(length, node, 0)
    over = 0
    for place in range(at, _HEAP):
        n = get(order, place) & _NUMBER
        long = get(length, get(length, n)) + 1
        over += long > longest
        put(length, n, min(long, longest))
    if over > 0:
        for n in range(16):
            put(count, n, 0)
        for n in range(symbols):
            put(count, get(length, n), get(count, get(length, n)) + 1)
        while over > 0:
            long = longest - 1
            while get(count, long) == 0:
                long -= 1
            put(count, long, get(count, long) - 1)
            put(count, long + 1, get(count, long + 1) + 2)
            put(count, longest, get(count, longest) - 1)
            over -= 2
        place, bits = _HEAP, 0
        for long in range(longest, 0, -1):
            left = get(count, long)
            while left != 0:
                place -= 1
                entry = get(order, place)
                n = entry & _NUMBER
                if n < symbols:
                    bits += long * (entry >> _FREQUENCY)
                    put(length, n, long)
                    left -= 1
    return last, bits


@numba.njit(nogil=True, inline="never")
def _count_codes(length, last, codes):
    """Add to `codes` how often each symbol of the code-length code is sent for these lengths."""
    start = 0
    for at in range(0, last + 1, LENGTHS):
        ends = unlike_next(length, at)
        if last - at < LENGTHS:
            ends = (ends | 1 << (last - at)) & ((2 << (last - at)) - 1)
        while ends != 0:
            end = at + trailing_zeros(ends)
            ends &= ends - 1
            run, start = end + 1 - start, end + 1
            long = get(length, end)
            if long != 0:  # sent once, and 16 repeats it three to six times
                left = (run - 1) % 6
                codes[long] += 1 if left > 2 else left + 1
                codes[16] += (run - 1) // 6 + (left > 2)
            else:  # 18 stands for 11 to 138 of them, 17 for three to ten
                left = run % 138
                codes[0] += 0 if left > 2 else left
                codes[17] += 2 < left <= 10
                codes[18] += run // 138 + (left > 10)


@numba.njit(nogil=True, inline="never")
def end_block(bits, stored, may_store, s):
    """Bits of the stream after a block of `stored` bytes that begins at `bits`; clears the counts."""
    literal, distance, codes = s.literal, s.distance, s.codes
    literal[END_OF_BLOCK] = 1
    extra = fixed = np.int32(0)
    for n in range(LITERALS):
        fixed += literal[n] * _FIXED[n]
        extra += literal[n] * _LITERAL_EXTRA[n]
    for n in range(DISTANCES):
        fixed += distance[n] * np.int32(5)
        extra += distance[n] * _DISTANCE_EXTRA[n]
    fixed += extra
    last, dynamic = _code_lengths(literal, LITERALS, 15, s.heap, s.order, s.literal_length, s.per_length)
    for n in range(CODES):
        codes[n] = 0
    _count_codes(s.literal_length, last, codes)
    last, more = _code_lengths(distance, DISTANCES, 15, s.heap, s.order, s.distance_length, s.per_length)
    _count_codes(s.distance_length, last, codes)
    dynamic += more + extra
    more = _code_lengths(codes, CODES, 7, s.heap, s.order, s.code_length, s.per_length)[1]
    dynamic += more + 2 * codes[16] + 3 * codes[17] + 7 * codes[18]
    sent = CODES
    while sent > 4 and s.code_length[_CODE_ORDER[sent - 1]] == 0:
        sent -= 1
    dynamic += 3 * sent + 14
    for n in range(LITERALS):
        literal[n] = 0
    for n in range(DISTANCES):
        distance[n] = 0
    dynamic_bytes, fixed_bytes = (dynamic + 10) >> 3, (fixed + 10) >> 3
    if stored + 4 <= min(dynamic_bytes, fixed_bytes) and may_store:
        return ((bits + 10) >> 3 << 3) + 32 + 8 * stored
    return bits + 3 + (fixed if fixed_bytes <= dynamic_bytes else dynamic)
