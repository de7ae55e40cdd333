"""Vector code that products with weights are made of: a tile of sums in registers, and copies to panels.

A tile is TILE_ROWS rows of up to TILE_VECTORS vectors of sums, which with what they are made of fill the 32 registers
of AVX-512. What it reads next, and where its sums will go, are asked for in time: rows of whole tensors lie too far
apart for a processor to foresee. Arrays are flat float32; ``at``, ``to``, ``a_at`` and the like are an element of one.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from generator.vector_code import I8, I64, pointer
from trainer.vectors import F32, LANES, Code, Flat, Slots, Vectors, prefetch, whole

TILE_ROWS = 6
TILE_VECTORS = 4
PANEL = TILE_VECTORS * LANES
"""Columns of a tile."""

AHEAD = 24
"""How many rows before its use a line of memory is asked for."""


def _ask(builder: Any, array: Flat, at: Any, writes: bool = False) -> None:
    """Have the processor bring element ``at`` into its nearest cache."""
    prefetch(builder, builder.bitcast(array.place(at), I8.as_pointer()), 1, writes)


@intrinsic(prefer_literal=True)
def sums(
    _typing: Any,
    a: Any,
    a_at: Any,
    a_row: Any,
    a_step: Any,
    panel: Any,
    panel_at: Any,
    c: Any,
    c_at: Any,
    c_row: Any,
    count: Any,
    beyond: Any,
    vectors: Any,
    adds: Any,
) -> Code:
    """c[m, n] = Σ over k < count of a[m, k] · panel[k, n], added to what is there if ``adds``.

    For m < TILE_ROWS and n < ``vectors`` · LANES. a[m, k] is ``a[a_at + m · a_row + k · a_step]``; rows of the panel
    are PANEL numbers apart, those of c ``c_row``. Each sum is made in the order of k, wherever in a tile it lies. What
    lies ``beyond`` each number of a is asked for.
    """
    wide = vectors.literal_value
    signature = types.void(a, a_at, a_row, a_step, panel, panel_at, c, c_at, c_row, count, beyond, vectors, adds)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        left = Flat(context, builder, sig.args[0], args[0], args[1])
        right = Flat(context, builder, sig.args[4], args[4], args[5])
        out = Flat(context, builder, sig.args[6], args[6], args[7])
        does = Vectors(builder)
        totals = Slots(does, TILE_ROWS * wide)
        starts = [builder.mul(args[2], whole(m)) for m in range(TILE_ROWS)]
        places = [
            builder.add(builder.mul(args[8], whole(m)), whole(LANES * n)) for m in range(TILE_ROWS) for n in range(wide)
        ]
        for place in places:
            _ask(builder, out, place, writes=True)
        totals.begin()
        with cgutils.for_range(builder, args[9]) as k:
            first = builder.mul(k.index, whole(PANEL))
            columns = [right.row(builder.add(first, whole(LANES * n))) for n in range(wide)]
            along = builder.mul(k.index, args[3])
            numbers = [builder.add(start, along) for start in starts]
            for number in numbers:
                _ask(builder, left, builder.add(number, args[10]))
            factors = [left.each(number) for number in numbers]
            terms = [does.mul(factor, column) for factor in factors for column in columns]
            totals.put([does.add(total, term) for total, term in zip(totals.get(), terms, strict=True)])
        with builder.if_else(args[12]) as (added, alone):
            with added:
                for place, total in zip(places, totals.get(), strict=True):
                    out.put(place, does.add(out.row(place), total))
            with alone:
                for place, total in zip(places, totals.get(), strict=True):
                    out.put(place, total)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def copy_to_panel(_typing: Any, b: Any, at: Any, step: Any, panel: Any, to: Any, count: Any, vectors: Any) -> Code:
    """``count`` rows of ``vectors`` · LANES numbers, ``step`` apart, to rows that are PANEL apart."""
    wide = vectors.literal_value
    signature = types.void(b, at, step, panel, to, count, vectors)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source = Flat(context, builder, sig.args[0], args[0], args[1])
        target = Flat(context, builder, sig.args[3], args[3], args[4])
        ahead = builder.mul(args[2], whole(AHEAD))
        with cgutils.for_range(builder, args[5]) as k:
            begin, end = builder.mul(k.index, args[2]), builder.mul(k.index, whole(PANEL))
            places = [builder.add(begin, whole(LANES * n)) for n in range(wide)]
            rows = [source.row(place) for place in places]
            for place in places:
                _ask(builder, source, builder.add(place, ahead))
            for n, row in enumerate(rows):
                target.put(builder.add(end, whole(LANES * n)), row)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def turn_to_panel(_typing: Any, b: Any, at: Any, step: Any, panel: Any, to: Any) -> Code:
    """LANES rows of LANES numbers, ``step`` apart, as columns of a panel."""
    signature = types.void(b, at, step, panel, to)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source = Flat(context, builder, sig.args[0], args[0], args[1])
        target = Flat(context, builder, sig.args[3], args[3], args[4])
        rows = [source.row(builder.mul(args[2], whole(number))) for number in range(LANES)]
        for number, row in enumerate(Vectors(builder).turned(rows)):
            target.put(whole(number * PANEL), row)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def pointer_to(_typing: Any, address: Any) -> Code:
    """``address``, an integer, as that of float32."""

    def codegen(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], F32.as_pointer())

    return types.CPointer(types.float32)(address), codegen


@intrinsic
def count_on(_typing: Any, numbers: Any, place: Any) -> Code:
    """What element ``place`` was before it became one more, which no two threads are told alike."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        counter = pointer(context, builder, sig.args[0], args[0], args[1], I64)
        return builder.atomic_rmw("add", counter, whole(1), "seq_cst")

    return types.int64(numbers, place), codegen
