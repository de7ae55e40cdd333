"""The longest matches of all cells of a row at once: a table of common lengths, of which only its edge is kept.

With ours(m, j) = how far the cells from m on and from j on are equal, ours(m, j) is ours(m + 1, j + 1) + 1 where the
two cells are equal and 0 where they are not. The lanes of a vector are 64 neighbouring m, j goes down one by one, and
what is longer than all before replaces it: so the most recent of the longest is what stays. No branch hangs on data.

A length counts in half cells, plus one: 1 for nothing in common, one more where at least the cell's low byte agrees,
two more for each whole cell. It saturates at `SATURATED`, from where on it says nothing.
"""

# mypy: disable-error-code="no-untyped-def,call-arg,var-annotated"
# Types are numba's to infer, and an intrinsic is called without its typing context.

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from generator.gzip_bytes import get, put
from generator.vector_code import I8, I32, I64, call, constant, load, pointer, splat

LANES = 64
NOTHING, SATURATED = 1, 127
PLACES = 256  # a place is kept as a byte: so many j at a time
STATE = 5 * LANES

_VECTOR, _WORDS = ir.VectorType(I8, LANES), ir.VectorType(I32, LANES // 4)
_LANE_NUMBERS = ir.Constant(_VECTOR, list(range(LANES)))
_SHIFTED = ir.Constant(ir.VectorType(I32, LANES), list(range(1, LANES + 1)))


def _sweeper(later_only: bool, at_cells: bool) -> Any:
    """sweep(low_high, spread, edges, state, numbers, m, high, low, read, write, base, half): j from `high` down to `low`.

    Lanes are m to m + 63; all are later than j, else only those that are count (`later_only`). Without `at_cells` j is
    no place where a match of whole cells may begin. `low_high`: the low bytes of all cells and, `half` elements on,
    the high ones, uint8; `spread` the same, uint32, each byte four times. `edges` from `read` on has the
    lengths of the lane behind the last, and from `write` on takes those of the first, one uint32 for each j. `state`:
    lengths at j + 1; longest and its j - base; the same among cells of one high byte, of the strings one cell on.
    """

    @intrinsic
    def sweep(_typing, low_high, spread, edges, state, numbers, _m, _high, _low, _read, _write, _base, _half):  # noqa: PLR0913
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            m, high, low, read, write, base, half = args[5:]

            def place(array: int, at: Any, kind: ir.Type) -> Any:
                return pointer(context, builder, sig.args[array], args[array], at, kind)

            ours = [load(builder, place(0, at, _VECTOR)) for at in (m, builder.add(m, half))]
            kept = [cgutils.alloca_once(builder, _VECTOR) for _ in range(5)]
            for n, slot in enumerate(kept):
                builder.store(load(builder, place(3, ir.Constant(I64, n * LANES), _VECTOR)), slot)

            def four_times(array: int, at: Any) -> Any:
                return builder.bitcast(splat(builder, builder.load(place(array, at, I32)), LANES // 4), _VECTOR)

            steps = builder.add(builder.sub(high, low), ir.Constant(I64, 1))
            with cgutils.for_range(builder, steps) as loop:
                j = builder.sub(high, loop.index)
                length, best, best_j, inner, inner_j = (builder.load(slot) for slot in kept)
                number = four_times(4, builder.sub(j, base))
                low_byte = builder.icmp_signed("==", ours[0], four_times(1, j))
                high_byte = builder.icmp_signed("==", ours[1], four_times(1, builder.add(j, half)))

                edge = builder.load(place(2, builder.add(read, builder.add(j, ir.Constant(I64, 1))), I32))
                edge = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), edge, ir.Constant(I32, 0))
                edge = builder.bitcast(edge, _VECTOR)
                behind = builder.shuffle_vector(length, edge, _SHIFTED)
                one, two = constant(I8, 1, LANES), constant(I8, 2, LANES)
                longer = call(builder, f"llvm.sadd.sat.v{LANES}i8", _VECTOR, behind, two)
                partly = builder.sub(one, builder.sext(low_byte, _VECTOR))
                length = builder.select(builder.and_(low_byte, high_byte), longer, partly)

                better = builder.icmp_signed(">", length, best)
                better_inner = builder.and_(builder.icmp_signed(">", behind, inner), high_byte)
                if later_only:
                    least = ir.Constant(I64, -1)
                    lane = builder.sub(j, m)
                    lane = builder.select(builder.icmp_signed("<", lane, least), least, lane)
                    later = builder.icmp_signed(">", _LANE_NUMBERS, splat(builder, builder.trunc(lane, I8), LANES))
                    better, better_inner = builder.and_(better, later), builder.and_(better_inner, later)
                if at_cells:
                    best, best_j = builder.select(better, length, best), builder.select(better, number, best_j)
                inner = builder.select(better_inner, behind, inner)
                inner_j = builder.select(better_inner, number, inner_j)
                for slot, value in zip(kept, (length, best, best_j, inner, inner_j), strict=True):
                    builder.store(value, slot)
                first = builder.extract_element(builder.bitcast(length, _WORDS), ir.Constant(I32, 0))
                builder.store(first, place(2, builder.add(write, j), I32))
            for n, slot in enumerate(kept):
                builder.store(builder.load(slot), place(3, ir.Constant(I64, n * LANES), _VECTOR), align=1)
            return context.get_dummy_value()

        i = types.int64
        return types.void(low_high, spread, edges, state, numbers, i, i, i, i, i, i, i), codegen

    return sweep


_among_lanes, _before_lanes, _at_first = _sweeper(True, True), _sweeper(False, True), _sweeper(True, False)


@numba.njit(nogil=True, inline="always")
def _take(state, lanes, length, place, at, base):
    """What a run of j found replaces what later j found where it is longer."""
    for k in range(LANES):
        new, old = get(state, lanes + k), get(length, at + k)
        put(length, at + k, max(new, old))
        put(place, at + k, get(state, lanes + LANES + k) + base if new > old else get(place, at + k))


@numba.njit(nogil=True, inline="never")
def longest_matches(cells, s):
    """For each of `cells` cells m: `length` and `place` (elements LANES + m) of the most recent of the longest matches
    that begin at a cell from 1 on; `inner_length` and `inner_place`: at any cell whose high byte is that of cell m,
    and of the strings that begin one cell on; 0: there is no such cell."""
    low_high, spread, edges, state = s.low_high, s.spread, s.edges, s.state
    half = low_high.size >> 1
    read, write = 0, edges.size >> 1
    for k in range(cells + 2):
        put(edges, k, 0x01010101 * NOTHING)
    read, write = read - LANES, write - LANES  # all places are shifted by the LANES elements before the first cell
    first = cells
    while first > 0:
        m = first  # the element of cell first - LANES
        for k in range(LANES):
            put(state, k, NOTHING)
            put(s.length, m + k, NOTHING)
            put(s.inner_length, m + k, 0)
        first -= LANES
        high = first + LANES - 2
        for part in range(high // PLACES, -1, -1):
            base = part * PLACES
            for k in range(LANES):
                put(state, LANES + k, NOTHING)
                put(state, 3 * LANES + k, 0)
            low = max(first, base, 1)
            if high >= low:
                _among_lanes(low_high, spread, edges, state, s.numbers, m, high + LANES, low + LANES, read, write, base + LANES, half)
                high = low - 1
            low = max(base, 1)
            if high >= low:
                _before_lanes(low_high, spread, edges, state, s.numbers, m, high + LANES, low + LANES, read, write, base + LANES, half)
                high = low - 1
            if part == 0:
                _at_first(low_high, spread, edges, state, s.numbers, m, LANES, LANES, read, write, LANES, half)
            _take(state, LANES, s.length, s.place, m, base)
            _take(state, 3 * LANES, s.inner_length, s.inner_place, m, base)
        read, write = write, read
