"""Attention on a CPU: by two kernels of our own, for narrow heads and for wide ones, or by PyTorch's means.

PyTorch's own lays its vectors along a head, and is several times as slow where a head fills none: small models, of
which experiments train dozens, have such heads (4 of them at width 16 or 32). In float32 it takes twice the time of
products in tiles (``trainer.tiled_attention``); in bfloat16 it is slower still, unless the processor has AMX. Short
sequences in bfloat16 that a compiler is at work on are best served by plain matrix products. Measured:
docs/decisions/0599, 0601 and 0607.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.processor import HAS_AMX, in_threads
from trainer.tiled_attention import attend, has_tiles

NARROW = 8
"""The widest head that the kernel is faster for, at any length."""

SLOW_IN_BF16 = 64
"""The widest head that PyTorch's attention is slower for in bfloat16 than in float32, without AMX."""

SHORT = 512
"""The longest sequence whose weights are held whole, [B, H, T, T], where they are compiled."""

PIECES = 2
"""Queries are taken in so many pieces, each with the keys up to its last: 3/4 of the products instead of all."""


def cpu_attention(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, mask: Tensor | None) -> Tensor:
    """Attention softmax(q·kᵀ/sqrt(E))·v: [B, T, H, E], of v's dtype.

    Causal, or as ``mask`` has it (bool, broadcast to [B, H, T, T]). Each of the K heads of keys and values serves H/K
    heads of queries.
    """
    width, dtype = q_BTHE.shape[-1], v_BTKE.dtype
    if mask is None and width <= NARROW and q_BTHE.shape[2] == k_BTKE.shape[2]:
        own = [part.float().contiguous() for part in (q_BTHE, k_BTKE, v_BTKE)]
        return _attend(*own)[0].to(dtype)
    in_float32 = dtype != torch.bfloat16 or (width <= SLOW_IN_BF16 and not HAS_AMX)
    by_products = torch.compiler.is_compiling() and q_BTHE.shape[1] <= SHORT
    if mask is None and has_tiles(width) and in_float32 and not (by_products and dtype == torch.bfloat16):
        return attend(q_BTHE.float(), k_BTKE.float(), v_BTKE.float()).to(dtype)
    if mask is None and by_products:
        return _by_products(q_BTHE, k_BTKE, v_BTKE)
    q_BHTE, k_BKTE, v_BKTE = q_BTHE.transpose(1, 2), k_BTKE.transpose(1, 2), v_BTKE.transpose(1, 2)
    if dtype != torch.bfloat16 or not in_float32:
        return _by_torch(q_BHTE, k_BKTE, v_BKTE, mask)
    with torch.autocast("cpu", enabled=False):
        return _by_torch(q_BHTE.float(), k_BKTE.float(), v_BKTE.float(), mask).to(dtype)


def _by_products(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor) -> Tensor:
    """The formula, causal: products in v's dtype, softmax in float32. Of any length by one graph."""
    length, groups, dtype = q_BTHE.shape[1], q_BTHE.shape[2] // k_BTKE.shape[2], v_BTKE.dtype
    if groups > 1:
        k_BTKE, v_BTKE = k_BTKE.repeat_interleave(groups, dim=2), v_BTKE.repeat_interleave(groups, dim=2)
    q_BHTE = (q_BTHE * q_BTHE.shape[3] ** -0.5).to(dtype).transpose(1, 2)
    k_BHET, v_BHTE = k_BTKE.to(dtype).permute(0, 2, 3, 1), v_BTKE.transpose(1, 2)
    pieces = PIECES if length >= 32 * PIECES else 1
    edges = [length * number // pieces for number in range(pieces + 1)]
    out = []
    for first, last in pairwise(edges):
        scores_BHTS = torch.matmul(q_BHTE[:, :, first:last], k_BHET[..., :last]).float()
        allowed_TS = torch.arange(last) <= torch.arange(first, last)[:, None]
        weights_BHTS = scores_BHTS.masked_fill(~allowed_TS, -math.inf).softmax(dim=-1)
        out.append(torch.matmul(weights_BHTS.to(dtype), v_BHTE[:, :, :last]))
    return torch.cat(out, dim=2).transpose(1, 2)


def _by_torch(q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, mask: Tensor | None) -> Tensor:
    grouped = q_BHTE.shape[1] != k_BKTE.shape[1]
    y_BHTE = F.scaled_dot_product_attention(
        q_BHTE, k_BKTE, v_BKTE, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
    )
    return y_BHTE.transpose(1, 2)


@torch.library.custom_op("morphogen::narrow_attention", mutates_args=())
def _attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """out, of three float32 tensors [B, T, H, E], and rows [B, T, H, 2], which its gradient needs."""
    out, rows = torch.empty_like(q), q.new_empty(*q.shape[:3], 2)
    _run(_kernels(q.shape[3])[0], q, k, v, out, rows)
    return out, rows


@_attend.register_fake
def _(q: Tensor, _k: Tensor, _v: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(*q.shape[:3], 2)


@torch.library.custom_op("morphogen::narrow_attention_backward", mutates_args=())
def _attend_back(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, rows: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, for ``grad`` of out."""
    grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    _run(_kernels(q.shape[3])[1], q, k, v, out, rows, grad, *grads)
    return grads


@_attend_back.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, _out: Tensor, _rows: Tensor, _grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _gradient(ctx: Any, grad: Tensor, _rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    grads: tuple[Tensor, Tensor, Tensor] = _attend_back(*ctx.saved_tensors, grad.contiguous())
    return grads


_attend.register_autograd(_gradient, setup_context=_keep)


@lru_cache(maxsize=NARROW)
def _kernels(width: int) -> tuple[Callable[..., int], Callable[..., int]]:
    from trainer import narrow_kernel  # brings numba, which a model of wider heads does without

    return narrow_kernel.make_forward(width), narrow_kernel.make_backward(width)


def _run(kernel: Callable[..., int], *tensors: Tensor) -> None:
    from trainer.narrow_kernel import LANES

    batch, _, heads, _ = tensors[0].shape
    in_threads(kernel, tuple(tensor.detach().numpy() for tensor in tensors), -(-batch * heads // LANES))
