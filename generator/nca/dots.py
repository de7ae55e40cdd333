"""The second layer's dot product, four unsigned by four signed bytes a lane, by the instructions that a processor has.

Which form is compiled hangs on what LLVM would emit for the target: `choose_dot`. All give the same colours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llvmlite import ir
from numba.core.registry import cpu_target

from generator.arm_instructions import dot_instructions
from generator.vector_code import (
    I8,
    I16,
    I32,
    by_parts,
    call,
    constant,
    on_arm,
    on_x86,
    shuffle,
    target_of,
)

# Added to weights of -62 to 62 it makes them bytes without a sign, of which two products fit 16 bits: 2 * 255 * 126.
RAISE = 64


@dataclass(frozen=True)
class Dot:
    """A way to sum dot products.

    ``sums(builder, total, quads, weights)`` is total + the products of four bytes in each lane of each quad with those
    in its weights. If it ``shifts``, it takes ``shift`` and multiplies what it adds by that power of two, free of
    charge. ``raised`` is what it wants added to every weight: that adds as much to all colours of a cell, which their
    order does not show. ``name`` is for people.
    """

    name: str
    sums: Callable[..., Any]
    shifts: bool = False
    raised: int = 0


def choose_dot(context: Any) -> Dot:
    """The best form for the processor that ``context`` compiles for."""
    triple, features = target_of(context)
    if on_arm(triple):
        there = dot_instructions(*context.codegen().magic_tuple()[:3])
        if "usdot" in there:
            return NEON_MIXED
        return NEON_UNSIGNED if "udot" in there else NEON_PLAIN
    if "+avx512vnni" in features:
        return VNNI
    if "+avx2" in features:
        return AVX2
    return SSE2 if on_x86(triple) else PLAIN


def kernel_name() -> str:
    """What the dot products of this machine's kernels are made of, for people."""
    return choose_dot(cpu_target.target_context).name


def in_turn(
    product: Callable[..., Any], builder: Any, total: Any, quads: Sequence[Any], weights: Sequence[Any], **options: int
) -> Any:
    """``sums`` of a form that has one quad at a time."""
    for quad, weight in zip(quads, weights, strict=True):
        total = product(builder, total, quad, weight, **options)
    return total


def dot_avx2(builder: Any, total: Any, bytes_: Any, weights: Any, shift: int = 0) -> Any:
    """As `dot_plain`: pairs of byte products fit int16 (2 * 255 * 62), so the saturating sum of two never saturates.

    ``shift`` 0 to 8 multiplies what is added to ``total`` by a power of two.
    """
    octets, halves, words = (ir.VectorType(*each) for each in ((I8, 32), (I16, 16), (I32, 8)))

    def part(total_: Any, low: Any, high: Any) -> Any:
        sides = [builder.bitcast(side, octets) for side in (low, high)]
        pairs = call(builder, "llvm.x86.avx2.pmadd.ub.sw", halves, *sides)
        return builder.add(total_, call(builder, "llvm.x86.avx2.pmadd.wd", words, pairs, constant(I16, 1 << shift, 16)))

    return by_parts(builder, 8, part, total, bytes_, weights)


def dot_sse2(builder: Any, total: Any, bytes_: Any, weights: Any, shift: int = 0) -> Any:
    """As `dot_plain`: even and odd bytes as int16, each multiplied and added in pairs. ``shift`` as in `dot_avx2`."""
    halves, words = ir.VectorType(I16, 8), ir.VectorType(I32, 4)

    def part(total_: Any, low: Any, high: Any) -> Any:
        eight = constant(I16, 8, 8)
        low, high = (builder.bitcast(side, halves) for side in (low, high))
        for odd in (False, True):
            left = builder.lshr(low, eight) if odd else builder.and_(low, constant(I16, 255, 8))
            right = builder.ashr(high if odd else builder.shl(high, eight), eight)
            right = builder.shl(right, constant(I16, shift, 8)) if shift else right
            total_ = builder.add(total_, call(builder, "llvm.x86.sse2.pmadd.wd", words, left, right))
        return total_

    return by_parts(builder, 4, part, total, bytes_, weights)


def dot_vnni(builder: Any, total: Any, bytes_: Any, weights: Any) -> Any:
    """As `dot_plain`, in one instruction."""
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", total.type, total, bytes_, weights)


def dot_neon(instruction: str, builder: Any, total: Any, bytes_: Any, weights: Any) -> Any:
    """As `dot_plain`, in one instruction for four lanes: `usdot`, or `udot`, for which weights have no sign."""
    octets, words = ir.VectorType(I8, 16), ir.VectorType(I32, 4)

    def part(total_: Any, *sides: Any) -> Any:
        left, right = (builder.bitcast(side, octets) for side in sides)
        return call(builder, f"llvm.aarch64.neon.{instruction}.v4i32.v16i8", words, total_, left, right)

    return by_parts(builder, 4, part, total, bytes_, weights)


def sums_neon_plain(builder: Any, total: Any, quads: Sequence[Any], weights: Sequence[Any]) -> Any:
    """By the multiply-adds that every 64-bit Arm has; weights have no sign, and with RAISE two products fit 16 bits."""
    octets, halves, words = ir.VectorType(I8, 8), ir.VectorType(I16, 8), ir.VectorType(I32, 4)
    numbers = range(len(quads))

    def part(total_: Any, *sides: Any) -> Any:
        factors = [builder.bitcast(side, ir.VectorType(I8, 16)) for side in sides]
        lefts, rights = factors[: len(quads)], factors[len(quads) :]
        partial_sums = []
        for first in (0, 8):
            eight = list(range(first, first + 8))
            wide = None
            for pair in zip(numbers[::2], [*numbers[1::2], None], strict=False):
                products = None
                for number in (each for each in pair if each is not None):
                    left, right = (
                        builder.zext(builder.bitcast(shuffle(builder, side, eight), octets), halves)
                        for side in (lefts[number], rights[number])
                    )
                    product = builder.mul(left, right)
                    products = product if products is None else builder.add(products, product)
                sums = call(builder, "llvm.aarch64.neon.uaddlp.v4i32.v8i16", words, products)
                wide = sums if wide is None else builder.add(wide, sums)
            partial_sums.append(wide)
        return builder.add(total_, call(builder, "llvm.aarch64.neon.addp.v4i32", words, *partial_sums))

    return by_parts(builder, 4, part, total, *quads, *weights)


def dot_plain(builder: Any, total: Any, bytes_: Any, weights: Any) -> Any:
    """Per 32-bit lane: total + sum of four (unsigned byte * signed byte); the pairs match multiply-add instructions."""
    lanes = total.type.count
    wide = ir.VectorType(I16, 4 * lanes)
    octets = ir.VectorType(I8, 4 * lanes)
    product = [
        builder.zext(builder.bitcast(bytes_, octets), wide),
        builder.sext(builder.bitcast(weights, octets), wide),
    ]
    for part in (0, 2):
        pair = []
        for odd in (0, 1):
            sides = [shuffle(builder, p, list(range(part + odd, 4 * lanes, 4))) for p in product]
            left, right = (builder.sext(side, total.type) for side in sides)
            pair.append(builder.mul(left, right))
        total = builder.add(total, builder.add(*pair))
    return total


VNNI = Dot("AVX-512 VNNI", partial(in_turn, dot_vnni))
AVX2 = Dot("AVX2", partial(in_turn, dot_avx2), shifts=True)
SSE2 = Dot("SSE2", partial(in_turn, dot_sse2), shifts=True)
NEON_MIXED = Dot("NEON usdot", partial(in_turn, partial(dot_neon, "usdot")))
NEON_UNSIGNED = Dot("NEON udot", partial(in_turn, partial(dot_neon, "udot")), raised=RAISE)
NEON_PLAIN = Dot("NEON", sums_neon_plain, raised=RAISE)
PLAIN = Dot("portable vector code", partial(in_turn, dot_plain))
