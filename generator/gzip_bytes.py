"""How the kernel that counts gzip sizes reads and writes memory: unchecked, by machine words, and by hash."""

# mypy: disable-error-code="no-untyped-def,call-arg,var-annotated"
# Types are numba's to infer, and an intrinsic is called without its typing context.

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from generator.vector_code import I16, I32, I64, load, pointer, splat

HASHES = 1 << 15
LANES = 64  # places that `alike` looks at
LENGTHS = 32  # what `unlike_next` looks at


@intrinsic
def get(_typing: Any, array: Any, _at: Any) -> tuple[Any, Callable[..., Any]]:
    """array[at] as int64; no negative indices, so no test for them."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = context.make_array(sig.args[0])(context, builder, args[0]).data
        value = builder.load(builder.gep(start, [args[1]]))
        return (builder.sext if sig.args[0].dtype.signed else builder.zext)(value, I64)

    return types.int64(array, types.int64), codegen


@intrinsic
def put(_typing: Any, array: Any, _at: Any, _value: Any) -> tuple[Any, Callable[..., Any]]:
    """array[at] = value, by its low bits; no negative indices."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = context.make_array(sig.args[0])(context, builder, args[0]).data
        bits = ir.IntType(sig.args[0].dtype.bitwidth)
        builder.store(builder.trunc(args[2], bits), builder.gep(start, [args[1]]))
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), codegen


def _loader(kind: ir.IntType) -> Any:
    """load(data uint8, at): the little-endian integer that begins at byte `at`; what has 32 bits is not negative."""

    @intrinsic
    def load_integer(_typing: Any, data: Any, _at: Any) -> tuple[Any, Callable[..., Any]]:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            value = load(builder, pointer(context, builder, sig.args[0], *args, kind))
            return value if kind is I64 else builder.zext(value, I64)

        return types.int64(data, types.int64), codegen

    return load_integer


load64, load32 = _loader(I64), _loader(I32)


@intrinsic
def trailing_zeros(_typing: Any, _value: Any) -> tuple[Any, Callable[..., Any]]:
    """Trailing zero bits of a number that is not zero."""

    def codegen(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


@intrinsic
def highest_bit(_typing: Any, _value: Any) -> tuple[Any, Callable[..., Any]]:
    """Place of the highest bit that is set in a number that is not zero."""

    def codegen(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        return builder.sub(ir.Constant(I64, 63), builder.ctlz(args[0], ir.Constant(ir.IntType(1), 1)))

    return types.int64(types.int64), codegen


@intrinsic
def bits(_typing: Any, _value: Any) -> tuple[Any, Callable[..., Any]]:
    """How many bits of a number are set."""

    def codegen(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.int64), codegen


@intrinsic
def alike(_typing: Any, hashes: Any, _at: Any, _hash: Any) -> tuple[Any, Callable[..., Any]]:
    """Which of the LANES elements of uint16 `hashes` from `at` on are `hash`: a bit each."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.VectorType(I16, LANES)
        theirs = load(builder, pointer(context, builder, sig.args[0], args[0], args[1], kind))
        same = builder.icmp_unsigned("==", theirs, splat(builder, builder.trunc(args[2], I16), LANES))
        return builder.bitcast(same, I64)

    return types.int64(hashes, types.int64, types.int64), codegen


@intrinsic
def unlike_next(_typing: Any, lengths: Any, _at: Any) -> tuple[Any, Callable[..., Any]]:
    """Which of the LENGTHS elements of int32 `lengths` from `at` on are not as the one behind them: a bit each."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.VectorType(I32, LENGTHS)
        behind = builder.add(args[1], ir.Constant(I64, 1))
        ours, theirs = (
            load(builder, pointer(context, builder, sig.args[0], args[0], at, kind)) for at in (args[1], behind)
        )
        return builder.zext(builder.bitcast(builder.icmp_unsigned("!=", ours, theirs), ir.IntType(LENGTHS)), I64)

    return types.int64(lengths, types.int64), codegen


@numba.njit(nogil=True, inline="always")
def hash_of(four):
    """zlib's hash of the first three of four bytes."""
    return ((four << 10) ^ (four >> 3 & 0x1FE0) ^ (four >> 16 & 0xFF)) & (HASHES - 1)


@numba.njit(nogil=True, inline="always")
def common(data, one, other, most):
    """How many bytes from two places on are equal, at most `most`."""
    k = 0
    while k < most:
        unlike = load64(data, one + k) ^ load64(data, other + k)
        if unlike != 0:
            k += trailing_zeros(unlike) >> 3
            break
        k += 8
    return min(k, most)
