"""The two inner loops of a cell update as portable LLVM vector code, for numba.

Loop vectorisers do not find these forms; written as vectors, LLVM lowers them to whatever the CPU has (AVX-512, AVX2,
SSE, NEON). The four-byte dot product is chosen when a kernel is compiled: `generator.nca.dots`. All sizes are literals
of the kernel.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from generator.nca.dots import choose_dot
from generator.vector_code import (
    I8,
    I16,
    I32,
    I64,
    call,
    clamp,
    constant,
    load,
    on_x86,
    pointer,
    shuffle,
    splat,
    target_of,
)

LANES = 16
INDEX_LANES = 32


def _to_bytes(context: Any, builder: Any, value: Any) -> Any:
    """16 int16 clamped to 0 .. 255, as bytes: one instruction on x86, where LLVM makes three of the clamp; on Arm it
    makes one of the clamp and the shift before it."""
    byte_type = ir.VectorType(I8, LANES)
    if not on_x86(target_of(context)[0]):
        return builder.trunc(clamp(builder, value, 0, 255), byte_type)
    sides = (shuffle(builder, value, list(range(first, first + 8))) for first in (0, 8))
    return call(builder, "llvm.x86.sse2.packuswb.128", byte_type, *sides)


@intrinsic(prefer_literal=True)
def fold_row(
    _typing: Any, rows: Any, to: Any, conv: Any, conv_at: Any, first: Any, extra: Any, sizes: Any
) -> tuple[Any, Callable[..., Any]]:
    """rows[to ...] = ((half + sum over e of conv[conv_at + e] * first[e, ...]) >> shift) + extra, one table row.

    rows, conv, first int16, flat; extra int16. sizes: literal tuple (embed, padded hidden, shift).
    """
    embed, padded, shift = (t.literal_value for t in sizes)
    signature = types.void(rows, to, conv, conv_at, first, extra, sizes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rows_, to_, conv_, conv_at_, first_, extra_, _ = args
        narrow, wide = ir.VectorType(I16, padded), ir.VectorType(I32, padded)
        total = constant(I32, 1 << shift >> 1, padded)
        for e in range(embed):
            at = builder.add(conv_at_, ir.Constant(I64, e))
            weight = builder.sext(load(builder, pointer(context, builder, sig.args[2], conv_, at, I16)), I32)
            at = ir.Constant(I64, e * padded)
            layer = builder.sext(load(builder, pointer(context, builder, sig.args[4], first_, at, narrow)), wide)
            total = builder.add(total, builder.mul(layer, splat(builder, weight, padded)))
        total = builder.trunc(builder.ashr(total, constant(I32, shift, padded)), narrow)
        total = builder.add(total, splat(builder, extra_, padded))
        builder.store(total, pointer(context, builder, sig.args[0], rows_, to_, narrow), align=1)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def add_row(
    _typing: Any, tables: Any, to: Any, origin: Any, rows: Any, at: Any, padded: Any
) -> tuple[Any, Callable[..., Any]]:
    """tables[to ...] = tables[origin ...] + rows[at ...] over `padded` (literal) entries; all int16, flat."""
    lanes = padded.literal_value
    signature = types.void(tables, to, origin, rows, at, padded)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        tables_, to_, origin_, rows_, at_, _ = args
        kind = ir.VectorType(I16, lanes)
        before = load(builder, pointer(context, builder, sig.args[0], tables_, origin_, kind))
        row = load(builder, pointer(context, builder, sig.args[3], rows_, at_, kind))
        place = pointer(context, builder, sig.args[0], tables_, to_, kind)
        builder.store(builder.add(before, row), place, align=1)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def join_neighbors(_typing: Any, pad: Any, index: Any, where: Any, joins: Any) -> tuple[Any, Callable[..., Any]]:
    """Table entries of the INDEX_LANES cells from padded position `where` on: the mixed-radix number of each group's
    neighbours. pad uint8 [padded cells]; index uint16 [groups * stride]; joins as made by `kernel_plan`."""
    members, stride, *pairs = (t.literal_value for t in joins)
    signature = types.void(pad, index, where, joins)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pad_, index_, where_, _ = args
        byte_type, entry_type = ir.VectorType(I8, INDEX_LANES), ir.VectorType(I16, INDEX_LANES)
        neighbors = list(zip(pairs[::2], pairs[1::2], strict=True))
        for group in range(-(-len(neighbors) // members)):
            entry = None
            for offset, factor in neighbors[group * members : (group + 1) * members]:
                at = pointer(
                    context, builder, sig.args[0], pad_, builder.add(where_, ir.Constant(I64, offset)), byte_type
                )
                part = builder.mul(builder.zext(load(builder, at), entry_type), constant(I16, factor, INDEX_LANES))
                entry = part if entry is None else builder.add(entry, part)
            at = builder.add(where_, ir.Constant(I64, group * stride))
            builder.store(entry, pointer(context, builder, sig.args[1], index_, at, entry_type), align=1)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def hidden_units(
    _typing: Any, tables: Any, index: Any, where: Any, out: Any, cell: Any, sizes: Any
) -> tuple[Any, Callable[..., Any]]:
    """Sum one table row per neighbour group, shift, clamp to bytes, store: the hidden layer of one cell.

    tables int16 [groups * rows * padded hidden]; index uint16 [groups * index_stride], entries already times the padded
    hidden size; out uint8 [chunks, cells, 16]. sizes: literal tuple (groups, group_size, index_stride, chunks,
    cells_stride, shift), group_size and strides in elements.
    """
    groups, group_size, index_stride, chunks, cells, shift = (t.literal_value for t in sizes)
    signature = types.void(tables, index, where, out, cell, sizes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        tables_, index_, where_, out_, cell_, _ = args
        row_type = ir.VectorType(I16, LANES)
        rows = []
        for group in range(groups):
            at = builder.add(where_, ir.Constant(I64, group * index_stride))
            entry = builder.zext(load(builder, pointer(context, builder, sig.args[1], index_, at, I16)), I64)
            rows.append(builder.add(entry, ir.Constant(I64, group * group_size)))
        for chunk in range(chunks):
            total = None
            for row in rows:
                at = builder.add(row, ir.Constant(I64, chunk * LANES))
                value = load(builder, pointer(context, builder, sig.args[0], tables_, at, row_type))
                total = value if total is None else builder.add(total, value)
            bytes_ = _to_bytes(context, builder, builder.ashr(total, constant(I16, shift, LANES)))
            at = builder.add(builder.mul(cell_, ir.Constant(I64, LANES)), ir.Constant(I64, chunk * cells * LANES))
            builder.store(bytes_, pointer(context, builder, sig.args[3], out_, at, bytes_.type), align=1)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def as_factor(_typing: Any, weight: Any) -> tuple[Any, Callable[..., Any]]:
    """A weight of the second layer as `next_colors` wants it, both int8."""

    def codegen(context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        return builder.add(args[0], ir.Constant(I8, choose_dot(context).raised))

    return types.int8(weight), codegen


@intrinsic(prefer_literal=True)
def next_colors(
    _typing: Any, hidden: Any, weights: Any, now: Any, noise: Any, out: Any, cell: Any, sizes: Any
) -> tuple[Any, Callable[..., Any]]:
    """Logits and argmax (lowest colour on ties) of the 16 cells from `cell` on.

    hidden uint8 [chunks, cells, 16]; weights int32 [colors, chunks * 4] of four packed int8, made by
    `as_factor`; now uint8 [cells];
    noise int32 [colors, cells]; out uint8 [cells]. sizes: literal tuple (colors, chunks, cells_stride, color_bits,
    identity_logit, noisy).
    """
    colors, chunks, cells, color_bits, identity, noisy = (t.literal_value for t in sizes)
    signature = types.void(hidden, weights, now, noise, out, cell, sizes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        hidden_, weights_, now_, noise_, out_, cell_, _ = args
        dot = choose_dot(context)
        shift = color_bits if dot.shifts else 0
        options = {"shift": shift} if dot.shifts else {}
        lane_type = ir.VectorType(I32, LANES)
        quads = []
        for chunk in range(chunks):
            at = builder.add(builder.mul(cell_, ir.Constant(I64, LANES)), ir.Constant(I64, chunk * cells * LANES))
            block = load(builder, pointer(context, builder, sig.args[0], hidden_, at, ir.VectorType(I32, 4 * LANES)))
            quads += [shuffle(builder, block, list(range(quad, 4 * LANES, 4))) for quad in range(4)]
        color_now = None
        if identity:
            byte_type = ir.VectorType(I8, LANES)
            at_now = pointer(context, builder, sig.args[2], now_, cell_, byte_type)
            color_now = builder.zext(load(builder, at_now), lane_type)
        best = None
        for color in range(colors):
            if noisy:
                at = builder.add(cell_, ir.Constant(I64, color * cells))
                logit = load(builder, pointer(context, builder, sig.args[3], noise_, at, lane_type))
                logit = builder.shl(logit, constant(I32, shift, LANES)) if shift else logit
            else:
                logit = constant(I32, 0, LANES)
            if dot.shifts:  # the code's low bits lie where no product reaches, so the sum can begin with them
                logit = builder.add(logit, constant(I32, colors - 1 - color, LANES))
            factors = []
            for chunk in range(chunks):
                at = ir.Constant(I64, color * len(quads) + 4 * chunk)
                four = load(builder, pointer(context, builder, sig.args[1], weights_, at, ir.VectorType(I32, 4)))
                factors += [shuffle(builder, four, [quad] * LANES) for quad in range(4)]
            logit = dot.sums(builder, logit, quads, factors, **options)
            if color_now is not None:
                same = builder.icmp_signed("==", color_now, constant(I32, color, LANES))
                bias = builder.select(same, constant(I32, identity << shift, LANES), constant(I32, 0, LANES))
                logit = builder.add(logit, bias)
            coded = logit
            if not dot.shifts:
                coded = builder.shl(logit, constant(I32, color_bits, LANES))
                coded = builder.or_(coded, constant(I32, colors - 1 - color, LANES))
            best = coded if best is None else builder.select(builder.icmp_signed(">", coded, best), coded, best)
        rank = builder.and_(best, constant(I32, (1 << color_bits) - 1, LANES))
        color_next = builder.sub(constant(I32, colors - 1, LANES), rank)
        bytes_ = builder.trunc(color_next, ir.VectorType(I8, LANES))
        builder.store(bytes_, pointer(context, builder, sig.args[4], out_, cell_, bytes_.type), align=1)
        return context.get_dummy_value()

    return signature, codegen
