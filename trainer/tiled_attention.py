"""The operator of PyTorch that ``trainer.tiled_kernel`` computes: causal attention in float32 on a CPU.

PyTorch keeps compiled code on disk, and knows an operator in it by its name alone: should the shape of what one gives
change, its name has to, or that code finds what it does not expect and fails.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from trainer.processor import HAS_AVX512, in_threads

UNIT = 16
"""Heads are made of so many numbers, or of a multiple of it up to WIDEST."""

WIDEST = 128


def has_tiles(width: int) -> bool:
    """Whether the kernel is for heads of ``width`` numbers on this processor: with fewer registers it would be slow."""
    return HAS_AVX512 and width % UNIT == 0 and width <= WIDEST


def attend(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor) -> Tensor:
    """softmax(q·kᵀ/sqrt(E))·v, causal: float32 [B, T, H, E]. Each head of keys serves H/K heads of queries."""
    out_BTHE: Tensor = _attend(q_BTHE, k_BTKE, v_BTKE)[0]
    return out_BTHE


@torch.library.custom_op("morphogen::attention_in_tiles", mutates_args=())
def _attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """out, and rows, which its gradient needs."""
    out, rows = q.new_empty(q.shape), _rows(q)
    read = [_dense(part) for part in (q, k, v)]
    _run(0, read, [out, rows], read)
    return out, rows


@_attend.register_fake
def _(q: Tensor, _k: Tensor, _v: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), _rows(q)


@torch.library.custom_op("morphogen::attention_in_tiles_backward", mutates_args=())
def _attend_back(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, rows: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, for ``grad`` of out."""
    grads = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
    read = [_dense(part) for part in (q, k, v, grad)]
    _run(1, [*read, out, rows], list(grads), read)
    return grads


@_attend_back.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, _out: Tensor, _rows: Tensor, _grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _rows(q: Tensor) -> Tensor:
    """[B, H, 2, T], T up to a multiple of UNIT: of each query's scores the largest, and the inverse of its sum."""
    batch, length, heads, _ = q.shape
    return q.new_empty(batch, heads, 2, -(-length // UNIT) * UNIT)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _gradient(ctx: Any, grad: Tensor, _rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    grads: tuple[Tensor, Tensor, Tensor] = _attend_back(*ctx.saved_tensors, grad)
    return grads


_attend.register_autograd(_gradient, setup_context=_keep)


@lru_cache(maxsize=1)
def _kernels() -> tuple[Callable[..., int], Callable[..., int]]:
    from trainer import tiled_kernel  # brings numba, which a model without such heads does without

    return tiled_kernel.make_forward(), tiled_kernel.make_backward()


def _dense(part: Tensor) -> Tensor:
    """``part`` with the numbers of a head one after another; what is between heads does not matter."""
    return part if part.stride(-1) == 1 else part.contiguous()


def _run(which: int, read: list[Tensor], made: list[Tensor], strided: list[Tensor]) -> None:
    batch, length, heads, width = strided[0].shape
    kv_heads = strided[1].shape[2]
    steps = tuple(step for part in strided for step in part.stride()[:3])
    arrays = tuple(_flat(part) for part in (*read, *made))
    in_threads(_kernels()[which], (*arrays, length, heads, kv_heads, width, steps), batch * kv_heads)


def _flat(part: Tensor) -> Any:
    """What ``part`` covers of memory, as an array of one dimension: the kernel knows the way by the strides."""
    span = 1 + sum((size - 1) * step for size, step in zip(part.shape, part.stride(), strict=True))
    return part.detach().as_strided((span,), (1,)).numpy()
