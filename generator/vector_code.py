"""LLVM vector code for numba's intrinsics: what the kernels' inner loops are written with.

Vectors are of any length; LLVM lowers them to what the CPU has (AVX-512, AVX2, SSE, NEON). Where it does not find an
instruction by itself, x86's or Arm's is called by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, kind: ir.Type) -> Any:
    """Address of element `index` (in elements of the array) as a pointer to `kind`."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def load(builder: Any, place: Any) -> Any:
    """What lies at a pointer. Numba's arrays are not aligned to vectors: no more than bytes is claimed."""
    return builder.load(place, align=1)


def splat(builder: Any, scalar: Any, lanes: int) -> Any:
    """A vector whose `lanes` lanes are all `scalar`."""
    vector_type = ir.VectorType(scalar.type, lanes)
    one = builder.insert_element(ir.Constant(vector_type, ir.Undefined), scalar, ir.Constant(I32, 0))
    mask = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    return builder.shuffle_vector(one, ir.Constant(vector_type, ir.Undefined), mask)


def constant(kind: ir.IntType, value: int, lanes: int) -> ir.Constant:
    """A vector of `lanes` equal integers."""
    return ir.Constant(ir.VectorType(kind, lanes), [value] * lanes)


def clamp(builder: Any, value: Any, low: int, high: int) -> Any:
    """A vector of signed integers held from `low` to `high`."""
    kind, lanes = value.type.element, value.type.count
    for bound, order in ((low, ">"), (high, "<")):
        limit = constant(kind, bound, lanes)
        value = builder.select(builder.icmp_signed(order, value, limit), value, limit)
    return value


def shuffle(builder: Any, first: Any, picks: list[int]) -> Any:
    """Lanes `picks` of a vector."""
    mask = ir.Constant(ir.VectorType(I32, len(picks)), picks)
    return builder.shuffle_vector(first, ir.Constant(first.type, ir.Undefined), mask)


def join(builder: Any, low: Any, high: Any) -> Any:
    """Two vectors of one length, one after the other."""
    count = 2 * low.type.count
    return builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, count), list(range(count))))


def by_parts(builder: Any, lanes: int, act: Callable[..., Any], *vectors: Any) -> Any:
    """`act` on each `lanes` lanes of vectors of one length, put together again."""
    parts = []
    for first in range(0, vectors[0].type.count, lanes):
        parts.append(act(*(shuffle(builder, vector, list(range(first, first + lanes))) for vector in vectors)))
    while len(parts) > 1:
        parts = [join(builder, low, high) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def call(builder: Any, name: str, result: ir.Type, *operands: Any) -> Any:
    """A call of one of LLVM's own functions."""
    kind = ir.FunctionType(result, [operand.type for operand in operands])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), operands)


def on_x86(triple: str) -> bool:
    """Whether a target has SSE2: all 64-bit x86 processors do."""
    return triple.startswith("x86_64")


def on_arm(triple: str) -> bool:
    """Whether a target has NEON: all 64-bit Arm processors do, which Apple calls arm64."""
    return triple.startswith(("aarch64", "arm64"))


def target_of(context: Any) -> tuple[str, str]:
    """The triple and the features of the processor that `context` compiles for."""
    triple, _, features = (str(part) for part in context.codegen().magic_tuple()[:3])
    return triple, features
