"""Next-token cross-entropy in float32, computed over chunks of tokens so that the logits are never held whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from trainer.products import linear

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
    return F.cross_entropy(linear(hidden_ND, head_VD).float(), targets_N, reduction="none")


@torch.no_grad()
def token_scores(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, limit: int | None = None
) -> tuple[Tensor, Tensor]:
    """Loss float32 [N] and whether the likeliest token is the target, bool [N]; for evaluation, without gradients."""
    step = chunk_tokens(head_VD, limit)
    losses, hits = [], []
    for hidden, targets in zip(hidden_ND.split(step), targets_N.split(step), strict=True):
        logits_NV = linear(hidden, head_VD).float()
        losses.append(F.cross_entropy(logits_NV, targets, reduction="none"))
        hits.append(logits_NV.argmax(dim=-1) == targets)
    return torch.cat(losses), torch.cat(hits)
