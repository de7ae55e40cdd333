"""Arithmetic on vectors of float32 in LLVM's code: what the trainer's kernels for a CPU are written with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from generator.vector_code import I32, I64, call, constant, load, pointer, splat

Code = tuple[Any, Callable[..., Any]]
"""What an intrinsic of numba returns: its signature, and what writes its code."""

LANES = 16
F32 = ir.FloatType()
ROW = ir.VectorType(F32, LANES)
_FUSED = ("contract",)  # a product and a sum may be one instruction where the processor has it

# exp(x) = 2^n · exp(r), |r| <= ln(2)/2: ln(2) in two parts, and the coefficients of the Cephes library's expf.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_SHORT_EXP = (
    1.3814540579915047e-3,
    8.36874544620514e-3,
    4.166838899254799e-2,
    1.666652113199234e-1,
    4.999999403953552e-1,
)
_ROUND = 12_582_912.0  # 1.5 · 2^23: adding it leaves a float32's nearest integer in its lowest bits
_LEAST = -87.0  # below it exp is no normal number, and counts for nothing


def alike(value: float) -> ir.Constant:
    """A row of equal numbers."""
    return ir.Constant(ROW, [value] * LANES)


class Vectors:
    """Arithmetic on rows of LANES numbers."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=_FUSED)

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=_FUSED)

    def sub(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b, flags=_FUSED)

    def dot(self, left: list[Any], right: list[Any]) -> Any:
        total = self.mul(left[0], right[0])
        for a, b in zip(left[1:], right[1:], strict=True):
            total = self.add(total, self.mul(a, b))
        return total

    def sum(self, rows: list[Any]) -> Any:
        """Of a power of two of rows: pairs first, then pairs of these."""
        while len(rows) > 1:
            rows = [self.add(one, other) for one, other in zip(rows[::2], rows[1::2], strict=True)]
        return rows[0]

    def turned(self, rows: list[Any]) -> list[Any]:
        """LANES rows as columns."""
        rows, lanes, distance = list(rows), range(LANES), LANES // 2
        while distance:  # what lies across the diagonal changes places: quarters, then quarters of these
            low = [lane + (LANES - distance if lane & distance else 0) for lane in lanes]
            high = [lane + (LANES if lane & distance else distance) for lane in lanes]
            for first in (row for row in lanes if not row & distance):
                pair = rows[first], rows[first + distance]
                rows[first], rows[first + distance] = (choose(self.builder, *pair, picks) for picks in (low, high))
            distance //= 2
        return rows

    def larger(self, a: Any, b: Any) -> Any:
        """The larger of two, and ``a`` where either is no number."""
        return self.builder.select(self.builder.fcmp_unordered(">", a, b), a, b)

    def exp(self, x: Any) -> Any:
        """exp(x) for x <= 0, to 2 units in the last place; no number where x is none."""
        x = self.larger(x, alike(_LEAST))
        # Not to be fused: the sum with _ROUND is what rounds.
        shifted = self.builder.fadd(self.builder.fmul(x, alike(math.log2(math.e))), alike(_ROUND))
        n = self.builder.fsub(shifted, alike(_ROUND))
        r = self.sub(self.sub(x, self.mul(n, alike(_LN2_HIGH))), self.mul(n, alike(_LN2_LOW)))
        return self._power(_EXP, r, shifted)

    def exp_or_zero(self, x: Any) -> Any:
        """exp(x) for x <= 0, and 0 where that is no normal number; no number where x is none.

        To 2 units in the last place, to 5 where it is less than 1e-17: one multiple of ln(2) is not all of it.
        """
        shifted = self.add(self.mul(x, alike(math.log2(math.e))), alike(_ROUND))
        n = self.builder.fsub(shifted, alike(_ROUND))
        r = self.sub(x, self.mul(n, alike(math.log(2))))
        power = self._power(_SHORT_EXP, r, shifted)
        return self.builder.select(self.builder.fcmp_unordered(">=", x, alike(_LEAST)), power, alike(0.0))

    def _power(self, coefficients: tuple[float, ...], r: Any, shifted: Any) -> Any:
        """2^n · exp(r): exp by its coefficients from that of the highest power down to r²'s, n from ``shifted``."""
        power = alike(coefficients[0])
        for coefficient in coefficients[1:]:
            power = self.add(self.mul(power, r), alike(coefficient))
        power = self.add(self.add(self.mul(power, self.mul(r, r)), r), alike(1.0))
        integers = ir.VectorType(I32, LANES)
        exponent = self.builder.shl(self.builder.bitcast(shifted, integers), constant(I32, 23, LANES))
        return self.builder.bitcast(self.builder.add(self.builder.bitcast(power, integers), exponent), ROW)

    def from_lane(self, first: Any) -> Any:
        """Whether a lane is ``first`` or one after it."""
        lanes = ir.Constant(ir.VectorType(I32, LANES), list(range(LANES)))
        first = splat(self.builder, self.builder.trunc(first, I32), LANES)
        return self.builder.icmp_signed(">=", lanes, first)

    def fold(self, row: Any, act: Any) -> Any:
        """``act`` of all lanes, in each lane: halves first, then quarters, so always in one order."""
        distance = LANES // 2
        while distance:
            picks = ir.Constant(ir.VectorType(I32, LANES), [lane ^ distance for lane in range(LANES)])
            row = act(row, self.builder.shuffle_vector(row, ir.Constant(ROW, ir.Undefined), picks))
            distance //= 2
        return row


class Slots:
    """Rows that a loop adds to; LLVM keeps them in registers."""

    def __init__(self, vectors: Vectors, count: int) -> None:
        self._vectors = vectors
        self._places = [cgutils.alloca_once(vectors.builder, ROW) for _ in range(count)]

    def begin(self, value: float = 0.0) -> None:
        for place in self._places:
            self._vectors.builder.store(alike(value), place)

    def get(self) -> list[Any]:
        return [self._vectors.builder.load(place) for place in self._places]

    def put(self, rows: list[Any]) -> None:
        for place, row in zip(self._places, rows, strict=True):
            self._vectors.builder.store(row, place)


class Flat:
    """A flat array of float32 in memory, from an element on."""

    def __init__(self, context: Any, builder: Any, kind: Any, array: Any, first: Any) -> None:
        self._builder = builder
        self._first = pointer(context, builder, kind, array, first, F32)

    def place(self, at: Any) -> Any:
        """The address of a row."""
        return self._builder.bitcast(self._builder.gep(self._first, [at]), ROW.as_pointer())

    def row(self, at: Any) -> Any:
        """Elements ``at`` and on."""
        return load(self._builder, self.place(at))

    def each(self, at: Any) -> Any:
        """Element ``at``, in every lane."""
        return splat(self._builder, self._builder.load(self._builder.gep(self._first, [at])), LANES)

    def put(self, at: Any, row: Any) -> None:
        self._builder.store(row, self.place(at), align=1)

    def put_one(self, at: Any, row: Any) -> None:
        """The first of a row's lanes."""
        self._builder.store(
            self._builder.extract_element(row, ir.Constant(I32, 0)), self._builder.gep(self._first, [at])
        )


def prefetch(builder: Any, address: Any, cache: int, writes: bool) -> None:
    """Have the processor bring what is at an address into its nearest cache or its second; no address is wrong."""
    hints = (ir.Constant(I32, hint) for hint in (int(writes), 4 - cache, 1))
    call(builder, "llvm.prefetch.p0", ir.VoidType(), address, *hints)


def choose(builder: Any, first: Any, second: Any, picks: list[int]) -> Any:
    """Lanes of two rows by their numbers, those of the second from LANES on."""
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, LANES), picks))


def whole(value: int) -> ir.Constant:
    """An index."""
    return ir.Constant(I64, value)
