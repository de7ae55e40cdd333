"""Gradients of one step, in pieces: sums of the same losses as at once, so equal to rounding, at a piece's memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from trainer.parallel import exchanging
from trainer.precision import Precision, autocast


def accumulate(
    forward: nn.Module,
    tokens_BT: Tensor,
    weights_BT: Tensor | None,
    pieces: int,
    scale: float,
    precision: Precision,
) -> Tensor:
    """Add the gradient of ``scale`` · Σ weight · loss to every parameter; returns that sum unscaled, float64 [].

    ``tokens_BT`` int64 [B, T] is cut into ``pieces`` of nearly equal numbers of rows; ``weights_BT`` float32 [B, T-1]
    (None: all 1) says what counts. Ranks exchange gradients once, in the last piece's backward pass.
    """
    total = torch.zeros((), dtype=torch.float64, device=tokens_BT.device)
    for part_BT, part_weights_BT, last in _pieces(tokens_BT, weights_BT, pieces):
        with exchanging(forward, last):
            with autocast(precision, tokens_BT.device):
                losses_BT = forward(part_BT)
                nats = (losses_BT if part_weights_BT is None else losses_BT * part_weights_BT).sum()
            (nats * scale).backward()
        total += nats.detach()
    return total


def _pieces(tokens_BT: Tensor, weights_BT: Tensor | None, pieces: int) -> Iterator[tuple[Tensor, Tensor | None, bool]]:
    parts = tokens_BT.tensor_split(pieces)
    weights = [None] * pieces if weights_BT is None else weights_BT.tensor_split(pieces)
    for index, (part_BT, part_weights_BT) in enumerate(zip(parts, weights, strict=True)):
        yield part_BT, part_weights_BT, index == pieces - 1
