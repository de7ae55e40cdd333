"""The model once more in plain products and sums: slow, and short enough to be read against its description."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.model import Llama, rope_tables


def plain_logits(model: Llama, tokens_BT: Tensor) -> Tensor:
    """Next-token logits [B, T, V] of tokens int64 [B, T]; attention as a softmax over scores that are masked out."""
    shape, weights = model.shape, dict(model.named_parameters())
    batch, length = tokens_BT.shape
    x_BTD = weights["model.embed_tokens.weight"][tokens_BT]
    if shape.learned_positions is not None:
        x_BTD = x_BTD + weights["model.embed_positions.weight"][:length]
    cos, sin = rope_tables(length, shape.head_dim, shape.rope_theta, tokens_BT.device)
    back_TT = torch.arange(length)[:, None] - torch.arange(length)

    def normed(x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], weights[name], shape.norm_eps)

    def turned(x_BTHE: Tensor) -> Tensor:
        if shape.learned_positions is not None:
            return x_BTHE
        a, b = x_BTHE.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    order = list(range(shape.layers))
    if (again := shape.repeat) is not None:
        order[again.last + 1 : again.last + 1] = order[again.first : again.last + 1] * again.times
    for layer in order:
        at = f"model.layers.{layer}."
        y_BTD = normed(x_BTD, at + "input_layernorm.weight")
        q, k, v = (
            (y_BTD @ weights[f"{at}self_attn.{part}_proj.weight"].T).view(batch, length, -1, shape.head_dim)
            for part in "qkv"
        )
        if shape.qk_norm:
            q, k = normed(q, at + "self_attn.q_norm.weight"), normed(k, at + "self_attn.k_norm.weight")
        if shape.value_embeddings and (shape.layers - 1 - layer) % 2 == 0:
            gate_BTK = 2 / (1 + (-y_BTD[..., :32] @ weights[f"{at}self_attn.value_gate.weight"].T).exp())
            v = v + gate_BTK[..., None] * weights[f"model.embed_values.{layer}.weight"][tokens_BT].view_as(v)
        groups = shape.heads // shape.kv_heads
        q, k, v = turned(q), turned(k).repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
        scores_BHTT = torch.einsum("bthe,bshe->bhts", q, k) / shape.head_dim**0.5
        last = layer == shape.layers - 1
        short = (
            shape.window_pattern is not None and not last and shape.window_pattern[layer % len(shape.window_pattern)]
        )
        reach = shape.window if short == "S" else length
        scores_BHTT = scores_BHTT.masked_fill((back_TT < 0) | (back_TT >= reach), -torch.inf)
        mixed_BTD = torch.einsum("bhts,bshe->bthe", scores_BHTT.softmax(-1), v).reshape(batch, length, shape.dim)
        x_BTD = x_BTD + mixed_BTD @ weights[at + "self_attn.o_proj.weight"].T
        y_BTD = normed(x_BTD, at + "post_attention_layernorm.weight")
        gate, up, down = (weights[f"{at}mlp.{part}_proj.weight"].T for part in ("gate", "up", "down"))
        x_BTD = x_BTD + (F.silu(y_BTD @ gate) * (y_BTD @ up)) @ down
    head = "model.embed_tokens.weight" if shape.tied else "lm_head.weight"
    return normed(x_BTD, "model.norm.weight") @ weights[head].T
