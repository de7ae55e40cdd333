"""The longest matches of all cells of a row at once: a table of common lengths, of which only its edge is kept.

With ours(m, j) = how far the cells from m on and from j on are equal, ours(m, j) is ours(m + 1, j + 1) + 1 where the
two cells are equal and 0 where they are not. The lanes of a vector are neighbouring m, j goes down one by one, and
what is longer than all before replaces it: so the most recent of the longest is what stays. No branch hangs on data.

A length counts in half cells, plus one: 1 for nothing in common, one more where at least the cell's low byte agrees,
two more for each whole cell. It saturates at `SATURATED`, from where on it says nothing.
"""

# mypy: disable-error-code="no-untyped-def,call-arg,var-annotated"
# Types are numba's to infer, and an intrinsic is called without its typing context.

from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from generator.gzip_bytes import get, put
from generator.vector_code import I8, I32, I64, call, constant, load, pointer, splat, target_of

# As many as two vectors hold: one alone would wait for itself. Arrays of cells begin with so many elements of padding.
LANES = 128 if "+avx512bw" in target_of(cpu_target.target_context)[1] else 64
NOTHING, SATURATED = 1, 127
PLACES = 256  # a place is kept as a byte: so many j at a time
STATE = 5 * LANES

_VECTOR, _WORDS = ir.VectorType(I8, LANES), ir.VectorType(I32, LANES // 4)
_LANE_NUMBERS = ir.Constant(_VECTOR, list(range(LANES)))
_NEXT_LANES = ir.Constant(ir.VectorType(I32, LANES), list(range(1, LANES + 1)))


def _sweeper(later_only: bool, at_cells: bool) -> Any:
    """sweep(low_high, spread, edges, state, numbers, m, high, low, read, write, base): j from `high` down to `low`.

    Lanes are the cells from m on. With `later_only` those that are not later than j take nothing; without `at_cells`
    no match of whole cells may begin at j. `low_high`: the low bytes of all cells and, in its second half, the high
    ones; `spread`: the same, each byte four times in a uint32, and `numbers` as many numbers from 0 on. `edges` has
    from `read` on, for each j, the length of the lane behind the last, and takes from `write` on that of the first.
    `state`: the lengths at j + 1; the longest and their j - base; the same among cells with the high byte of j's, of
    what begins one cell on.
    """

    @intrinsic
    def sweep(_typing, low_high, spread, edges, state, numbers, _m, _high, _low, _read, _write, _base):
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            m, high, low, read, write, base = args[5:]
            one, two, minus_one = constant(I8, 1, LANES), constant(I8, 2, LANES), ir.Constant(I64, -1)

            def place(array: int, at: Any, kind: ir.Type) -> Any:
                return pointer(context, builder, sig.args[array], args[array], at, kind)

            def cell(at: Any, of_high: bool) -> Any:
                half = builder.lshr(
                    context.make_array(sig.args[0])(context, builder, args[0]).nitems, ir.Constant(I64, 1)
                )
                at = builder.add(at, ir.Constant(I64, LANES))
                return builder.add(at, half) if of_high else at

            def four_times(array: int, at: Any) -> Any:
                return builder.bitcast(splat(builder, builder.load(place(array, at, I32)), LANES // 4), _VECTOR)

            our_low, our_high = (load(builder, place(0, cell(m, of_high), _VECTOR)) for of_high in (False, True))
            kept = [cgutils.alloca_once(builder, _VECTOR) for _ in range(5)]
            for n, slot in enumerate(kept):
                builder.store(load(builder, place(3, ir.Constant(I64, n * LANES), _VECTOR)), slot)
            with cgutils.for_range(builder, builder.sub(high, builder.add(low, minus_one))) as loop:
                j = builder.sub(high, loop.index)
                length, best, best_j, inner, inner_j = (builder.load(slot) for slot in kept)
                number = four_times(4, builder.sub(j, base))
                low_byte = builder.icmp_signed("==", our_low, four_times(1, cell(j, False)))
                high_byte = builder.icmp_signed("==", our_high, four_times(1, cell(j, True)))

                edge = builder.load(place(2, builder.add(read, builder.sub(j, minus_one)), I32))
                edge = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), edge, ir.Constant(I32, 0))
                behind = builder.shuffle_vector(length, builder.bitcast(edge, _VECTOR), _NEXT_LANES)
                longer = call(builder, f"llvm.sadd.sat.v{LANES}i8", _VECTOR, behind, two)
                partly = builder.sub(one, builder.sext(low_byte, _VECTOR))
                length = builder.select(builder.and_(low_byte, high_byte), longer, partly)

                better = builder.icmp_signed(">", length, best)
                better_inner = builder.and_(builder.icmp_signed(">", behind, inner), high_byte)
                if later_only:
                    lane = builder.sub(j, m)
                    lane = builder.select(builder.icmp_signed("<", lane, minus_one), minus_one, lane)
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
        return types.void(low_high, spread, edges, state, numbers, i, i, i, i, i, i), codegen

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
    low_high, spread, edges, state, numbers = s.low_high, s.spread, s.edges, s.state, s.numbers
    read, write = 0, edges.size >> 1
    for k in range(cells + 1):
        put(edges, k, 0x01010101 * NOTHING)
    first = cells
    while first > 0:
        at = first  # the element of the first lane's cell
        first -= LANES
        for k in range(LANES):
            put(state, k, NOTHING)
            put(s.length, at + k, NOTHING)
            put(s.inner_length, at + k, 0)
        high = first + LANES - 2
        for part in range(high // PLACES, -1, -1):
            base = part * PLACES
            for k in range(LANES):
                put(state, LANES + k, NOTHING)
                put(state, 3 * LANES + k, 0)
            low = max(first, base, 1)
            if high >= low:
                _among_lanes(low_high, spread, edges, state, numbers, first, high, low, read, write, base)
                high = low - 1
            low = max(base, 1)
            if high >= low:
                _before_lanes(low_high, spread, edges, state, numbers, first, high, low, read, write, base)
                high = low - 1
            if part == 0:
                _at_first(low_high, spread, edges, state, numbers, first, 0, 0, read, write, base)
            _take(state, LANES, s.length, s.place, at, base)
            _take(state, 3 * LANES, s.inner_length, s.inner_place, at, base)
        read, write = write, read
