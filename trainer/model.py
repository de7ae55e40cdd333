"""A Llama-style transformer whose tensors carry Hugging Face's names, one to one.

Pre-norm blocks with RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467), rotary positions (Su et al. 2021, arXiv
2104.09864) in the half-split convention, grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) through SDPA's
causal flag, or within documents and windows (``trainer.windows``), and SwiGLU (Shazeer 2020, arXiv 2002.05202). No
biases. Optional: a learned table of positions in place of rotation, RMSNorm of each head's queries and keys (Henry et
al. 2020, arXiv 2010.04245, with RMSNorm as in Qwen3), embeddings of tokens in the values
(``trainer.value_embeddings``), layers that run twice (``trainer.layer_order``), dropout, and recomputation of blocks.

Axes: B batch, T time, D dim, H query heads, K key/value heads, E head_dim, V vocabulary.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.utils.checkpoint import checkpoint

from trainer.compiling import keep_to_our_graphs
from trainer.config import ModelShape
from trainer.cpu_attention import cpu_attention
from trainer.errors import ConfigError
from trainer.init import init_weights
from trainer.layer_order import layer_order
from trainer.loss import token_losses, token_scores
from trainer.products import linear
from trainer.rms_norm import rms_norm
from trainer.value_embeddings import embedded_layers, gated, value_gate, value_tables
from trainer.windows import Mask, attention_mask, layer_windows


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last axis, computed in float32 whatever the activations' dtype."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x_BTD: Tensor) -> Tensor:
        return rms_norm(x_BTD, self.weight, self.eps)


NARROW_HEAD = 32
"""The widest head whose rotation is faster as one product over whole sequences (measured on a CPU, docs/log.md)."""


class _Rotate(torch.autograd.Function):
    """Rotation of the pairs (i, i + E/2); its gradient is the rotation back, so nothing but the angles is kept."""

    @staticmethod
    def forward(ctx: Any, x_BTHE: Tensor, cos_T1E: Tensor, sin_T1E: Tensor) -> Tensor:
        ctx.save_for_backward(cos_T1E, sin_T1E)
        return _rotate(x_BTHE, cos_T1E, sin_T1E)

    @staticmethod
    def backward(ctx: Any, grad_BTHE: Tensor) -> tuple[Tensor, None, None]:
        cos_T1E, sin_T1E = ctx.saved_tensors
        return _rotate(grad_BTHE, cos_T1E, -sin_T1E), None, None


def _rotate(x_BTHE: Tensor, cos_T1E: Tensor, sin_T1E: Tensor) -> Tensor:
    batch, length, heads, head_dim = x_BTHE.shape
    if head_dim <= NARROW_HEAD and x_BTHE.device.type == "cpu":
        # The same products and sums, over whole sequences at once: a loop over half a narrow head costs more to enter.
        cos_X = torch.cat([cos_T1E, cos_T1E], dim=-1).expand(length, heads, head_dim).reshape(-1)
        sin_X = torch.cat([-sin_T1E, sin_T1E], dim=-1).expand(length, heads, head_dim).reshape(-1)
        swapped_BX = x_BTHE.roll(head_dim // 2, dims=-1).reshape(batch, -1)
        turned_BX = torch.mul(x_BTHE.reshape(batch, -1), cos_X).to(x_BTHE.dtype).addcmul_(swapped_BX, sin_X)
        return turned_BX.view_as(x_BTHE)
    a, b = x_BTHE.chunk(2, dim=-1)
    out = torch.empty_like(x_BTHE)
    out_a, out_b = out.chunk(2, dim=-1)
    torch.mul(a, cos_T1E, out=out_a).addcmul_(b, sin_T1E, value=-1)
    torch.mul(b, cos_T1E, out=out_b).addcmul_(a, sin_T1E)
    return out


def rotate(x_BTHE: Tensor, cos_T1E: Tensor, sin_T1E: Tensor) -> Tensor:
    """``x`` with its pairs (i, i + E/2) rotated. A compiler gets the plain formula, which it fuses better than ours."""
    if not torch.compiler.is_compiling():
        return _Rotate.apply(x_BTHE, cos_T1E, sin_T1E)
    a, b = x_BTHE.chunk(2, dim=-1)
    turned = torch.cat([a * cos_T1E - b * sin_T1E, b * cos_T1E + a * sin_T1E], dim=-1)
    return turned.to(x_BTHE.dtype)


def rope_tables(length: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos, sin of position · theta^(-2i/E): float32 [T, 1, E/2] each (Su et al. 2021, eq. 15)."""
    freq_E = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    angle_TE = torch.outer(torch.arange(length, dtype=torch.float32, device=device), freq_E)
    return angle_TE.cos()[:, None, :], angle_TE.sin()[:, None, :]


Rope = tuple[Tensor, Tensor] | None
"""What ``rope_tables`` gives; None where positions are learned, and queries and keys stay as they are."""


@lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    return torch.compile(flex_attention)


def _flex() -> Any:
    """FlexAttention, compiled: by itself, or as part of what a compiler is at work on."""
    return flex_attention if torch.compiler.is_compiling() else _compiled_flex()


class Attention(nn.Module):
    """Causal self-attention with ``kv_heads`` key/value heads shared by groups of query heads."""

    def __init__(self, shape: ModelShape, embeds_values: bool = False) -> None:
        super().__init__()
        self.shape = shape
        kv_dim = shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.dim, shape.dim, bias=False)
        self.k_proj = nn.Linear(shape.dim, kv_dim, bias=False)
        self.v_proj = nn.Linear(shape.dim, kv_dim, bias=False)
        self.o_proj = nn.Linear(shape.dim, shape.dim, bias=False)
        self.q_norm = RMSNorm(shape.head_dim, shape.norm_eps) if shape.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(shape.head_dim, shape.norm_eps) if shape.qk_norm else nn.Identity()
        self.value_gate = value_gate(shape) if embeds_values else None

    def forward(self, x_BTD: Tensor, rope: Rope, mask: Mask = None, embedded_BTC: Tensor | None = None) -> Tensor:
        heads, kv_heads, head_dim = self.shape.heads, self.shape.kv_heads, self.shape.head_dim
        batch, length, _ = x_BTD.shape
        q_BTHE = self.q_norm(linear(x_BTD, self.q_proj.weight).view(batch, length, heads, head_dim))
        k_BTKE = self.k_norm(linear(x_BTD, self.k_proj.weight).view(batch, length, kv_heads, head_dim))
        if rope is not None:
            q_BTHE, k_BTKE = rotate(q_BTHE, *rope), rotate(k_BTKE, *rope)
        v_BTKE = self.values(x_BTD, embedded_BTC)
        if x_BTD.device.type == "cpu" and not isinstance(mask, BlockMask):
            y_BTHE = cpu_attention(q_BTHE, k_BTKE, v_BTKE, mask)
            return linear(y_BTHE.reshape(batch, length, heads * head_dim), self.o_proj.weight)
        q_BHTE, k_BKTE, v_BKTE = q_BTHE.transpose(1, 2), k_BTKE.transpose(1, 2), v_BTKE.transpose(1, 2)
        grouped = kv_heads != heads
        if isinstance(mask, BlockMask):
            y_BHTE = _flex()(
                q_BHTE.to(v_BKTE.dtype), k_BKTE.to(v_BKTE.dtype), v_BKTE, block_mask=mask, enable_gqa=grouped
            )
        else:
            y_BHTE = F.scaled_dot_product_attention(
                q_BHTE, k_BKTE, v_BKTE, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
            )
        return self.o_proj(y_BHTE.transpose(1, 2).reshape(batch, length, heads * head_dim))

    def values(self, x_BTD: Tensor, embedded_BTC: Tensor | None) -> Tensor:
        """What is mixed, [B, T, K, E]: of what the layer reads, and of the tokens' own table where it has one."""
        v_BTKE = linear(x_BTD, self.v_proj.weight).view(*x_BTD.shape[:2], self.shape.kv_heads, self.shape.head_dim)
        if self.value_gate is None or embedded_BTC is None:
            return v_BTKE
        return v_BTKE + gated(self.value_gate, x_BTD, embedded_BTC, v_BTKE)


class MLP(nn.Module):
    """down(silu(gate(x)) · up(x))."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.dim, shape.ffn, bias=False)
        self.up_proj = nn.Linear(shape.dim, shape.ffn, bias=False)
        self.down_proj = nn.Linear(shape.ffn, shape.dim, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        hidden_BTF = F.silu(linear(x_BTD, self.gate_proj.weight)) * linear(x_BTD, self.up_proj.weight)
        return linear(hidden_BTF, self.down_proj.weight)


class Block(nn.Module):
    """One pre-norm layer: attention, then MLP, each added to the residual stream."""

    def __init__(self, shape: ModelShape, dropout: float, embeds_values: bool = False) -> None:
        super().__init__()
        self.dropout = dropout
        self.input_layernorm = RMSNorm(shape.dim, shape.norm_eps)
        self.self_attn = Attention(shape, embeds_values)
        self.post_attention_layernorm = RMSNorm(shape.dim, shape.norm_eps)
        self.mlp = MLP(shape)

    def forward(self, x_BTD: Tensor, rope: Rope, mask: Mask = None, embedded_BTC: Tensor | None = None) -> Tensor:
        x_BTD = x_BTD + self._drop(self.self_attn(self.input_layernorm(x_BTD), rope, mask, embedded_BTC))
        return x_BTD + self._drop(self.mlp(self.post_attention_layernorm(x_BTD)))

    def _drop(self, x_BTD: Tensor) -> Tensor:
        return F.dropout(x_BTD, self.dropout, self.training) if self.dropout else x_BTD


class Trunk(nn.Module):
    """Embedding, blocks and last norm: tokens int64 [B, T] -> hidden states [B, T, D].

    ``documents_BT``, the number of each token's document, keeps attention within documents. While ``repeating`` is
    False no layer runs twice (see ``trainer.layer_order``).
    """

    def __init__(self, shape: ModelShape, dropout: float, recompute: bool) -> None:
        super().__init__()
        self.shape = shape
        self.dropout = dropout
        self.recompute = recompute
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.dim)
        learned = shape.learned_positions
        self.embed_positions = None if learned is None else nn.Embedding(learned, shape.dim)
        self.embed_values = value_tables(shape)
        embedded = embedded_layers(shape)
        self.layers = nn.ModuleList(Block(shape, dropout, layer in embedded) for layer in range(shape.layers))
        self.norm = RMSNorm(shape.dim, shape.norm_eps)
        self.windows = layer_windows(shape)
        self.repeating = True
        self._rope: tuple[Tensor, Tensor] | None = None

    def forward(self, tokens_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        x_BTD = self.at_positions(self.embed_tokens(tokens_BT), 0)
        length, device = tokens_BT.shape[1], tokens_BT.device
        masks = {window: attention_mask(length, device, documents_BT, window) for window in set(self.windows)}
        rope = self._rope_for(length, x_BTD)
        embedded = self.embedded_values(tokens_BT)
        for layer in layer_order(self.shape, self.repeating):
            block = self.layers[layer]
            given = rope, masks[self.windows[layer]], embedded.get(layer)
            if self.recompute and torch.is_grad_enabled():
                drawn = self.dropout > 0 and self.training
                x_BTD = checkpoint(block, x_BTD, *given, use_reentrant=False, preserve_rng_state=drawn)
            else:
                x_BTD = block(x_BTD, *given)
        return self.norm(x_BTD)

    def embedded_values(self, tokens_BT: Tensor) -> dict[int, Tensor]:
        """What the tokens are in the tables of the layers that have one."""
        return {int(layer): table(tokens_BT) for layer, table in self.embed_values.items()}

    def at_positions(self, x_BTD: Tensor, first: int) -> Tensor:
        """``x`` plus the learned vectors of positions ``first`` on, where positions are learned.

        ConfigError for more positions than there are.
        """
        if self.embed_positions is None:
            return x_BTD
        last = first + x_BTD.shape[1]
        if last > (most := self.embed_positions.num_embeddings):
            raise ConfigError(
                f"learned_positions = {most}: {last} tokens are to be read; give shorter sequences, or train a model "
                "with more positions"
            )
        return x_BTD + self.embed_positions.weight[first:last]

    def _rope_for(self, length: int, x_BTD: Tensor) -> Rope:
        if self.embed_positions is not None:
            return None
        # Kept out of the state dict: a pure function of the shape has no place in a checkpoint.
        if self._rope is None or self._rope[0].shape[0] != length or self._rope[0].device != x_BTD.device:
            self._rope = rope_tables(length, self.shape.head_dim, self.shape.rope_theta, x_BTD.device)
        return self._rope


class Llama(nn.Module):
    """The language model (Touvron et al. 2023, arXiv 2302.13971), its tensors named and shaped as Hugging Face's Llama.

    Parameters are float32; its initial weights are a pure function of (shape, seed).

    With ``seed`` None they are whatever lay in memory, for weights that will be loaded; with ``empty`` there are none
    before ``allocate`` has been called, so that ranks may first share the tensors' rows among them.
    ``dropout`` and ``recompute`` (see ``ModelConfig``) change how it trains, not what it is.
    """

    def __init__(
        self,
        shape: ModelShape,
        seed: int | None,
        *,
        dropout: float = 0.0,
        recompute: bool = False,
        empty: bool = False,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.compiled = False
        # On "meta" torch's own draw of initial weights, which ours replace, costs neither time nor global RNG state.
        with torch.device("meta"):
            self.model = Trunk(shape, dropout, recompute)
            self.lm_head = nn.Linear(shape.dim, shape.vocab_size, bias=False)
        self._tie()
        if not empty:
            self.allocate(torch.device("cpu"))
            if seed is not None:
                init_weights(self, shape, seed)

    def allocate(self, device: torch.device) -> None:
        """Give every parameter memory on ``device``, of a tensor that ranks share for this rank's rows; no values."""
        self.to_empty(device=device)
        self._tie()

    def compile_blocks(self) -> None:
        """Let torch.compile make the loss's kernels, and each block's: once for all blocks, in seconds at any depth."""
        self.compiled = True
        keep_to_our_graphs()
        for layer in self.model.layers:
            layer.compile()

    def _tie(self) -> None:
        if self.shape.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def logits(self, tokens_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """Next-token logits [B, T, V] of tokens int64 [B, T]."""
        return self.lm_head(self.model(tokens_BT, documents_BT))

    def forward(self, tokens_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """Loss of each next token in nats: int64 [B, T] -> float32 [B, T-1]; entry t is -log p(token t+1 | 0..t).

        With ``documents_BT``, the number of each token's document (int64 [B, T]), only tokens of token t's are given.
        The loss is inside ``forward`` so that DDP's hooks see it and the logits are never held whole.
        """
        hidden_BTD = self._hidden(tokens_BT, documents_BT)
        targets_BT = tokens_BT[:, 1:]
        losses_N = token_losses(
            hidden_BTD.flatten(0, 1), self.lm_head.weight, targets_BT.flatten(), compiled=self.compiled
        )
        return losses_N.view(targets_BT.shape).clone()  # FSDP's hooks want a tensor that is no view

    def scores(self, tokens_BT: Tensor, documents_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Loss float32 [B, T-1] of each next token of int64 [B, T], and whether it is the likeliest; no gradients."""
        hidden_BTD = self._hidden(tokens_BT, documents_BT)
        targets_BT = tokens_BT[:, 1:]
        losses_N, hits_N = token_scores(hidden_BTD.flatten(0, 1), self.lm_head.weight, targets_BT.flatten())
        return losses_N.view(targets_BT.shape).clone(), hits_N.view(targets_BT.shape).clone()

    def _hidden(self, tokens_BT: Tensor, documents_BT: Tensor | None) -> Tensor:
        """Hidden states [B, T-1, D] of all tokens but the last."""
        return self.model(tokens_BT[:, :-1], None if documents_BT is None else documents_BT[:, :-1])


def parameter_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's parameters by name, a tied head left out; no memory is taken for them."""
    with torch.device("meta"):
        trunk = Trunk(shape, 0.0, False)
    shapes = {f"model.{name}": tuple(parameter.shape) for name, parameter in trunk.named_parameters()}
    return shapes if shape.tied else shapes | {"lm_head.weight": (shape.vocab_size, shape.dim)}


def count_parameters(model: nn.Module) -> int:
    """Parameters, a tied head counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
