"""Products with weights in float32 on a CPU: by oneDNN where it is faster than what PyTorch takes, which is MKL.

MKL leaves AVX-512 unused on processors of other makers. Measured: docs/decisions/0606.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.processor import HAS_AVX512

LEAST_ROWS = 256
"""The fewest rows worth the call, which costs ten microseconds more than PyTorch's."""

LEAST_WIDTH = 64
"""The narrowest matrix that oneDNN is faster for."""

_product: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)

HAS_ONEDNN = _product is not None and torch.backends.mkldnn.is_available()


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x · weightᵀ over x's last axis, as ``F.linear``."""
    if not _suits(x, weight):
        return F.linear(x, weight)
    y: Tensor = _linear(x.reshape(-1, x.shape[-1]), weight)
    return y.view(*x.shape[:-1], weight.shape[0])


def in_float32(x: Tensor, weight: Tensor) -> bool:
    """Whether their product is of float32, on a CPU."""
    float32 = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return float32 and x.device.type == "cpu"


def _suits(x: Tensor, weight: Tensor) -> bool:
    return (
        HAS_ONEDNN
        and HAS_AVX512
        and in_float32(x, weight)
        and min(weight.shape) >= LEAST_WIDTH
        and x.numel() >= LEAST_ROWS * x.shape[-1]
    )


@torch.library.custom_op("morphogen::linear", mutates_args=())
def _linear(x: Tensor, weight: Tensor) -> Tensor:
    return _product(x, weight, None, "none", [], "")


@_linear.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG001 - PyTorch names it
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    grad_x = _linear(grad, weight.t()) if ctx.needs_input_grad[0] else None
    return grad_x, grad.t() @ x if ctx.needs_input_grad[1] else None


_linear.register_autograd(_gradient, setup_context=_keep)
