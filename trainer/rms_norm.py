"""RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467): PyTorch's own, or on a CPU a backward pass by hand.

PyTorch fuses it on a GPU and makes it of single operations on a CPU, whose gradients then take most of its time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def rms_norm(x_BTD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight over the last axis, of x's dtype; sums are in float32 or better."""
    by_hand = x_BTD.device.type == "cpu" and x_BTD.dtype == weight_D.dtype and not torch.compiler.is_compiling()
    if not by_hand:
        return F.rms_norm(x_BTD, (x_BTD.shape[-1],), weight_D, eps)
    normed: Tensor = _RmsNorm.apply(x_BTD, weight_D, eps)
    return normed


class _RmsNorm(torch.autograd.Function):
    """With n = x / rms and g the gradient of n · w: that of w is Σ g·n, that of x (g·w - n · mean(g·w·n)) / rms."""

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        scale_BT1 = torch.linalg.vector_norm(x_BTD, dim=-1, keepdim=True).square_()
        scale_BT1.mul_(1 / x_BTD.shape[-1]).add_(eps).rsqrt_()
        normed_BTD = x_BTD * scale_BT1
        ctx.save_for_backward(normed_BTD, weight_D, scale_BT1)
        return normed_BTD * weight_D

    @staticmethod
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[Tensor, Tensor, None]:
        normed_BTD, weight_D, scale_BT1 = ctx.saved_tensors
        dim = weight_D.shape[0]
        products_ND = (grad_BTD * normed_BTD).view(-1, dim)
        along_BT1 = torch.mv(products_ND, weight_D).view_as(scale_BT1)
        grad_x_BTD = (grad_BTD * weight_D).addcmul_(normed_BTD, along_BT1, value=-1 / dim).mul_(scale_BT1)
        return grad_x_BTD, products_ND.sum(0), None
