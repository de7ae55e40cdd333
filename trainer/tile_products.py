"""Products of small tiles, which attention in tiles is made of.

A product's sums stay in registers until they are whole, and what is made of them at once is made there. Each function
is numba's intrinsic: it writes LLVM's code where it is called. What is multiplied lies in ``work``, flat float32, from
an element on.
"""

from __future__ import annotations

import math
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from trainer.tiles import KEY_ROWS, MIX_ROWS, QUERIES
from trainer.vectors import LANES, Code, Flat, Slots, Vectors, alike, whole

SCORES, WEIGHTS, SLOPES = range(3)
"""What a product of keys and queries becomes."""


class _Tile:
    """Sums of products: ``rows`` rows of ``wide`` vectors."""

    def __init__(self, does: Vectors, work: Flat, rows: int, wide: int) -> None:
        self._does, self._work, self._rows, self._wide = does, work, rows, wide
        self._totals = Slots(does, rows * wide)
        self._totals.begin()

    def places(self, at: Any, step: Any) -> list[list[Any]]:
        """The elements that its vectors begin at in memory, row by row, ``step`` from one to the next."""
        builder = self._does.builder
        starts = [builder.add(at, builder.mul(step, whole(m))) for m in range(self._rows)]
        return [[builder.add(start, whole(LANES * n)) for n in range(self._wide)] for start in starts]

    def begin(self, places: list[list[Any]]) -> None:
        """Add to what is there already."""
        self._totals.put([self._work.row(place) for row in places for place in row])

    def multiply(self, a: tuple[Any, Any, Any], b: tuple[Any, Any], count: Any) -> None:
        """Add Σ over k < count of a[m, k] · b[k, n].

        a[m, k] is element ``at + m · row + k · step``, ``a`` being these; ``b`` is where b is and its rows' distance.
        """
        does, builder, work = self._does, self._does.builder, self._work
        (a_at, a_row, a_step), (b_at, b_step) = a, b
        starts = [builder.add(a_at, builder.mul(a_row, whole(m))) for m in range(self._rows)]
        with cgutils.for_range(builder, count) as k:
            first, along = builder.add(b_at, builder.mul(k.index, b_step)), builder.mul(k.index, a_step)
            columns = [work.row(builder.add(first, whole(LANES * n))) for n in range(self._wide)]
            factors = [work.each(builder.add(start, along)) for start in starts]
            terms = [does.mul(factor, column) for factor in factors for column in columns]
            self._totals.put([does.add(total, term) for total, term in zip(self._totals.get(), terms, strict=True)])

    def rows(self) -> list[list[Any]]:
        totals = self._totals.get()
        return [totals[first : first + self._wide] for first in range(0, len(totals), self._wide)]


def _put(out: Flat, places: list[list[Any]], rows: list[list[Any]]) -> None:
    for row_places, row in zip(places, rows, strict=True):
        for place, value in zip(row_places, row, strict=True):
            out.put(place, value)


@intrinsic(prefer_literal=True)
def pairs(
    _typing: Any,
    work: Any,
    keys: Any,
    width: Any,
    queries: Any,
    out: Any,
    hidden: Any,
    found: Any,
    weights: Any,
    vectors: Any,
    stage: Any,
) -> Code:
    """KEY_ROWS keys, rows of ``width``, times ``vectors`` vectors of queries, of which ``queries`` has the columns.

    Key m is hidden from the queries before number ``hidden + m``, which is of the first vector if any is. ``stage``:
    SCORES are kept as they are, ``found`` being raised to the largest; WEIGHTS are made of scores with the largest and
    the inverse of the sum, which is QUERIES after it; SLOPES, the gradients of scores, of the weights' gradients with
    the weights and, in ``found``, the means.
    """
    wide, becomes = vectors.literal_value, stage.literal_value
    signature = types.void(work, keys, width, queries, out, hidden, found, weights, vectors, stage)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        flat = Flat(context, builder, sig.args[0], args[0], whole(0))
        keys, width, queries, out, hidden, found, weights = args[1:8]
        does = Vectors(builder)
        tile = _Tile(does, flat, KEY_ROWS, wide)
        tile.multiply((keys, width, whole(1)), (queries, whole(QUERIES)), width)
        rows = tile.rows()
        columns = [builder.add(found, whole(LANES * n)) for n in range(wide)]
        known = [flat.row(column) for column in columns]
        if becomes == WEIGHTS:
            inverses = [flat.row(builder.add(column, whole(QUERIES))) for column in columns]
            for row in rows:
                for n, (score, top, inverse) in enumerate(zip(row, known, inverses, strict=True)):
                    row[n] = does.mul(does.exp_or_zero(does.sub(score, top)), inverse)
        elif becomes == SLOPES:
            for row, places in zip(rows, tile.places(weights, whole(QUERIES)), strict=True):
                for n, (slope, mean, place) in enumerate(zip(row, known, places, strict=True)):
                    row[n] = does.mul(flat.row(place), does.sub(slope, mean))
        unseen = alike(-math.inf if becomes == SCORES else 0.0)
        for m, row in enumerate(rows):
            row[0] = builder.select(does.from_lane(builder.add(hidden, whole(m))), row[0], unseen)
        if becomes == SCORES:
            for n, (column, top) in enumerate(zip(columns, known, strict=True)):
                for row in rows:
                    top = does.larger(row[n], top)
                flat.put(column, top)
        _put(flat, tile.places(out, whole(QUERIES)), rows)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def mix(
    _typing: Any,
    work: Any,
    a: Any,
    a_row: Any,
    a_step: Any,
    b: Any,
    width: Any,
    count: Any,
    factors: Any,
    out: Any,
    to: Any,
    out_row: Any,
    vectors: Any,
) -> Code:
    """MIX_ROWS sums of ``count`` rows of b, each times its factor, in rows of out."""
    wide = vectors.literal_value
    signature = types.void(work, a, a_row, a_step, b, width, count, factors, out, to, out_row, vectors)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        flat = Flat(context, builder, sig.args[0], args[0], whole(0))
        a, a_row, a_step, b, width, count, factors = args[1:8]
        does = Vectors(builder)
        tile = _Tile(does, flat, MIX_ROWS, wide)
        tile.multiply((a, a_row, a_step), (b, width), count)
        rows = tile.rows()
        for m, row in enumerate(rows):
            factor = flat.each(builder.add(factors, whole(m)))
            row[:] = [does.mul(total, factor) for total in row]
        _put(Flat(context, builder, sig.args[8], args[8], whole(0)), tile.places(args[9], args[10]), rows)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def add_mix(
    _typing: Any,
    work: Any,
    a: Any,
    a_row: Any,
    a_step: Any,
    b: Any,
    width: Any,
    count: Any,
    before: Any,
    out: Any,
    to: Any,
    out_row: Any,
    vectors: Any,
) -> Code:
    """MIX_ROWS sums of ``count`` rows of b, added to rows of ``before``, in rows of out."""
    wide = vectors.literal_value
    signature = types.void(work, a, a_row, a_step, b, width, count, before, out, to, out_row, vectors)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        flat = Flat(context, builder, sig.args[0], args[0], whole(0))
        a, a_row, a_step, b, width, count, before = args[1:8]
        tile = _Tile(Vectors(builder), flat, MIX_ROWS, wide)
        tile.begin(tile.places(before, width))
        tile.multiply((a, a_row, a_step), (b, width), count)
        _put(Flat(context, builder, sig.args[8], args[8], whole(0)), tile.places(args[9], args[10]), tile.rows())
        return context.get_dummy_value()

    return signature, codegen
