"""Carrying weights from one model into another: what moves is a set of tensor names, the rest stays as it was drawn.

Embeddings and head never move: source and target speak different vocabularies.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainer.errors import TransferError
from trainer.init import VOCABULARY

ATTENTION = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight")


def transferable(name: str, what: str) -> bool:
    """Whether tensor ``name`` is part of ``what``: ``attn`` = q, k, v, o of every layer, ``all`` = not vocabulary."""
    if what == "attn":
        return name.endswith(ATTENTION)
    if what == "all":
        return name not in VOCABULARY
    raise TransferError(f"transfer.what = {what!r}: must be 'all' or 'attn'")


def transfer(model: nn.Module, source: Mapping[str, Tensor], what: str) -> list[str]:
    """Copy the tensors of ``what`` from ``source`` into ``model``, in place; returns their names in model order.

    TransferError, before anything is copied, when a tensor is missing on either side or differs in shape.
    """
    targets = {name: tensor for name, tensor in model.named_parameters() if transferable(name, what)}
    offered = {name for name in source if transferable(name, what)}
    if offered != targets.keys():
        name = min(offered ^ targets.keys())
        side = "source, not in the target" if name in offered else "target, not in the source"
        raise TransferError(
            f"transfer {what!r}: {name} is in the {side}; give both models the same number of layers and parts"
        )
    for name, target in targets.items():
        if source[name].shape != target.shape:
            raise TransferError(
                f"transfer {what!r}: {name} is {list(source[name].shape)} in the source and "
                f"{list(target.shape)} in the target; give both models the same dim, heads, kv_heads and ffn"
            )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(source[name])
    return list(targets)
