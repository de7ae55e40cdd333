"""Vector code that attention in tiles is made of: products of small tiles, softmax of a row, copies and transposes.

A product's sums stay in registers until they are whole: TILE_ROWS rows of up to TILE_VECTORS vectors, which with what
they are made of fill the 32 registers of AVX-512. Each function is numba's intrinsic: it writes LLVM's code where it
is called. Arrays are flat float32; ``at``, ``to``, ``a_at`` and the like are an element of one.
"""

from __future__ import annotations

import math
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from generator.vector_code import splat
from trainer.vectors import LANES, Code, Flat, Slots, Vectors, alike, choose, whole

TILE_ROWS = 6
TILE_VECTORS = 4
PANEL = TILE_VECTORS * LANES
"""Columns of a tile."""


@intrinsic(prefer_literal=True)
def tile(
    _typing: Any,
    a: Any,
    a_at: Any,
    a_row: Any,
    a_step: Any,
    b: Any,
    b_at: Any,
    b_step: Any,
    c: Any,
    c_at: Any,
    c_row: Any,
    count: Any,
    vectors: Any,
    adds: Any,
) -> Code:
    """c[m, n] = Σ over k < count of a[m, k] · b[k, n], added to what is there if ``adds``.

    For m < TILE_ROWS and n < ``vectors`` · LANES. a[m, k] is ``a[a_at + m · a_row + k · a_step]``; what is in a row of
    b, ``b_step`` from one to the next, or of c, ``c_row`` from one to the next, lies one after another.
    """
    wide, sums = vectors.literal_value, adds.literal_value
    signature = types.void(a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, count, vectors, adds)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        left = Flat(context, builder, sig.args[0], args[0], args[1])
        right = Flat(context, builder, sig.args[4], args[4], args[5])
        out = Flat(context, builder, sig.args[7], args[7], args[8])
        does = Vectors(builder)
        totals = Slots(does, TILE_ROWS * wide)
        starts = [builder.mul(args[2], whole(m)) for m in range(TILE_ROWS)]
        places = [
            builder.add(builder.mul(args[9], whole(m)), whole(LANES * n)) for m in range(TILE_ROWS) for n in range(wide)
        ]
        if sums:
            totals.put([out.row(place) for place in places])
        else:
            totals.begin()
        with cgutils.for_range(builder, args[10]) as k:
            first = builder.mul(k.index, args[6])
            columns = [right.row(builder.add(first, whole(LANES * n))) for n in range(wide)]
            along = builder.mul(k.index, args[3])
            factors = [left.each(builder.add(start, along)) for start in starts]
            terms = [does.mul(factor, column) for factor in factors for column in columns]
            totals.put([does.add(total, term) for total, term in zip(totals.get(), terms, strict=True)])
        for place, total in zip(places, totals.get(), strict=True):
            out.put(place, total)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def weigh(_typing: Any, scores: Any, at: Any, vectors: Any, rows: Any, row_at: Any) -> Code:
    """exp(score - largest) in place of ``vectors`` vectors of scores; the largest and the inverse sum go to rows."""
    signature = types.void(scores, at, vectors, rows, row_at)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        line = Flat(context, builder, sig.args[0], args[0], args[1])
        found = Flat(context, builder, sig.args[3], args[3], args[4])
        does = Vectors(builder)
        highest, total = Slots(does, 1), Slots(does, 1)
        highest.begin(-math.inf)
        total.begin()
        with cgutils.for_range(builder, args[2]) as n:
            highest.put([does.larger(line.row(builder.mul(n.index, whole(LANES))), highest.get()[0])])
        top = does.fold(highest.get()[0], does.larger)
        with cgutils.for_range(builder, args[2]) as n:
            place = builder.mul(n.index, whole(LANES))
            weight = does.exp(does.sub(line.row(place), top))
            total.put([does.add(total.get()[0], weight)])
            line.put(place, weight)
        inverse = builder.fdiv(alike(1.0), does.fold(total.get()[0], does.add))
        found.put_one(whole(0), top)
        found.put_one(whole(1), inverse)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def slope(_typing: Any, scores: Any, slopes: Any, at: Any, vectors: Any, rows: Any, row_at: Any) -> Code:
    """In place of scores their weights; in place of ``slopes``, the weights' gradients, those of the scores.

    rows has the largest score, the inverse of the sum and the mean of the weights' gradients.
    """
    signature = types.void(scores, slopes, at, vectors, rows, row_at)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        line = Flat(context, builder, sig.args[0], args[0], args[2])
        wanted = Flat(context, builder, sig.args[1], args[1], args[2])
        found = Flat(context, builder, sig.args[4], args[4], args[5])
        does = Vectors(builder)
        top, inverse, mean = (found.each(whole(place)) for place in range(3))
        with cgutils.for_range(builder, args[3]) as n:
            place = builder.mul(n.index, whole(LANES))
            weight = does.mul(does.exp(does.sub(line.row(place), top)), inverse)
            line.put(place, weight)
            wanted.put(place, does.mul(weight, does.sub(wanted.row(place), mean)))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def copy_rows(
    _typing: Any, x: Any, at: Any, step: Any, out: Any, to: Any, out_step: Any, length: Any, width: Any, factor: Any
) -> Code:
    """``length`` rows of ``width`` numbers times ``factor``, each ``step`` after the one before it."""
    signature = types.void(x, at, step, out, to, out_step, length, width, factor)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source = Flat(context, builder, sig.args[0], args[0], args[1])
        target = Flat(context, builder, sig.args[3], args[3], args[4])
        does = Vectors(builder)
        factor = splat(builder, args[8], LANES)
        with cgutils.for_range(builder, args[6]) as t:
            begin, end = builder.mul(t.index, args[2]), builder.mul(t.index, args[5])
            with cgutils.for_range(builder, builder.udiv(args[7], whole(LANES))) as n:
                place = builder.mul(n.index, whole(LANES))
                target.put(builder.add(end, place), does.mul(source.row(builder.add(begin, place)), factor))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def turn(_typing: Any, x: Any, at: Any, step: Any, out: Any, to: Any) -> Code:
    """LANES rows of LANES numbers, ``step`` apart, as columns: rows that are PANEL apart."""
    signature = types.void(x, at, step, out, to)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source = Flat(context, builder, sig.args[0], args[0], args[1])
        target = Flat(context, builder, sig.args[3], args[3], args[4])
        rows = [source.row(builder.mul(args[2], whole(number))) for number in range(LANES)]
        distance = LANES // 2
        while distance:  # what lies across the diagonal changes places: quarters, then quarters of these
            for first in (row for row in range(LANES) if not row & distance):
                pair = rows[first], rows[first + distance]
                lanes = range(LANES)
                low = [lane + (LANES - distance if lane & distance else 0) for lane in lanes]
                high = [lane + (LANES if lane & distance else distance) for lane in lanes]
                rows[first], rows[first + distance] = (choose(builder, *pair, picks) for picks in (low, high))
            distance //= 2
        for number, row in enumerate(rows):
            target.put(whole(number * PANEL), row)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def dot(_typing: Any, a: Any, a_at: Any, b: Any, b_at: Any, width: Any, out: Any, to: Any) -> Code:
    """The sum of products of ``width`` numbers."""
    signature = types.void(a, a_at, b, b_at, width, out, to)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        left = Flat(context, builder, sig.args[0], args[0], args[1])
        right = Flat(context, builder, sig.args[2], args[2], args[3])
        does = Vectors(builder)
        total = Slots(does, 1)
        total.begin()
        with cgutils.for_range(builder, builder.udiv(args[4], whole(LANES))) as n:
            place = builder.mul(n.index, whole(LANES))
            total.put([does.add(total.get()[0], does.mul(left.row(place), right.row(place)))])
        Flat(context, builder, sig.args[5], args[5], args[6]).put_one(whole(0), does.fold(total.get()[0], does.add))
        return context.get_dummy_value()

    return signature, codegen
