"""A second embedding of each token, added to the values that attention mixes: as in nanochat, on every other layer.

Layers that have one, the last among them, have a table each, of one row for each token and as wide as their values. A
gate says how much of it each key/value head takes: 2 · sigmoid of a product with the first channels of what the layer
reads, whose weights begin at zero, so that every gate begins at 1 (github.com/karpathy/nanochat; the idea of values
that go past the layers: Zhou et al. 2024, arXiv 2410.17897).

A table is of a vocabulary as the embedding is: drawn like it, moved by the rule that moves it, and carried over with it
alone. The gate is of the attention.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from trainer.config import ModelShape

GATE_CHANNELS = 32


def embedded_layers(shape: ModelShape) -> list[int]:
    """The layers that have a table."""
    return list(range((shape.layers - 1) % 2, shape.layers, 2)) if shape.value_embeddings else []


def value_tables(shape: ModelShape) -> nn.ModuleDict:
    """Their tables, by the layer's number."""
    width = shape.kv_heads * shape.head_dim
    return nn.ModuleDict({str(layer): nn.Embedding(shape.vocab_size, width) for layer in embedded_layers(shape)})


def value_gate(shape: ModelShape) -> nn.Linear:
    """A layer's gate, one product for each key/value head."""
    return nn.Linear(min(GATE_CHANNELS, shape.dim), shape.kv_heads, bias=False)


def gated(gate: nn.Linear, x_BTD: Tensor, embedded_BTC: Tensor, like_BTKE: Tensor) -> Tensor:
    """What is added to a layer's values ``like_BTKE``, where it reads ``x_BTD``."""
    gate_BTK = 2 * F.linear(x_BTD[..., : gate.in_features], gate.weight).sigmoid()
    return (gate_BTK[..., None] * embedded_BTC.view_as(like_BTKE)).to(like_BTKE.dtype)
