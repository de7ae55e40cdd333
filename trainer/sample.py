"""Sampling from our own model: sample i of a prompt is a pure function of (weights, prompt, seed, i) on one machine.

Keys and values of past positions are kept, so a token costs one position. Samples are computed in groups of one size,
whatever their number: matrix products of one shape round the same way every time, and so sample i is the same in a run
of ten as in a run of a hundred.

Axes: B rows of a group, T positions, K key/value heads, E head_dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.layer_order import layer_order
from trainer.model import Attention, Block, Llama, Rope, rope_tables, rotate
from trainer.precision import Precision, autocast
from trainer.windows import within

GROUP = 8

Finished = Callable[[list[int]], bool]


class Cached:
    """The model with the keys and values of the positions it has seen, for ``rows`` sequences of equal length."""

    def __init__(self, model: Llama, max_length: int) -> None:
        shape = model.shape
        self._model = model
        device = model.lm_head.weight.device
        rotary = shape.learned_positions is None
        self._rope = rope_tables(max_length, shape.head_dim, shape.rope_theta, device) if rotary else None
        self._past: list[tuple[Tensor, Tensor]] = []
        self._length = 0

    def logits(self, tokens_BT: Tensor) -> Tensor:
        """Append ``tokens_BT`` (int64; one position each after the first call) and return the last one's [B, V]."""
        trunk = self._model.model
        start, stop = self._length, self._length + tokens_BT.shape[1]
        rope = None if self._rope is None else (self._rope[0][start:stop], self._rope[1][start:stop])
        x_BTD, embedded = trunk.at_positions(trunk.embed_tokens(tokens_BT), start), trunk.embedded_values(tokens_BT)
        # A layer that runs again reads something else: it has keys and values of its own each time.
        for index, number in enumerate(layer_order(trunk.shape, trunk.repeating)):
            layer = cast("Block", trunk.layers[number])
            v_BTKE = layer.self_attn.values(normed_BTD := layer.input_layernorm(x_BTD), embedded.get(number))
            x_BTD = x_BTD + self._attend(index, layer.self_attn, normed_BTD, v_BTKE, rope, trunk.windows[number])
            x_BTD = x_BTD + layer.mlp(layer.post_attention_layernorm(x_BTD))
        self._length = stop
        return self._model.lm_head(trunk.norm(x_BTD[:, -1])).float()

    def _attend(
        self, index: int, attention: Attention, x_BTD: Tensor, v_BTKE: Tensor, rope: Rope, window: int | None
    ) -> Tensor:
        shape = attention.shape
        batch, length, _ = x_BTD.shape
        q_BTHE = attention.q_norm(attention.q_proj(x_BTD).view(batch, length, shape.heads, shape.head_dim))
        k_BTKE = attention.k_norm(attention.k_proj(x_BTD).view(batch, length, shape.kv_heads, shape.head_dim))
        if rope is not None:
            q_BTHE, k_BTKE = rotate(q_BTHE, *rope), rotate(k_BTKE, *rope)
        q_BHTE, k_BKTE, v_BKTE = q_BTHE.transpose(1, 2), k_BTKE.transpose(1, 2), v_BTKE.transpose(1, 2)
        if index < len(self._past):
            k_BKTE, v_BKTE = (torch.cat(pair, 2) for pair in zip(self._past[index], (k_BKTE, v_BKTE), strict=True))
            if window is not None:  # further back nothing is looked at again
                k_BKTE, v_BKTE = k_BKTE[:, :, -window:], v_BKTE[:, :, -window:]
            self._past[index] = k_BKTE, v_BKTE
        else:
            self._past.append((k_BKTE, v_BKTE))
        mask = within(length, x_BTD.device, window) if window is not None and length > 1 else None
        y_BHTE = F.scaled_dot_product_attention(
            q_BHTE,
            k_BKTE,
            v_BKTE,
            attn_mask=mask,
            is_causal=length > 1 and mask is None,
            enable_gqa=shape.kv_heads != shape.heads,
        )
        return attention.o_proj(y_BHTE.transpose(1, 2).reshape(batch, length, shape.heads * shape.head_dim))


@torch.no_grad()
def sample(
    model: Llama,
    prompt: Sequence[int],
    *,
    count: int,
    new_tokens: int,
    temperature: float,
    seed: int,
    vocab_size: int,
    end: int,
    precision: Precision = "fp32",
    finished: Finished = lambda _tokens: False,
) -> list[list[int]]:
    """``count`` continuations of ``prompt`` (at least one token), each of at most ``new_tokens`` tokens.

    Tokens are drawn from softmax(logits / temperature) over the first ``vocab_size`` ids; temperature 0 takes the
    likeliest, ties to the lowest id. A sample ends before token ``end``, or once ``finished`` says so of its tokens.
    """
    training = model.training
    model.eval()
    kept: list[list[int]] = []
    for first in range(0, count, GROUP):
        uniforms_BT = np.stack([draws(seed, prompt, first + row, new_tokens) for row in range(GROUP)])
        kept += _group(model, prompt, uniforms_BT, temperature, vocab_size, end, precision, finished)
    model.train(training)
    return kept[:count]


def draws(seed: int, prompt: Sequence[int], index: int, count: int) -> np.ndarray:
    """The uniform numbers in [0, 1) that sample ``index`` of a prompt is drawn with, float64 [count]."""
    key = sha256(f"sample:{seed}:{index}:{','.join(map(str, prompt))}".encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(key[:16], "little"))).random(count)


def _group(
    model: Llama,
    prompt: Sequence[int],
    uniforms_BT: np.ndarray,
    temperature: float,
    vocab_size: int,
    end: int,
    precision: Precision,
    finished: Finished,
) -> list[list[int]]:
    device = model.lm_head.weight.device
    samples: list[list[int]] = [[] for _ in uniforms_BT]
    running = set(range(len(samples)))
    cached = Cached(model, len(prompt) + uniforms_BT.shape[1])
    tokens_BT = torch.tensor([list(prompt)] * len(samples), device=device)
    for uniforms_B in uniforms_BT.T:
        with autocast(precision, device):
            logits_BV = cached.logits(tokens_BT)[:, :vocab_size]
        chosen_B = choose(logits_BV.double().cpu().numpy(), uniforms_B, temperature)
        for row in sorted(running):
            if chosen_B[row] == end:
                running.discard(row)
                continue
            samples[row].append(int(chosen_B[row]))
            if finished(samples[row]):
                running.discard(row)
        if not running:
            break
        # Rows that have ended go on unseen, so that the shapes stay as they are.
        tokens_BT = torch.from_numpy(chosen_B)[:, None].to(device)
    return samples


def choose(logits_BV: np.ndarray, uniforms_B: np.ndarray, temperature: float) -> np.ndarray:
    """One token per row, int64 [B]: the first whose cumulative probability exceeds the row's uniform number."""
    if temperature == 0:
        return logits_BV.argmax(axis=1)
    scaled_BV = logits_BV / temperature
    weights_BV = np.exp(scaled_BV - scaled_BV.max(axis=1, keepdims=True))
    cumulative_BV = weights_BV.cumsum(axis=1)
    reached_BV = cumulative_BV > (uniforms_B * cumulative_BV[:, -1])[:, None]
    return reached_BV.argmax(axis=1)
