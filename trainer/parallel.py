"""One model on several ranks: whole on each of them (DDP), or each tensor's rows shared among them (FSDP2).

Both average gradients over ranks and give the same losses to rounding, so which of them a job uses is no part of what
its run is: a run may go on with the other.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from trainer.errors import ConfigError
from trainer.model import Llama
from trainer.precision import Precision, autocast
from trainer.ranks import Ranks
from trainer.shards import whole

Parallel = Literal["ddp", "fsdp"]


def place_model(model: Llama, parallel: Parallel, ranks: Ranks, compiled: bool) -> None:
    """Give ``model`` (still ``empty``) memory on this rank's device: all of it, or its share of each tensor's rows.

    Under "fsdp" no rank holds more than its share and the block that it computes with, which gathers its weights,
    forward and backward, and lets go of them right after.
    """
    if parallel not in ("ddp", "fsdp"):
        raise ConfigError(f"parallel = {parallel!r}: must be 'ddp' or 'fsdp'")
    if compiled:
        model.compile_blocks()
    if parallel == "ddp" or ranks.world == 1:
        model.allocate(ranks.device)
        return
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    for layer in (*model.model.layers, *model.model.embed_values.values()):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    # Weights that stayed gathered after an evaluation would hide the average that is shown in their place.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for name in ("scores", "logits"):
        register_fsdp_forward_method(model, name)
    model.allocate(ranks.device)


def over_ranks(model: Llama, ranks: Ranks, precision: Precision) -> nn.Module:
    """The forward pass of all ranks: its gradients are the average over ranks of each rank's own."""
    if ranks.world == 1 or isinstance(model, FSDPModule):
        return model
    device = ranks.device
    forward = DistributedDataParallel(
        model, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
    )
    # DDP regroups its buckets after its first backward pass, and with more than two ranks the grouping decides the
    # order of additions. One pass for nothing makes every real step, first of an attempt or not, see the same.
    with autocast(precision, device):
        nothing = forward(torch.zeros(1, 2, dtype=torch.int64, device=device)).sum()
    nothing.backward()
    model.zero_grad(set_to_none=True)
    return forward


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Shrink all gradients so that their common norm, over all ranks' rows, is at most ``max_norm``; what it was."""
    return float(whole(torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)))


def exchanging(forward: nn.Module, wanted: bool) -> AbstractContextManager[object]:
    """A forward and backward pass in which ranks average their gradients, or in which each only adds to its own."""
    if isinstance(forward, FSDPModule):
        forward.set_requires_gradient_sync(wanted)
    elif isinstance(forward, DistributedDataParallel) and not wanted:
        return forward.no_sync()
    return nullcontext()
