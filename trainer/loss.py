"""Next-token cross-entropy in float32, computed over chunks of tokens so that the logits are never held whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from trainer.processor import in_threads
from trainer.products import in_float32, linear, weight_gradient

# Logits held at once: 2^24 float32 are 64 MiB. A vocabulary of 258 at 16 × 512 tokens fits in one chunk.
CHUNK_LOGITS = 2**24
# On a GPU a chunk of a few hundred tokens fills no matrix unit, and each adds a whole gradient of the head to the sum.
GPU_CHUNK_LOGITS = 2**27
# Compiled, logits and their gradients are 2 bytes each and nothing else is as large: a tenth of the GPU's memory.
BYTES_PER_COMPILED_LOGIT = 40


def chunk_tokens(head_VD: Tensor, limit: int | None = None, compiled: bool = False) -> int:
    """Tokens per chunk for this head, of at most ``limit`` logits (None: what suits its device)."""
    device = head_VD.device
    if limit is None and compiled:
        limit = torch.cuda.get_device_properties(device).total_memory // BYTES_PER_COMPILED_LOGIT
    if limit is None:
        limit = CHUNK_LOGITS if device.type == "cpu" else GPU_CHUNK_LOGITS
    return max(1, limit // head_VD.shape[0])


def token_losses(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, limit: int | None = None, compiled: bool = False
) -> Tensor:
    """-log softmax(hidden · headᵀ)[target] for each token: float32 [N], in nats.

    With more logits than ``limit`` (as in ``chunk_tokens``), each chunk's are computed again in the backward pass
    instead of being kept. ``compiled``, on a GPU only, lets torch.compile make the softmax one kernel.
    """
    compiled = compiled and hidden_ND.device.type == "cuda"
    losses = _compiled_losses() if compiled else _losses
    step = chunk_tokens(head_VD, limit, compiled)
    if hidden_ND.shape[0] <= step:
        return losses(hidden_ND, head_VD, targets_N)
    return torch.cat(
        [
            checkpoint(losses, hidden, head_VD, targets, use_reentrant=False, preserve_rng_state=False)
            for hidden, targets in zip(hidden_ND.split(step), targets_N.split(step), strict=True)
        ]
    )


@lru_cache(maxsize=1)
def _compiled_losses() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return torch.compile(_losses)


def _losses(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor) -> Tensor:
    if in_float32(hidden_ND, head_VD):
        losses_N: Tensor = _InOnePass.apply(hidden_ND, head_VD, targets_N)
        return losses_N
    return F.cross_entropy(linear(hidden_ND, head_VD).float(), targets_N, reduction="none")


class _InOnePass(torch.autograd.Function):
    """The same on a CPU: the gradient of the logits takes their place at once.

    A token's loss counts by a factor that the backward pass brings. It is common to all of its logits, so it is for the
    narrow factors of both products, and not for a second pass over the wide one.
    """

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor) -> Tensor:
        logits_NV = linear(hidden_ND, head_VD).contiguous()
        losses_N = _replace_by_gradient(logits_NV, targets_N)
        ctx.save_for_backward(logits_NV, hidden_ND, head_VD)
        return losses_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        slopes_NV, hidden_ND, head_VD = ctx.saved_tensors
        factor_N1 = grad_N[:, None]
        grad_hidden_ND = linear(slopes_NV, head_VD.t()) * factor_N1 if ctx.needs_input_grad[0] else None
        grad_head_VD = weight_gradient(slopes_NV, hidden_ND * factor_N1) if ctx.needs_input_grad[1] else None
        return grad_hidden_ND, grad_head_VD, None


def _replace_by_gradient(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Each row's loss, float32 [N]; its gradient by the logits, float32 and contiguous, takes their place."""
    count, vocab = logits_NV.shape
    if count and not 0 <= int(targets_N.min()) <= int(targets_N.max()) < vocab:
        raise IndexError(f"token {int(targets_N.max())} (least {int(targets_N.min())}): must be 0 to {vocab - 1}")
    losses_N = logits_NV.new_empty(count)
    arrays = (part.detach().contiguous().numpy() for part in (logits_NV.flatten(), targets_N, losses_N))
    in_threads(_losses_by_rows(), (*arrays, vocab), count)
    return losses_N


@lru_cache(maxsize=1)
def _losses_by_rows() -> Callable[..., int]:
    from trainer.loss_kernel import make_losses  # brings numba, which a GPU does without

    return make_losses()


@torch.no_grad()
def token_scores(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, limit: int | None = None
) -> tuple[Tensor, Tensor]:
    """Loss float32 [N] and whether the likeliest token is the target, bool [N]; for evaluation, without gradients."""
    step = chunk_tokens(head_VD, limit)
    losses, hits = [], []
    for hidden, targets in zip(hidden_ND.split(step), targets_N.split(step), strict=True):
        logits_NV = linear(hidden, head_VD).float().contiguous()
        hits.append(logits_NV.argmax(dim=-1) == targets)
        if in_float32(hidden, head_VD):
            losses.append(_replace_by_gradient(logits_NV, targets))
        else:
            losses.append(F.cross_entropy(logits_NV, targets, reduction="none"))
    return torch.cat(losses), torch.cat(hits)
