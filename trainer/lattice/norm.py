"""The two normalisations, forward and backward, over the last axis and without gain or bias."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-5
TINY = 1 / 64  # the least mean magnitude that ``shift`` enlarges to 1: silence stays near silence


def normalise(kind: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x̂ and what ``backward`` needs of it: mean and reciprocal deviation (``layer``), or the factor twice (``shift``).

    ``shift`` multiplies by the power of two that brings the mean magnitude into [1/2, 1), at most 1/TINY.
    """
    if kind == "layer":
        return torch.native_layer_norm(x, x.shape[-1:], None, None, EPS)
    mean = x.detach().abs().mean(-1, keepdim=True, dtype=torch.float32).clamp_(min=TINY)
    mantissa, _ = torch.frexp(mean)
    factor = (mantissa / mean).to(x.dtype)  # exactly a power of two
    return x * factor, factor, factor


def normalise_back(kind: str, grad: Tensor, x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """The gradient at x of ``grad`` at x̂; a power of two counts as constant."""
    if kind == "layer":
        return torch.ops.aten.native_layer_norm_backward(
            grad, x, x.shape[-1:], mean, scale, None, None, [True, False, False]
        )[0]
    return grad * scale
