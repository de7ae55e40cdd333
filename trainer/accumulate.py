"""Gradients of one step, in pieces: sums of the same losses as at once, so equal to rounding, at a piece's memory."""

from __future__ import annotations

from collections.abc import Sequence

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
    documents_BT: Tensor | None = None,
) -> Tensor:
    """Add the gradient of ``scale`` · Σ weight · loss to every parameter; returns that sum unscaled, float64 [].

    ``tokens_BT`` int64 [B, T] is cut into ``pieces`` of nearly equal numbers of rows; ``weights_BT`` float32 [B, T-1]
    (None: all 1) says what counts, ``documents_BT`` int64 [B, T] which document each token belongs to (None: does not
    matter). Ranks exchange gradients once, in the last piece's backward pass.
    """
    total = torch.zeros((), dtype=torch.float64, device=tokens_BT.device)
    parts = zip(*(_pieces(each, pieces) for each in (tokens_BT, weights_BT, documents_BT)), strict=True)
    for index, (part_BT, part_weights_BT, part_documents_BT) in enumerate(parts):
        with exchanging(forward, index == pieces - 1):
            with autocast(precision, tokens_BT.device):
                losses_BT = forward(part_BT) if part_documents_BT is None else forward(part_BT, part_documents_BT)
                nats = (losses_BT if part_weights_BT is None else losses_BT * part_weights_BT).sum()
            (nats * scale).backward()
        total += nats.detach()
    return total


def _pieces(rows: Tensor | None, pieces: int) -> Sequence[Tensor | None]:
    return [None] * pieces if rows is None else rows.tensor_split(pieces)
