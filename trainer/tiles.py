"""Vector code that attention in tiles goes over rows with: softmax, copies, transposes, what is asked of memory early.

Each function is numba's intrinsic: it writes LLVM's code where it is called. Arrays are flat float32; ``at``, ``to``
and the like are an element of one. ``work`` is a piece of memory that has all a thread works with.
"""

from __future__ import annotations

import math
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from generator.vector_code import I8, splat
from trainer.vectors import LANES, Code, Flat, Slots, Vectors, alike, prefetch, whole

KEY_ROWS = 8
"""Keys of a tile of scores, which are worked out key by key: a vector has one key's scores for LANES queries."""

QUERIES = 3 * LANES
"""Queries that are taken at once, in a tile of scores too: three vectors of eight keys fill AVX-512's registers."""

MIX_ROWS = 6
MIX_COLUMNS = 4 * LANES
"""Rows and columns of a tile of sums of values, which fills the registers as well."""


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
def weigh_columns(_typing: Any, work: Any, at: Any, rows: Any, found: Any) -> Code:
    """exp(score - largest) in place of scores: ``rows``, a multiple of KEY_ROWS, of a vector, QUERIES apart.

    ``found`` has the largest; the inverses of the sums go QUERIES after them.
    """
    signature = types.void(work, at, rows, found)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        flat = Flat(context, builder, sig.args[0], args[0], whole(0))
        does = Vectors(builder)
        at, rows, found = args[1:]
        top = flat.row(found)
        totals = Slots(does, KEY_ROWS)
        totals.begin()
        with cgutils.for_range(builder, builder.udiv(rows, whole(KEY_ROWS))) as n:
            start = builder.add(at, builder.mul(n.index, whole(KEY_ROWS * QUERIES)))
            places = [builder.add(start, whole(m * QUERIES)) for m in range(KEY_ROWS)]
            weights = [does.exp_or_zero(does.sub(flat.row(place), top)) for place in places]
            for place, weight in zip(places, weights, strict=True):
                flat.put(place, weight)
            totals.put([does.add(total, weight) for total, weight in zip(totals.get(), weights, strict=True)])
        total = does.sum(totals.get())
        flat.put(builder.add(found, whole(QUERIES)), builder.fdiv(alike(1.0), total))
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
def clear(_typing: Any, work: Any, at: Any) -> Code:
    """Zeros in a vector of each of MIX_ROWS rows, QUERIES apart."""
    signature = types.void(work, at)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        flat = Flat(context, builder, sig.args[0], args[0], args[1])
        for row in range(MIX_ROWS):
            flat.put(whole(row * QUERIES), alike(0.0))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def fetch(_typing: Any, address: Any, count: Any, writes: Any) -> Code:
    """Ask for ``count`` vectors from an address on, to be in the second cache when they are wanted."""
    signature = types.void(address, count, writes)
    to_write = bool(writes.literal_value)

    def codegen(context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        with cgutils.for_range(builder, args[1]) as n:
            place = builder.add(args[0], builder.mul(n.index, whole(4 * LANES)))
            prefetch(builder, builder.inttoptr(place, I8.as_pointer()), 2, to_write)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def copy_dots(
    _typing: Any,
    x: Any,
    at: Any,
    step: Any,
    y: Any,
    y_at: Any,
    y_step: Any,
    work: Any,
    to: Any,
    terms: Any,
    length: Any,
    width: Any,
) -> Code:
    """``length`` rows of ``width`` numbers of x; for each, from ``terms`` on, a vector whose sum is that of x · y."""
    signature = types.void(x, at, step, y, y_at, y_step, work, to, terms, length, width)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source = Flat(context, builder, sig.args[0], args[0], args[1])
        other = Flat(context, builder, sig.args[3], args[3], args[4])
        flat = Flat(context, builder, sig.args[6], args[6], whole(0))
        to, terms, length, width = args[7:]
        does = Vectors(builder)
        total = Slots(does, 1)
        with cgutils.for_range(builder, length) as t:
            total.begin()
            x_row, y_row, end = (builder.mul(t.index, step) for step in (args[2], args[5], width))
            with cgutils.for_range(builder, builder.udiv(width, whole(LANES))) as n:
                place = builder.mul(n.index, whole(LANES))
                row = source.row(builder.add(x_row, place))
                flat.put(builder.add(to, builder.add(end, place)), row)
                total.put([does.add(total.get()[0], does.mul(row, other.row(builder.add(y_row, place))))])
            flat.put(builder.add(terms, builder.mul(t.index, whole(LANES))), total.get()[0])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def turn(_typing: Any, work: Any, at: Any, step: Any, to: Any) -> Code:
    """LANES rows of LANES numbers, ``step`` apart, as columns: rows that are QUERIES apart."""
    signature = types.void(work, at, step, to)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        flat = Flat(context, builder, sig.args[0], args[0], whole(0))
        does = Vectors(builder)
        at, step, to = args[1:]
        rows = [flat.row(builder.add(at, builder.mul(step, whole(number)))) for number in range(LANES)]
        for number, row in enumerate(does.turned(rows)):
            flat.put(builder.add(to, whole(number * QUERIES)), row)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def sum_lanes(_typing: Any, work: Any, at: Any, to: Any) -> Code:
    """A vector of the sums of LANES vectors, each over its lanes."""
    signature = types.void(work, at, to)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        flat = Flat(context, builder, sig.args[0], args[0], whole(0))
        does = Vectors(builder)
        rows = does.turned([flat.row(builder.add(args[1], whole(number * LANES))) for number in range(LANES)])
        flat.put(args[2], does.sum(rows))
        return context.get_dummy_value()

    return signature, codegen
