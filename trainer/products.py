"""Products with weights in float32 on a CPU: by a kernel of our own where it is faster than what PyTorch takes.

That is MKL, which leaves AVX-512 unused on processors of other makers. Measured: docs/decisions/0610.
"""

from __future__ import annotations

import ctypes
import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.native_threads import run_in_threads
from trainer.processor import HAS_AVX512

LEAST_PRODUCTS = 2**24
"""The fewest products of two numbers worth the call, which costs some ten microseconds more than PyTorch's."""

LEAST_WIDTH = 64
"""The narrowest matrix that the kernel is faster for."""

TILE_ROWS = 6
"""Rows that the kernel computes at once, and the fewest that it can."""


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x · weightᵀ over x's last axis, as ``F.linear``."""
    if not _suits(x, weight, *weight.shape):
        return F.linear(x, weight)
    y: Tensor = _linear(x.reshape(-1, x.shape[-1]), weight)
    return y.view(*x.shape[:-1], weight.shape[0])


def in_float32(x: Tensor, weight: Tensor) -> bool:
    """Whether their product is of float32, on a CPU."""
    float32 = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return float32 and x.device.type == "cpu"


def weight_gradient(grad_NO: Tensor, x_NI: Tensor) -> Tensor:
    """gradᵀ · x, the gradient of the weight in ``linear(x, weight)``."""
    if not _suits(x_NI, grad_NO, x_NI.shape[1], grad_NO.shape[1]):
        return grad_NO.t() @ x_NI
    return _multiplied(grad_NO.t(), x_NI)


def _suits(x: Tensor, other: Tensor, *widths: int) -> bool:
    if not HAS_AVX512 or min(widths) < LEAST_WIDTH:
        return False
    products = x.numel() // x.shape[-1] * math.prod(widths)
    return products >= LEAST_PRODUCTS and in_float32(x, other)


def _multiplied(a: Tensor, b: Tensor) -> Tensor:
    """a · b, whatever order they lie in."""
    (rows, inner), columns = a.shape, b.shape[1]
    if rows < TILE_ROWS or not inner:
        return a @ b
    if 1 not in b.stride():
        b = b.contiguous()
    c = a.new_empty(rows, columns)
    threads = min(torch.get_num_threads(), -(-rows // TILE_ROWS))
    places = a.data_ptr(), b.data_ptr(), c.data_ptr()
    given = [0, 0, threads, *places, rows, columns, inner, *a.stride(), *b.stride(), 0]
    numbers = (ctypes.c_int64 * len(given))(*given)
    run_in_threads(_kernel().address, ctypes.addressof(numbers), threads)
    if numbers[1] != threads:
        raise MemoryError(f"a product of {rows} × {inner} and {inner} × {columns} numbers")
    return c


@torch.library.custom_op("morphogen::product_of_rows", mutates_args=())
def _product(a: Tensor, b: Tensor) -> Tensor:
    return _multiplied(a, b)


@_product.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


@torch.library.custom_op("morphogen::product_with_weight", mutates_args=())
def _linear(x: Tensor, weight: Tensor) -> Tensor:
    return _multiplied(x, weight.t())


@_linear.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG001 - PyTorch names it
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    grad_x = _product(grad, weight) if ctx.needs_input_grad[0] else None
    return grad_x, _product(grad.t(), x) if ctx.needs_input_grad[1] else None


_linear.register_autograd(_gradient, setup_context=_keep)


@lru_cache(maxsize=1)
def _kernel() -> Any:
    from trainer.product_kernel import make_multiply  # brings numba, which a GPU does without

    return make_multiply()
