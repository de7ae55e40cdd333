"""The two inner loops of a cell update as portable LLVM vector code, for numba.

Loop vectorisers do not find these forms; written as vectors, LLVM lowers them to whatever the CPU has (AVX-512, AVX2,
SSE, NEON). The four-byte dot product is the instruction that the CPU has for it (VNNI; on Arm usdot and sdot), else the
pair of multiply-adds of AVX2, else that of SSE2: chosen when a kernel is compiled, from LLVM's features of the target.
All sizes are literals of the kernel.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

LANES = 16
INDEX_LANES = 32
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, kind: ir.Type) -> Any:
    """Address of element `index` (in elements of the array) as a pointer to `kind`."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def splat(builder: Any, scalar: Any, lanes: int) -> Any:
    """A vector whose `lanes` lanes are all `scalar`."""
    vector_type = ir.VectorType(scalar.type, lanes)
    one = builder.insert_element(ir.Constant(vector_type, ir.Undefined), scalar, ir.Constant(_I32, 0))
    mask = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    return builder.shuffle_vector(one, ir.Constant(vector_type, ir.Undefined), mask)


def constant(kind: ir.IntType, value: int, lanes: int) -> ir.Constant:
    """A vector of `lanes` equal integers."""
    return ir.Constant(ir.VectorType(kind, lanes), [value] * lanes)


def _clamp(builder: Any, value: Any, low: int, high: int) -> Any:
    kind, lanes = value.type.element, value.type.count
    for bound, order in ((low, ">"), (high, "<")):
        limit = constant(kind, bound, lanes)
        value = builder.select(builder.icmp_signed(order, value, limit), value, limit)
    return value


def _to_bytes(context: Any, builder: Any, value: Any) -> Any:
    """16 int16 clamped to 0 .. 255, as bytes: one instruction on x86, where LLVM makes three of the clamp."""
    byte_type = ir.VectorType(_I8, LANES)
    if not on_x86(str(context.codegen().magic_tuple()[0])):
        return builder.trunc(_clamp(builder, value, 0, 255), byte_type)
    sides = (_shuffle(builder, value, list(range(first, first + 8))) for first in (0, 8))
    return _call(builder, "llvm.x86.sse2.packuswb.128", byte_type, *sides)


def _load(builder: Any, pointer: Any) -> Any:
    # Numba arrays are not aligned to vectors: claim no more than bytes.
    return builder.load(pointer, align=1)


def _shuffle(builder: Any, first: Any, picks: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(_I32, len(picks)), picks)
    return builder.shuffle_vector(first, ir.Constant(first.type, ir.Undefined), mask)


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
        narrow, wide = ir.VectorType(_I16, padded), ir.VectorType(_I32, padded)
        total = constant(_I32, 1 << shift >> 1, padded)
        for e in range(embed):
            at = builder.add(conv_at_, ir.Constant(_I64, e))
            weight = builder.sext(_load(builder, _pointer(context, builder, sig.args[2], conv_, at, _I16)), _I32)
            at = ir.Constant(_I64, e * padded)
            layer = builder.sext(_load(builder, _pointer(context, builder, sig.args[4], first_, at, narrow)), wide)
            total = builder.add(total, builder.mul(layer, splat(builder, weight, padded)))
        total = builder.trunc(builder.ashr(total, constant(_I32, shift, padded)), narrow)
        total = builder.add(total, splat(builder, extra_, padded))
        builder.store(total, _pointer(context, builder, sig.args[0], rows_, to_, narrow), align=1)
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
        kind = ir.VectorType(_I16, lanes)
        before = _load(builder, _pointer(context, builder, sig.args[0], tables_, origin_, kind))
        row = _load(builder, _pointer(context, builder, sig.args[3], rows_, at_, kind))
        place = _pointer(context, builder, sig.args[0], tables_, to_, kind)
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
        byte_type, entry_type = ir.VectorType(_I8, INDEX_LANES), ir.VectorType(_I16, INDEX_LANES)
        neighbors = list(zip(pairs[::2], pairs[1::2], strict=True))
        for group in range(-(-len(neighbors) // members)):
            entry = None
            for offset, factor in neighbors[group * members : (group + 1) * members]:
                at = _pointer(
                    context, builder, sig.args[0], pad_, builder.add(where_, ir.Constant(_I64, offset)), byte_type
                )
                part = builder.mul(builder.zext(_load(builder, at), entry_type), constant(_I16, factor, INDEX_LANES))
                entry = part if entry is None else builder.add(entry, part)
            at = builder.add(where_, ir.Constant(_I64, group * stride))
            builder.store(entry, _pointer(context, builder, sig.args[1], index_, at, entry_type), align=1)
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
        row_type = ir.VectorType(_I16, LANES)
        rows = []
        for group in range(groups):
            at = builder.add(where_, ir.Constant(_I64, group * index_stride))
            entry = builder.zext(_load(builder, _pointer(context, builder, sig.args[1], index_, at, _I16)), _I64)
            rows.append(builder.add(entry, ir.Constant(_I64, group * group_size)))
        for chunk in range(chunks):
            total = None
            for row in rows:
                at = builder.add(row, ir.Constant(_I64, chunk * LANES))
                value = _load(builder, _pointer(context, builder, sig.args[0], tables_, at, row_type))
                total = value if total is None else builder.add(total, value)
            bytes_ = _to_bytes(context, builder, builder.ashr(total, constant(_I16, shift, LANES)))
            at = builder.add(builder.mul(cell_, ir.Constant(_I64, LANES)), ir.Constant(_I64, chunk * cells * LANES))
            builder.store(bytes_, _pointer(context, builder, sig.args[3], out_, at, bytes_.type), align=1)
        return context.get_dummy_value()

    return signature, codegen


def choose_dot(context: Any) -> tuple[Callable[..., Any], bool]:
    """(the four-byte dot product for the CPU that ``context`` compiles for, whether it can shift its sums left free of
    charge, as its argument ``shift`` says)."""
    triple, _, features = (str(part) for part in context.codegen().magic_tuple()[:3])
    if "+avx512vnni" in features:
        return dot_vnni, False
    if "+avx2" in features:
        return dot_avx2, True
    if on_x86(triple):
        return dot_sse2, True
    return dot_plain, False


def kernel_name() -> str:
    """What the dot products of this machine's kernels are made of, for people."""
    dot, _ = choose_dot(cpu_target.target_context)
    return {dot_vnni: "AVX-512 VNNI", dot_avx2: "AVX2", dot_sse2: "SSE2"}.get(dot, "portable vector code")


def on_x86(triple: str) -> bool:
    """Whether a target has SSE2: all 64-bit x86 processors do."""
    return triple.startswith("x86_64")


def _call(builder: Any, name: str, result: ir.Type, *operands: Any) -> Any:
    kind = ir.FunctionType(result, [operand.type for operand in operands])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), operands)


def _by_parts(builder: Any, lanes: int, act: Callable[..., Any], *vectors: Any) -> Any:
    """``act`` on each ``lanes`` lanes of vectors of one length, put together again."""
    parts = []
    for first in range(0, vectors[0].type.count, lanes):
        parts.append(act(*(_shuffle(builder, vector, list(range(first, first + lanes))) for vector in vectors)))
    while len(parts) > 1:
        parts = [_join(builder, low, high) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _join(builder: Any, low: Any, high: Any) -> Any:
    count = 2 * low.type.count
    return builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(_I32, count), list(range(count))))


def dot_avx2(builder: Any, total: Any, bytes_: Any, weights: Any, shift: int = 0) -> Any:
    """As `dot_plain`: pairs of byte products fit int16 (2 * 255 * 62), so the saturating sum of two never saturates.

    ``shift`` 0 to 8 multiplies what is added to ``total`` by a power of two.
    """
    octets, halves, words = (ir.VectorType(*each) for each in ((_I8, 32), (_I16, 16), (_I32, 8)))

    def part(total_: Any, low: Any, high: Any) -> Any:
        sides = [builder.bitcast(side, octets) for side in (low, high)]
        pairs = _call(builder, "llvm.x86.avx2.pmadd.ub.sw", halves, *sides)
        return builder.add(
            total_, _call(builder, "llvm.x86.avx2.pmadd.wd", words, pairs, constant(_I16, 1 << shift, 16))
        )

    return _by_parts(builder, 8, part, total, bytes_, weights)


def dot_sse2(builder: Any, total: Any, bytes_: Any, weights: Any, shift: int = 0) -> Any:
    """As `dot_plain`: even and odd bytes as int16, each multiplied and added in pairs. ``shift`` as in `dot_avx2`."""
    halves, words = ir.VectorType(_I16, 8), ir.VectorType(_I32, 4)

    def part(total_: Any, low: Any, high: Any) -> Any:
        eight = constant(_I16, 8, 8)
        low, high = (builder.bitcast(side, halves) for side in (low, high))
        for odd in (False, True):
            left = builder.lshr(low, eight) if odd else builder.and_(low, constant(_I16, 255, 8))
            right = builder.ashr(high if odd else builder.shl(high, eight), eight)
            right = builder.shl(right, constant(_I16, shift, 8)) if shift else right
            total_ = builder.add(total_, _call(builder, "llvm.x86.sse2.pmadd.wd", words, left, right))
        return total_

    return _by_parts(builder, 4, part, total, bytes_, weights)


def dot_vnni(builder: Any, total: Any, bytes_: Any, weights: Any) -> Any:
    """As `dot_plain`, in one instruction."""
    kind = total.type
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * 3), "llvm.x86.avx512.vpdpbusd.512"
    )
    return builder.call(function, [total, bytes_, weights])


def dot_plain(builder: Any, total: Any, bytes_: Any, weights: Any) -> Any:
    """Per 32-bit lane: total + sum of four (unsigned byte * signed byte); the pairs match multiply-add instructions."""
    lanes = total.type.count
    wide = ir.VectorType(_I16, 4 * lanes)
    octets = ir.VectorType(_I8, 4 * lanes)
    product = [
        builder.zext(builder.bitcast(bytes_, octets), wide),
        builder.sext(builder.bitcast(weights, octets), wide),
    ]
    for part in (0, 2):
        pair = []
        for odd in (0, 1):
            sides = [_shuffle(builder, p, list(range(part + odd, 4 * lanes, 4))) for p in product]
            left, right = (builder.sext(side, total.type) for side in sides)
            pair.append(builder.mul(left, right))
        total = builder.add(total, builder.add(*pair))
    return total


@intrinsic(prefer_literal=True)
def next_colors(
    _typing: Any, hidden: Any, weights: Any, now: Any, noise: Any, out: Any, cell: Any, sizes: Any
) -> tuple[Any, Callable[..., Any]]:
    """Logits and argmax (lowest colour on ties) of the 16 cells from `cell` on.

    hidden uint8 [chunks, cells, 16]; weights int32 [colors, chunks * 4] of four packed int8; now uint8 [cells];
    noise int32 [colors, cells]; out uint8 [cells]. sizes: literal tuple (colors, chunks, cells_stride, color_bits,
    identity_logit, noisy).
    """
    colors, chunks, cells, color_bits, identity, noisy = (t.literal_value for t in sizes)
    signature = types.void(hidden, weights, now, noise, out, cell, sizes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        hidden_, weights_, now_, noise_, out_, cell_, _ = args
        dot, shifts = choose_dot(context)
        shift = color_bits if shifts else 0
        options = {"shift": shift} if shifts else {}
        lane_type = ir.VectorType(_I32, LANES)
        quads = []
        for chunk in range(chunks):
            at = builder.add(builder.mul(cell_, ir.Constant(_I64, LANES)), ir.Constant(_I64, chunk * cells * LANES))
            block = _load(builder, _pointer(context, builder, sig.args[0], hidden_, at, ir.VectorType(_I32, 4 * LANES)))
            quads += [_shuffle(builder, block, list(range(quad, 4 * LANES, 4))) for quad in range(4)]
        color_now = None
        if identity:
            byte_type = ir.VectorType(_I8, LANES)
            at_now = _pointer(context, builder, sig.args[2], now_, cell_, byte_type)
            color_now = builder.zext(_load(builder, at_now), lane_type)
        best = None
        for color in range(colors):
            if noisy:
                at = builder.add(cell_, ir.Constant(_I64, color * cells))
                logit = _load(builder, _pointer(context, builder, sig.args[3], noise_, at, lane_type))
                logit = builder.shl(logit, constant(_I32, shift, LANES)) if shift else logit
            else:
                logit = constant(_I32, 0, LANES)
            if shifts:  # the code's low bits lie where no product reaches, so the sum can begin with them
                logit = builder.add(logit, constant(_I32, colors - 1 - color, LANES))
            for number, quad in enumerate(quads):
                at = ir.Constant(_I64, color * len(quads) + number)
                weight = _load(builder, _pointer(context, builder, sig.args[1], weights_, at, _I32))
                logit = dot(builder, logit, quad, splat(builder, weight, LANES), **options)
            if color_now is not None:
                same = builder.icmp_signed("==", color_now, constant(_I32, color, LANES))
                bias = builder.select(same, constant(_I32, identity << shift, LANES), constant(_I32, 0, LANES))
                logit = builder.add(logit, bias)
            coded = logit
            if not shifts:
                coded = builder.shl(logit, constant(_I32, color_bits, LANES))
                coded = builder.or_(coded, constant(_I32, colors - 1 - color, LANES))
            best = coded if best is None else builder.select(builder.icmp_signed(">", coded, best), coded, best)
        rank = builder.and_(best, constant(_I32, (1 << color_bits) - 1, LANES))
        color_next = builder.sub(constant(_I32, colors - 1, LANES), rank)
        bytes_ = builder.trunc(color_next, ir.VectorType(_I8, LANES))
        builder.store(bytes_, _pointer(context, builder, sig.args[4], out_, cell_, bytes_.type), align=1)
        return context.get_dummy_value()

    return signature, codegen
