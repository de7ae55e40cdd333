"""The optimiser, with every parameter in exactly one named group.

Only matrices that mix features are decayed. Embedding rows and norm gains are not: a row that is rarely seen would
shrink for nothing, and a gain of zero switches its channel off.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from trainer.config import OptimizerConfig


@dataclass(frozen=True)
class Group:
    """A named set of parameters that share their decay."""

    name: str
    parameters: tuple[str, ...]
    decayed: bool


def parameter_groups(model: nn.Module) -> list[Group]:
    """Groups ``hidden``, ``head``, ``embedding``, ``norm`` (empty ones left out), names in model order.

    A tied head is one tensor with the embedding and belongs to ``embedding``.
    """
    names: dict[str, list[str]] = {"hidden": [], "head": [], "embedding": [], "norm": []}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            kind = "norm"
        elif "embed_tokens" in name:
            kind = "embedding"
        else:
            kind = "head" if name.startswith("lm_head") else "hidden"
        names[kind].append(name)
    return [Group(kind, tuple(members), kind in ("hidden", "head")) for kind, members in names.items() if members]


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Fused AdamW over ``parameter_groups``; each group carries its ``name`` and ``parameter_names``."""
    parameters = dict(model.named_parameters())
    return torch.optim.AdamW(
        [
            {
                "params": [parameters[name] for name in group.parameters],
                "name": group.name,
                "parameter_names": group.parameters,
                "weight_decay": config.weight_decay if group.decayed else 0.0,
            }
            for group in parameter_groups(model)
        ],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr
