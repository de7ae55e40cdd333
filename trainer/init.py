"""Initial weights, each tensor drawn from its own generator keyed by (seed, tensor name).

Because no tensor's draw depends on another's, a model that receives some tensors from elsewhere is bit-equal to the
from-scratch model of the same seed in all the others, whatever their number, order or vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from trainer.config import ModelShape
from trainer.shards import local, wanted_rows

# Rows are drawn in blocks of about so many values, so that a rank that holds some of them never holds them all.
BLOCK_VALUES = 1 << 18

VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
VALUE_TABLES = "model.embed_values."
LOOKED_UP_STD = 0.02


def of_vocabulary(name: str) -> bool:
    """Whether a tensor has a row for each token."""
    return name in VOCABULARY or name.startswith(VALUE_TABLES)


def init_weights(model: nn.Module, shape: ModelShape, seed: int) -> None:
    """Fill ``model`` in place: norms 1, matrices N(0, 1/fan_in), residual outputs shrunk, tables N(0, 0.02²), gates 0.

    The two projections that write into the residual stream (o, down) are divided by sqrt(2·layers), so that the
    stream's variance does not grow with depth (Radford et al. 2019, GPT-2, section 2.3). The small head makes the first
    loss that of a uniform guess, log V. Of a tensor whose rows ranks share, this rank's rows get what they would have
    in the whole.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            held = local(parameter)
            if parameter.ndim == 1:
                held.fill_(1.0)
                continue
            if name.endswith("value_gate.weight"):
                held.zero_()
                continue
            looked_up = of_vocabulary(name) or name == "model.embed_positions.weight"
            std = LOOKED_UP_STD if looked_up else 1.0 / math.sqrt(parameter.shape[1])
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std /= math.sqrt(2 * shape.layers)
            start, stop = wanted_rows(parameter.shape, parameter)
            for first, rows in _normal_rows(seed, name, stop, parameter.shape[1]):
                skipped = max(0, start - first)
                if skipped < len(rows):
                    at = first + skipped - start
                    held[at : at + len(rows) - skipped].copy_(torch.from_numpy(rows[skipped:]) * std)


def _normal_rows(seed: int, name: str, stop: int, width: int) -> Iterator[tuple[int, np.ndarray]]:
    """Rows 0 … ``stop - 1`` of ``normal`` in blocks: (first row, float32 [rows, width])."""
    draws, block = _generator(seed, name), max(1, BLOCK_VALUES // width)
    for first in range(0, stop, block):
        yield first, draws.standard_normal((min(block, stop - first), width), dtype=np.float32)


def normal(seed: int, name: str, size: tuple[int, ...]) -> np.ndarray:
    """float32 standard normals of shape ``size``, a pure function of (seed, name): Philox keyed by their SHA-256.

    Rows are drawn in order, so a tensor with more rows (a larger vocabulary) begins with the rows of a smaller one.
    """
    return _generator(seed, name).standard_normal(size, dtype=np.float32)


def _generator(seed: int, name: str) -> np.random.Generator:
    key = np.frombuffer(hashlib.sha256(f"init:{seed}:{name}".encode()).digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key))
