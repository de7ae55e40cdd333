"""How far what judged cells show is from what they should, and the scores that a reader understands."""

from __future__ import annotations

import torch
from torch import Tensor


def misses(shown_JB: Tensor, wanted_JB: Tensor) -> Tensor:
    """Half the squared distance to -1 or 1, summed over samples and averaged over judged cells; [] ."""
    return (shown_JB - wanted_JB).square().mean(0).sum() / 2


@torch.no_grad()
def accuracy(shown_JB: Tensor, wanted_JB: Tensor) -> Tensor:
    """The share of judged cells whose sign is right, by sample [B]."""
    return ((shown_JB > 0) == (wanted_JB > 0)).double().mean(0)


@torch.no_grad()
def overlap(shown_JB: Tensor, wanted_JB: Tensor) -> Tensor:
    """Intersection over union of the shown and the wanted shape, by sample [B]."""
    shown, wanted = shown_JB > 0, wanted_JB > 0
    return (shown & wanted).sum(0).double() / (shown | wanted).sum(0).clamp(min=1)
