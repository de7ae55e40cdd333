"""The stages of a cell's update as vector code for numba: LANES cells at once, all of them of one set of weights.

A *row* is one number of each of LANES cells, int32 side by side in a flat array. What is multiplied is *packed*: two
numbers of 16 bits in an int32, so that one instruction makes two products and their sum. Each stage's formula is in
`generator.lattice.reference`. A bias holds, beside itself, the half unit that rounding adds.
"""

from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from generator import philox
from generator.lattice.wiring import POSITIONS
from generator.vector_code import I8, I32, I64, by_parts, call, clamp, constant, load, on_x86, pointer, splat, target_of

LANES = 8
BLOCK_LANES = 8
TILE = 8  # outputs that are summed side by side: their sums, a row and a weight fit the registers of AVX2
PAIRS = (POSITIONS + 1) // 2
MOST, TOP, LEAST_EXPONENT = 127, 96, -5
_ROW = ir.VectorType(I32, LANES)

Stage = tuple[Any, Callable[..., Any]]


def pairs_avx2(builder: Any, total: Any, left: Any, right: Any) -> Any:
    """As `pairs_plain`, by AVX2's instruction."""

    def part(total_: Any, *sides: Any) -> Any:
        halves = (builder.bitcast(side, ir.VectorType(ir.IntType(16), 16)) for side in sides)
        return builder.add(total_, call(builder, "llvm.x86.avx2.pmadd.wd", ir.VectorType(I32, 8), *halves))

    return by_parts(builder, 8, part, total, left, right)


def pairs_sse2(builder: Any, total: Any, left: Any, right: Any) -> Any:
    """As `pairs_plain`, by SSE2's instruction."""

    def part(total_: Any, *sides: Any) -> Any:
        halves = (builder.bitcast(side, ir.VectorType(ir.IntType(16), 8)) for side in sides)
        return builder.add(total_, call(builder, "llvm.x86.sse2.pmadd.wd", ir.VectorType(I32, 4), *halves))

    return by_parts(builder, 4, part, total, left, right)


def pairs_plain(builder: Any, total: Any, left: Any, right: Any) -> Any:
    """Per lane: total + the sum of the products of the low halves and of the high halves, all signed."""
    sixteen = constant(I32, 16, LANES)
    for ends in (lambda x: builder.ashr(builder.shl(x, sixteen), sixteen), lambda x: builder.ashr(x, sixteen)):
        total = builder.add(total, builder.mul(ends(left), ends(right)))
    return total


def choose_pairs(context: Any) -> Callable[..., Any]:
    """The sum of two products for the CPU that `context` compiles for."""
    triple, features = target_of(context)
    if "+avx2" in features:
        return pairs_avx2
    return pairs_sse2 if on_x86(triple) else pairs_plain


class _Rows:
    """Elements of a flat array from one of them on, as rows or as single numbers."""

    def __init__(self, context: Any, builder: Any, kind: Any, array: Any, at: Any) -> None:
        self._builder = builder
        self._first = pointer(context, builder, kind, array, at, I32)

    def _place(self, index: Any, kind: ir.Type) -> Any:
        index = ir.Constant(I64, index) if isinstance(index, int) else index
        index = self._builder.mul(index, ir.Constant(I64, LANES)) if kind is _ROW else index
        return self._builder.bitcast(self._builder.gep(self._first, [index]), kind.as_pointer())

    def row(self, index: Any) -> Any:
        return load(self._builder, self._place(index, _ROW))

    def number(self, index: Any) -> Any:
        """The same number in all lanes."""
        return splat(self._builder, load(self._builder, self._place(index, I32)), LANES)

    def put(self, index: Any, value: Any) -> None:
        self._builder.store(value, self._place(index, _ROW), align=1)


def _arrays(context: Any, builder: Any, sig: Any, args: Any, *places: int) -> Iterator[_Rows]:
    """The arrays among an intrinsic's arguments, each of which is followed by where it begins."""
    for place in places:
        yield _Rows(context, builder, sig.args[place], args[place], args[place + 1])


def _packed(builder: Any, low: Any, high: Any | None) -> Any:
    low = builder.and_(low, constant(I32, 0xFFFF, LANES))
    return low if high is None else builder.or_(low, builder.shl(high, constant(I32, 16, LANES)))


def _plus(builder: Any, index: Any, more: int) -> Any:
    return builder.add(index, ir.Constant(I64, more)) if more else index


def _sums(
    context: Any, builder: Any, data: _Rows, weights: _Rows, outputs: int, pairs: int, first: Any, begun: list[Any]
) -> list[Any]:
    """Outputs `first` … of data·weights, added to the rows `begun`; weights [pairs, outputs]."""
    multiply = choose_pairs(context)
    totals = [cgutils.alloca_once(builder, _ROW) for _ in begun]
    for total, value in zip(totals, begun, strict=True):
        builder.store(value, total)
    with cgutils.for_range(builder, ir.Constant(I64, pairs)) as loop:
        row = data.row(loop.index)
        start = builder.add(builder.mul(loop.index, ir.Constant(I64, outputs)), first)
        for number, total in enumerate(totals):
            weight = weights.number(_plus(builder, start, number))
            builder.store(multiply(builder, builder.load(total), row, weight), total)
    return [builder.load(total) for total in totals]


def _tiles(builder: Any, outputs: int, emit: Callable[[Any, int], None]) -> None:
    """`emit(first, count)` for runs of TILE outputs and for the rest of them."""
    if outputs >= TILE:
        with cgutils.for_range(builder, ir.Constant(I64, outputs // TILE)) as loop:
            emit(builder.mul(loop.index, ir.Constant(I64, TILE)), TILE)
    if outputs % TILE:
        emit(ir.Constant(I64, outputs // TILE * TILE), outputs % TILE)


@intrinsic(prefer_literal=True)
def activate(
    _typing: Any,
    data: Any,
    data_at: Any,
    weights: Any,
    weights_at: Any,
    biases: Any,
    biases_at: Any,
    out: Any,
    out_at: Any,
    shift: Any,
    sizes: Any,
) -> Stage:
    """Rows out = down(data·weights + biases, shift) from 0 to TOP; packed in pairs if so said.

    data packed rows [pairs]; weights packed [pairs, outputs]; biases [outputs]. sizes: literal (pairs, outputs,
    packed).
    """
    pairs, outputs, packed = (t.literal_value for t in sizes)
    signature = types.void(data, data_at, weights, weights_at, biases, biases_at, out, out_at, shift, sizes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data_, weights_, biases_, out_ = _arrays(context, builder, sig, args, 0, 2, 4, 6)
        by = splat(builder, args[8], LANES)

        def tile(first: Any, count: int) -> None:
            begun = [biases_.number(_plus(builder, first, number)) for number in range(count)]
            sums = _sums(context, builder, data_, weights_, outputs, pairs, first, begun)
            made = [clamp(builder, builder.ashr(total, by), 0, TOP) for total in sums]
            if packed:
                made = [_packed(builder, low, high) for low, high in zip(made[::2], made[1::2], strict=True)]
                first = builder.lshr(first, ir.Constant(I64, 1))
            for number, row in enumerate(made):
                out_.put(_plus(builder, first, number), row)

        _tiles(builder, outputs, tile)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def normalise(_typing: Any, rows: Any, at: Any, out: Any, out_at: Any, sizes: Any) -> Stage:
    """Rows out = `reference.normalised` of rows, over all of them. sizes: literal (count, log2 of it, unit, packed)."""
    count, width, unit, packed = (t.literal_value for t in sizes)
    signature = types.void(rows, at, out, out_at, sizes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rows_, out_ = _arrays(context, builder, sig, args, 0, 2)
        # A row is below 2^25, so that more than 64 of them may not add up in 32 bits.
        kind = I64 if count > 64 else I32
        wide = ir.VectorType(kind, LANES)
        zero, nothing = constant(I32, 0, LANES), constant(kind, 0, LANES)
        total = nothing
        for number in range(count):
            row = rows_.row(number)
            row = builder.select(builder.icmp_signed("<", row, zero), builder.sub(zero, row), row)
            total = builder.add(total, builder.zext(row, wide) if kind is I64 else row)
        leading = call(builder, f"llvm.ctlz.v{LANES}i{kind.width}", wide, total, ir.Constant(ir.IntType(1), 0))
        leading = builder.trunc(leading, _ROW) if kind is I64 else leading
        # The exponent is at least LEAST_EXPONENT; what is divided by is 2^(exponent + unit - 4).
        by = builder.sub(constant(I32, kind.width - width - 4, LANES), leading)
        least = constant(I32, LEAST_EXPONENT + unit - 4, LANES)
        by = builder.select(builder.icmp_signed(">", by, least), by, least)
        up = builder.sub(zero, by)
        up = builder.select(builder.icmp_signed(">", up, zero), up, zero)
        by = builder.select(builder.icmp_signed(">", by, zero), by, zero)
        one = constant(I32, 1, LANES)
        half = builder.lshr(builder.shl(one, by), one)

        def hat(number: int) -> Any:
            row = builder.ashr(builder.add(builder.shl(rows_.row(number), up), half), by)
            return clamp(builder, row, -MOST, MOST)

        for number in range(0, count, 1 + packed):
            if packed:
                out_.put(number // 2, _packed(builder, hat(number), hat(number + 1)))
            else:
                out_.put(number, hat(number))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def gate(
    _typing: Any,
    rows: Any,
    rows_at: Any,
    weights: Any,
    weights_at: Any,
    gains: Any,
    gains_at: Any,
    biases: Any,
    biases_at: Any,
    out: Any,
    out_at: Any,
    shift: Any,
    width: Any,
) -> Stage:
    """Packed rows out [H, PAIRS] of two positions each = the gated half of each position.

    rows [POSITIONS, 2H]: what is gated, then what gates it, normalised. weights packed [PAIRS, POSITIONS]; gains [H];
    biases [H, POSITIONS]. width: literal H.
    """
    h = width.literal_value
    signature = types.void(
        rows, rows_at, weights, weights_at, gains, gains_at, biases, biases_at, out, out_at, shift, width
    )

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rows_, weights_, gains_, biases_, out_ = _arrays(context, builder, sig, args, 0, 2, 4, 6, 8)
        multiply, by = choose_pairs(context), splat(builder, args[10], LANES)
        sixteen, five = constant(I32, 16, LANES), constant(I32, 5, LANES)
        with cgutils.for_range(builder, ir.Constant(I64, h)) as loop:
            shown = [rows_.row(_plus(builder, loop.index, 2 * h * p + h)) for p in range(POSITIONS)]
            pairs = [
                _packed(builder, *(shown[p : p + 2] if p + 1 < POSITIONS else (shown[p], None)))
                for p in range(0, POSITIONS, 2)
            ]
            gain = gains_.number(loop.index)
            start = builder.mul(loop.index, ir.Constant(I64, POSITIONS))
            gated: list[Any] = []
            for p in range(POSITIONS):
                total = constant(I32, 0, LANES)
                for number, pair in enumerate(pairs):
                    total = multiply(builder, total, pair, weights_.number(number * POSITIONS + p))
                total = builder.add(builder.mul(total, gain), biases_.number(_plus(builder, start, p)))
                total = clamp(builder, builder.ashr(total, by), -MOST, MOST)
                total = builder.mul(total, rows_.row(_plus(builder, loop.index, 2 * h * p)))
                total = builder.ashr(builder.add(total, sixteen), five)
                gated.append(clamp(builder, total, -MOST, MOST))
            start = builder.mul(loop.index, ir.Constant(I64, PAIRS))
            for number in range(PAIRS):
                high = gated[2 * number + 1] if 2 * number + 1 < POSITIONS else None
                out_.put(_plus(builder, start, number), _packed(builder, gated[2 * number], high))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def read_out(
    _typing: Any,
    data: Any,
    data_at: Any,
    weights: Any,
    weights_at: Any,
    biases: Any,
    biases_at: Any,
    lefts: Any,
    lefts_at: Any,
    rights: Any,
    rights_at: Any,
    own: Any,
    own_at: Any,
    out: Any,
    out_at: Any,
    shift: Any,
    sizes: Any,
) -> Stage:
    """Rows out [C] = own + down(data·weights + biases + (data·lefts)·rights, shift).

    data packed rows [pairs]; weights packed [pairs, C]; lefts packed [pairs]; rights [C]; own rows [C]. sizes: literal
    (pairs, C).
    """
    pairs, channels = (t.literal_value for t in sizes)
    signature = types.void(
        *(data, data_at, weights, weights_at, biases, biases_at, lefts, lefts_at, rights, rights_at),
        *(own, own_at, out, out_at, shift, sizes),
    )

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data_, weights_, biases_, lefts_, rights_, own_, out_ = _arrays(
            context, builder, sig, args, 0, 2, 4, 6, 8, 10, 12
        )
        by, zero = splat(builder, args[14], LANES), ir.Constant(I64, 0)
        (along,) = _sums(context, builder, data_, lefts_, 1, pairs, zero, [constant(I32, 0, LANES)])

        def tile(first: Any, count: int) -> None:
            places = [_plus(builder, first, number) for number in range(count)]
            begun = [builder.add(biases_.number(c), builder.mul(along, rights_.number(c))) for c in places]
            for c, total in zip(
                places, _sums(context, builder, data_, weights_, channels, pairs, first, begun), strict=True
            ):
                out_.put(c, builder.add(own_.row(c), builder.ashr(total, by)))

        _tiles(builder, channels, tile)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def feed_forward(
    _typing: Any,
    data: Any,
    data_at: Any,
    weights: Any,
    weights_at: Any,
    biases: Any,
    biases_at: Any,
    rows: Any,
    rows_at: Any,
    shift: Any,
    sizes: Any,
) -> Stage:
    """Rows [C] += down(data·weights + biases, shift), held within MOST; as `activate`. sizes: literal (pairs, C)."""
    pairs, channels = (t.literal_value for t in sizes)
    signature = types.void(data, data_at, weights, weights_at, biases, biases_at, rows, rows_at, shift, sizes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data_, weights_, biases_, rows_ = _arrays(context, builder, sig, args, 0, 2, 4, 6)
        by = splat(builder, args[8], LANES)

        def tile(first: Any, count: int) -> None:
            places = [_plus(builder, first, number) for number in range(count)]
            begun = [biases_.number(c) for c in places]
            for c, total in zip(
                places, _sums(context, builder, data_, weights_, channels, pairs, first, begun), strict=True
            ):
                made = builder.add(rows_.row(c), builder.ashr(total, by))
                rows_.put(c, clamp(builder, made, -MOST, MOST))

        _tiles(builder, channels, tile)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def draw_fires(
    _typing: Any, seed: Any, address: Any, number: Any, block: Any, below: Any, out: Any, at: Any, stride: Any
) -> Stage:
    """out[at + stride·w + b] = 1 where word w of Philox block `block` + b is less than `below`, else 0.

    For b below BLOCK_LANES. All are of 64 bits but `out`, which is uint8; `address` is the counter's second word and
    `number` the sequence.
    """
    signature = types.void(seed, address, number, block, below, out, at, stride)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        seed_, address_, number_, block_, below_, out_, at_, stride_ = args
        lanes = ir.VectorType(I64, BLOCK_LANES)
        low, half = (ir.Constant(I64, value) for value in (0xFFFFFFFF, 32))
        wide = {value: constant(I64, value, BLOCK_LANES) for value in (0xFFFFFFFF, 32, philox.MUL_0, philox.MUL_1)}
        c0 = builder.add(splat(builder, block_, BLOCK_LANES), ir.Constant(lanes, list(range(BLOCK_LANES))))
        c1 = splat(builder, address_, BLOCK_LANES)
        c2 = splat(builder, builder.and_(number_, low), BLOCK_LANES)
        c3 = splat(builder, builder.lshr(number_, half), BLOCK_LANES)
        k0, k1 = builder.and_(seed_, low), builder.lshr(seed_, half)
        for _ in range(philox.ROUNDS):
            p0, p1 = builder.mul(c0, wide[philox.MUL_0]), builder.mul(c2, wide[philox.MUL_1])
            keys = [splat(builder, key, BLOCK_LANES) for key in (k0, k1)]
            c0 = builder.xor(builder.xor(builder.lshr(p1, wide[32]), c1), keys[0])
            c2 = builder.xor(builder.xor(builder.lshr(p0, wide[32]), c3), keys[1])
            c1, c3 = builder.and_(p1, wide[0xFFFFFFFF]), builder.and_(p0, wide[0xFFFFFFFF])
            k0 = builder.and_(builder.add(k0, ir.Constant(I64, philox.WEYL_0)), low)
            k1 = builder.and_(builder.add(k1, ir.Constant(I64, philox.WEYL_1)), low)
        bytes_ = ir.VectorType(I8, BLOCK_LANES)
        for word, value in enumerate((c0, c1, c2, c3)):
            place = builder.add(at_, builder.mul(stride_, ir.Constant(I64, word)))
            fires = builder.zext(builder.icmp_unsigned("<", value, splat(builder, below_, BLOCK_LANES)), bytes_)
            builder.store(fires, pointer(context, builder, sig.args[5], out_, place, bytes_), align=1)
        return context.get_dummy_value()

    return signature, codegen
