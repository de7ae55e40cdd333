"""Causal attention of narrow heads as vector code: one lane of a vector is one head of one sequence.

A head of 4 to 16 numbers fills no vector by itself, and libraries that lay vectors along it compute mostly nothing.
Here LANES heads, of as many sequences as it takes, are laid side by side, and each is worked out by itself.

A *block* is a flat float32 array [T, E, LANES] of queries (scaled), keys, values or their gradients. Softmax is
computed row by row in float32, its weights never held whole: what is kept of a row is its maximum and the inverse of
its sum (as in Dao et al. 2022, arXiv 2205.14135, without the tiles, which short sequences do not need).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from generator import vector_code
from generator.machine_code import checksum, compiled
from generator.vector_code import I64, load, pointer
from trainer import vectors
from trainer.vectors import LANES, ROW, Code, Slots, Vectors, alike

_SOURCES = checksum(vector_code, vectors)


class _Block:
    """A block in memory: ``rows(t)`` are the ``width`` rows of position t."""

    def __init__(self, context: Any, builder: Any, kind: Any, array: Any, width: int) -> None:
        self._builder, self._width = builder, width
        self._first = pointer(context, builder, kind, array, ir.Constant(I64, 0), ROW)

    def _place(self, position: Any, number: int) -> Any:
        index = self._builder.add(self._builder.mul(position, ir.Constant(I64, self._width)), ir.Constant(I64, number))
        return self._builder.gep(self._first, [index])

    def rows(self, position: Any) -> list[Any]:
        return [load(self._builder, self._place(position, number)) for number in range(self._width)]

    def put(self, position: Any, rows: list[Any]) -> None:
        for number, row in enumerate(rows):
            self._builder.store(row, self._place(position, number), align=1)


def _blocks(context: Any, builder: Any, sig: Any, args: Any, widths: list[int]) -> list[_Block]:
    return [
        _Block(context, builder, kind, array, width) for kind, array, width in zip(sig.args, args, widths, strict=False)
    ]


@intrinsic(prefer_literal=True)
def _attend(_typing: Any, q: Any, k: Any, v: Any, out: Any, rows: Any, scores: Any, length: Any, width: Any) -> Code:
    """out [T, E] of q, k, v [T, E], and rows [T, 2]: each position's maximum and inverse sum. scores [T] is scratch."""
    e = width.literal_value
    signature = types.void(q, k, v, out, rows, scores, length, width)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        q_, k_, v_, out_, rows_, scores_ = _blocks(context, builder, sig, args, [e, e, e, e, 2, 1])
        does = Vectors(builder)
        highest, total, mixed = Slots(does, 1), Slots(does, 1), Slots(does, e)
        with cgutils.for_range(builder, args[6]) as t:
            asked = q_.rows(t.index)
            seen = builder.add(t.index, ir.Constant(I64, 1))
            highest.begin(-math.inf)
            with cgutils.for_range(builder, seen) as s:
                score = does.dot(asked, k_.rows(s.index))
                scores_.put(s.index, [score])
                highest.put([does.larger(score, *highest.get())])
            (top,) = highest.get()
            total.begin()
            mixed.begin()
            with cgutils.for_range(builder, seen) as s:
                weight = does.exp(does.sub(scores_.rows(s.index)[0], top))
                total.put([does.add(total.get()[0], weight)])
                values = v_.rows(s.index)
                mixed.put([does.add(a, does.mul(weight, b)) for a, b in zip(mixed.get(), values, strict=True)])
            inverse = builder.fdiv(alike(1.0), *total.get())
            out_.put(t.index, [does.mul(row, inverse) for row in mixed.get()])
            rows_.put(t.index, [top, inverse])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def _attend_back(
    _typing: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    rows: Any,
    grad: Any,
    grad_q: Any,
    grad_k: Any,
    grad_v: Any,
    length: Any,
    width: Any,
) -> Code:
    """grad_q, of the scaled queries, and what is added to grad_k and grad_v, for grad of `_attend`'s out."""
    e = width.literal_value
    signature = types.void(q, k, v, out, rows, grad, grad_q, grad_k, grad_v, length, width)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        q_, k_, v_, out_, rows_, grad_, grad_q_, grad_k_, grad_v_ = _blocks(
            context, builder, sig, args, [e, e, e, e, 2, e, e, e, e]
        )
        does = Vectors(builder)
        towards = Slots(does, e)

        def plus(old: list[Any], factor: Any, by: list[Any]) -> list[Any]:
            return [does.add(a, does.mul(factor, b)) for a, b in zip(old, by, strict=True)]

        with cgutils.for_range(builder, args[9]) as t:
            asked, wanted = q_.rows(t.index), grad_.rows(t.index)
            top, inverse = rows_.rows(t.index)
            mean = does.dot(wanted, out_.rows(t.index))
            towards.begin()
            with cgutils.for_range(builder, builder.add(t.index, ir.Constant(I64, 1))) as s:
                keys = k_.rows(s.index)
                weight = does.mul(does.exp(does.sub(does.dot(asked, keys), top)), inverse)
                slope = does.mul(weight, does.sub(does.dot(wanted, v_.rows(s.index)), mean))
                towards.put(plus(towards.get(), slope, keys))
                grad_k_.put(s.index, plus(grad_k_.rows(s.index), slope, asked))
                grad_v_.put(s.index, plus(grad_v_.rows(s.index), weight, wanted))
            grad_q_.put(t.index, towards.get())
        return context.get_dummy_value()

    return signature, codegen


# Their first argument, the compiler's, is given by numba. Names of the module, since kept code is found again by what a
# closure holds, and an intrinsic in it is another in each process.
_run_attend: Any = _attend
_run_attend_back: Any = _attend_back


@numba.njit(nogil=True, inline="always")
def _gather(x: np.ndarray, block: int, factor: np.float32, out: np.ndarray) -> None:
    """The heads of a block out of x [B, T, H, E], times ``factor``; lanes past the last head stay as they are."""
    batch, length, heads, width = x.shape
    for lane in range(min(LANES, batch * heads - block * LANES)):
        b, h = divmod(block * LANES + lane, heads)
        for t in range(length):
            for e in range(width):
                out[(t * width + e) * LANES + lane] = x[b, t, h, e] * factor


@numba.njit(nogil=True, inline="always")
def _scatter(block_of: np.ndarray, block: int, factor: np.float32, out: np.ndarray) -> None:
    """The inverse of `_gather`, times ``factor``."""
    batch, length, heads, width = out.shape
    for lane in range(min(LANES, batch * heads - block * LANES)):
        b, h = divmod(block * LANES + lane, heads)
        for t in range(length):
            for e in range(width):
                out[b, t, h, e] = block_of[(t * width + e) * LANES + lane] * factor


def make_forward(width: int) -> Callable[..., int]:
    """``forward(q, k, v, out, rows, first, last)`` for heads of ``width`` numbers.

    Computes the blocks ``first`` … ``last`` - 1 of contiguous float32 arrays [B, T, H, E], which have
    ceil(B · H / LANES) of them; rows, float32 [B, T, H, 2], is for the backward pass.
    Returns a checksum of the sources that it is compiled from.
    """
    sources = _SOURCES

    def forward(
        q: np.ndarray, k: np.ndarray, v: np.ndarray, out: np.ndarray, rows: np.ndarray, first: int, last: int
    ) -> int:
        length = q.shape[1]
        size = length * width * LANES
        q_, k_, v_ = np.zeros(size, np.float32), np.zeros(size, np.float32), np.zeros(size, np.float32)
        out_, rows_ = np.empty(size, np.float32), np.empty(length * 2 * LANES, np.float32)
        scores_ = np.empty(length * LANES, np.float32)
        one, scale = np.float32(1.0), np.float32(1.0 / math.sqrt(width))
        for block in range(first, last):
            _gather(q, block, scale, q_)
            _gather(k, block, one, k_)
            _gather(v, block, one, v_)
            _run_attend(q_, k_, v_, out_, rows_, scores_, length, width)
            _scatter(out_, block, one, out)
            _scatter(rows_, block, one, rows)
        return sources

    return compiled(forward)


def make_backward(width: int) -> Callable[..., int]:
    """``backward(q, k, v, out, rows, grad, grad_q, grad_k, grad_v, first, last)``; arrays as in ``make_forward``."""
    sources = _SOURCES

    def backward(
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        out: np.ndarray,
        rows: np.ndarray,
        grad: np.ndarray,
        grad_q: np.ndarray,
        grad_k: np.ndarray,
        grad_v: np.ndarray,
        first: int,
        last: int,
    ) -> int:
        length = q.shape[1]
        size = length * width * LANES
        q_, k_, v_ = np.zeros(size, np.float32), np.zeros(size, np.float32), np.zeros(size, np.float32)
        out_, grad_ = np.zeros(size, np.float32), np.zeros(size, np.float32)
        rows_ = np.zeros(length * 2 * LANES, np.float32)
        grad_q_, grad_k_, grad_v_ = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
        one, scale = np.float32(1.0), np.float32(1.0 / math.sqrt(width))
        for block in range(first, last):
            _gather(q, block, scale, q_)
            _gather(k, block, one, k_)
            _gather(v, block, one, v_)
            _gather(out, block, one, out_)
            _gather(rows, block, one, rows_)
            _gather(grad, block, one, grad_)
            grad_k_[:] = 0.0
            grad_v_[:] = 0.0
            _run_attend_back(q_, k_, v_, out_, rows_, grad_, grad_q_, grad_k_, grad_v_, length, width)
            _scatter(grad_q_, block, scale, grad_q)
            _scatter(grad_k_, block, one, grad_k)
            _scatter(grad_v_, block, one, grad_v)
        return sources

    return compiled(backward)
