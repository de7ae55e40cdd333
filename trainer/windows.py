"""Who attends to whom: each token to itself and what came before it, less what another document or a window leaves out.

A window of w tokens is a token itself and the w - 1 before it. Layers take their windows from a pattern of letters that
is repeated over them, S for the window and L for everything, as in nanochat and the models before it that alternate
(Beltagy et al. 2020, arXiv 2004.05150; Gemma 2, arXiv 2408.00118). The last layer is always long: what is predicted may
depend on the whole row.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from trainer.config import ModelShape

Mask = Tensor | BlockMask | None
"""What ``attention_mask`` gives; None: each token to itself and all before it."""


def layer_windows(shape: ModelShape) -> list[int | None]:
    """The window of each layer, None for one that sees all."""
    if shape.window_pattern is None:
        return [None] * shape.layers
    letters = (shape.window_pattern[layer % len(shape.window_pattern)] for layer in range(shape.layers - 1))
    return [*(shape.window if letter == "S" else None for letter in letters), None]


def attention_mask(length: int, device: torch.device, documents_BT: Tensor | None, window: int | None) -> Mask:
    """The mask of ``length`` tokens: within a document where ``documents_BT`` (int64 [B, T]) numbers them, and within
    ``window`` tokens where there is one.

    bool [B or 1, 1, T, T], True where it attends; on a GPU the blocks that FlexAttention computes, so that neither
    time nor memory is spent on the rest.
    """
    if window is not None and window >= length:
        window = None
    if documents_BT is None:
        return None if window is None else _windowed(length, device, window)
    if device.type == "cuda":
        return _document_blocks(documents_BT, window)
    return (documents_BT[:, :, None] == documents_BT[:, None, :])[:, None] & within(length, device, window)


def within(length: int, device: torch.device, window: int | None) -> Tensor:
    """bool [T, T]: whether a token (row) attends to another (column), by their places alone."""
    earlier_TT = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return earlier_TT if window is None else earlier_TT.triu(1 - window)


@lru_cache(maxsize=4)
def _windowed(length: int, device: torch.device, window: int) -> Tensor | BlockMask:
    """The mask of every row alike. It depends on nothing else, so that a step does not make it anew."""
    if device.type != "cuda":
        return within(length, device, window)[None, None]

    def attends(_b: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key < window)

    return create_block_mask(attends, None, None, length, length, device=device)


def _document_blocks(documents_BT: Tensor, window: int | None) -> BlockMask:
    batch, length = documents_BT.shape
    reach = length if window is None else window

    def attends(b: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near = (query >= key) & (query - key < reach)
        return near & (documents_BT[b, query] == documents_BT[b, key])

    return create_block_mask(attends, batch, None, length, length, device=documents_BT.device)
