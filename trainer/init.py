"""Initial weights, each tensor drawn from its own generator keyed by (seed, tensor name).

Because no tensor's draw depends on another's, a model that receives some tensors from elsewhere is bit-equal to the
from-scratch model of the same seed in all the others, whatever their number, order or vocabulary.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import nn

from trainer.config import ModelShape

VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
VOCABULARY_STD = 0.02


def init_weights(model: nn.Module, shape: ModelShape, seed: int) -> None:
    """Fill ``model`` in place: norms 1, matrices N(0, 1/fan_in), residual outputs shrunk, vocabulary N(0, 0.02²).

    The two projections that write into the residual stream (o, down) are divided by sqrt(2·layers), so that the
    stream's variance does not grow with depth (Radford et al. 2019, GPT-2, section 2.3). The small head makes the first
    loss that of a uniform guess, log V.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
                continue
            std = VOCABULARY_STD if name in VOCABULARY else 1.0 / math.sqrt(parameter.shape[1])
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std /= math.sqrt(2 * shape.layers)
            parameter.copy_(torch.from_numpy(normal(seed, name, tuple(parameter.shape))) * std)


def normal(seed: int, name: str, size: tuple[int, ...]) -> np.ndarray:
    """float32 standard normals of shape ``size``, a pure function of (seed, name): Philox keyed by their SHA-256.

    Rows are drawn in order, so a tensor with more rows (a larger vocabulary) begins with the rows of a smaller one.
    """
    key = np.frombuffer(hashlib.sha256(f"init:{seed}:{name}".encode()).digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key)).standard_normal(size, dtype=np.float32)
