"""The model's dimensions, from one dial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from datalake.shards.tokens import MAX_VOCABULARY
from trainer.config_model import ConfigModel, without_unset

MAX_POSITIONS = 1 << 20
ROPE_THETA = 10_000.0
SHAPE_ADDED: dict[str, Any] = {
    "learned_positions": None,
    "window_pattern": None,
    "window": None,
    "value_embeddings": False,
    "repeat": None,
}
"""Fields of a shape that came after the first ones, and what they are where they say nothing."""
WINDOW_PATTERN: Any = Field(default=None, pattern="^[SL]*S[SL]*$", max_length=256)


class Repeat(ConfigModel):
    """Layers ``first`` to ``last``, counted from 0, run ``times`` times more after they have run; see
    ``trainer.layer_order``."""

    first: int = Field(ge=0)
    last: int = Field(ge=0)
    times: int = Field(default=1, ge=1, le=64)


class RepeatConfig(ConfigModel):
    """A ``Repeat`` that begins once ``from_fraction`` of the run, or ``from_epoch`` epochs of its one dataset, are
    done; before that every layer runs once.

    ``times`` = 0 is no repeat at all, for a stage that shares its model's table with another.
    """

    first: int = Field(ge=0)
    last: int = Field(ge=0)
    times: int = Field(default=1, ge=0, le=64)
    from_fraction: float = Field(default=0.0, ge=0, lt=1)
    from_epoch: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if self.from_epoch is not None and self.from_fraction:
            raise ValueError(
                f"from_epoch = {self.from_epoch}: from_fraction = {self.from_fraction} says it too; give one of them"
            )
        return self

    def in_shape(self) -> Repeat | None:
        """What of it the model is, once trained."""
        return Repeat(first=self.first, last=self.last, times=self.times) if self.times else None


class ModelConfig(ConfigModel):
    """A Llama-style model. ``depth`` sizes it; every derived dimension can be overridden.

    dim = 64·depth, heads = dim/64 (at least 1), kv_heads = heads, ffn = 8/3·dim rounded up to a multiple of 32 (the
    SwiGLU width that keeps the parameter count of a 4·dim ReLU block, Shazeer 2020, arXiv 2002.05202).

    ``qk_norm`` normalises each head's queries and keys before rotation. ``learned_positions`` is how many positions a
    learned table has, whose rows are added to the embedding in place of rotation (as in GPT-2, Radford et al. 2019):
    the longest input. ``window_pattern``, letters S and L that are repeated over the layers, keeps attention of the S
    layers within ``window`` tokens, a token itself among them; the last layer is long whatever its letter (see
    ``trainer.windows``). ``value_embeddings`` adds a second embedding of each token to the values of every other
    layer's attention (see ``trainer.value_embeddings``). ``repeat`` lets a range of layers run more than once.

    The last four are how it trains and no part of its shape: ``dropout`` on what each half of a block adds to the
    residual stream, ``recompute`` to keep only blocks' inputs and compute the rest again in the backward pass,
    ``compile`` for torch.compile. ``attention`` = "document" lets a token attend to earlier tokens of its own document
    only (see ``trainer.documents``), "causal" to all earlier tokens of its row.
    """

    depth: int = Field(ge=1, le=256)
    layers: int | None = Field(default=None, ge=1, le=256)
    dim: int | None = Field(default=None, ge=2)
    heads: int | None = Field(default=None, ge=1)
    kv_heads: int | None = Field(default=None, ge=1)
    ffn: int | None = Field(default=None, ge=1)
    vocab_size: int | None = Field(default=None, ge=2, le=MAX_VOCABULARY)
    tied: bool = False
    rope_theta: float = Field(default=ROPE_THETA, gt=0)
    norm_eps: float = Field(default=1e-5, gt=0)
    qk_norm: bool = False
    learned_positions: int | None = Field(default=None, ge=1, le=MAX_POSITIONS)
    window_pattern: str | None = WINDOW_PATTERN
    window: int | None = Field(default=None, ge=1, le=MAX_POSITIONS)
    value_embeddings: bool = False
    repeat: RepeatConfig | None = None
    dropout: float = Field(default=0.0, ge=0, lt=1)
    recompute: bool = False
    compile: bool = False
    attention: Literal["causal", "document"] = "causal"

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what came later where it says nothing: a config's digest is the identity of its run."""
        return without_unset(handler(self), attention="causal", **SHAPE_ADDED)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        shape = self.shape(vocab_size=2)
        if shape.dim % shape.heads or shape.head_dim % 2:
            raise ValueError(
                f"heads = {shape.heads}: dim = {shape.dim} must be a multiple of 2·heads; change heads or dim"
            )
        if shape.heads % shape.kv_heads:
            raise ValueError(f"kv_heads = {shape.kv_heads}: must divide heads = {shape.heads}; change kv_heads")
        if self.learned_positions is not None and self.rope_theta != ROPE_THETA:
            raise ValueError(
                f"rope_theta = {self.rope_theta}: learned_positions = {self.learned_positions} takes the place of "
                "rotation; leave one of them out"
            )
        if (self.window_pattern is None) != (self.window is None):
            given, other = ("window", "window_pattern") if self.window_pattern is None else ("window_pattern", "window")
            raise ValueError(f"{given} = {getattr(self, given)!r}: needs {other}; give both or neither")
        if self.repeat is not None and not self.repeat.first <= self.repeat.last < shape.layers:
            raise ValueError(
                f"repeat: layers {self.repeat.first} to {self.repeat.last} of {shape.layers}; give first and last, "
                f"counted from 0, with first <= last <= {shape.layers - 1}"
            )
        return self

    def shape(self, vocab_size: int) -> ModelShape:
        """All dimensions, derived ones filled in; ``vocab_size`` is the data's, for a config that leaves it open."""
        dim = self.dim or 64 * self.depth
        heads = self.heads or max(1, dim // 64)
        return ModelShape(
            vocab_size=self.vocab_size or vocab_size,
            layers=self.layers or self.depth,
            dim=dim,
            heads=heads,
            kv_heads=self.kv_heads or heads,
            ffn=self.ffn or -(-8 * dim // 96) * 32,
            tied=self.tied,
            rope_theta=self.rope_theta,
            norm_eps=self.norm_eps,
            qk_norm=self.qk_norm,
            learned_positions=self.learned_positions,
            window_pattern=self.window_pattern,
            window=self.window,
            value_embeddings=self.value_embeddings,
            repeat=self.repeat.in_shape() if self.repeat is not None else None,
        )


class ModelShape(ConfigModel):
    """Every dimension of a model, none left open: what ``trainer.model.Llama`` is built from."""

    vocab_size: int
    layers: int
    dim: int
    heads: int
    kv_heads: int
    ffn: int
    tied: bool = False
    rope_theta: float = ROPE_THETA
    norm_eps: float = 1e-5
    qk_norm: bool = False
    learned_positions: int | None = None
    window_pattern: str | None = None
    window: int | None = None
    value_embeddings: bool = False
    repeat: Repeat | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what came later where it says nothing, as records had it before."""
        return without_unset(handler(self), **SHAPE_ADDED)

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


def beyond_llama(fields: Mapping[str, Any]) -> str:
    """In words, what no class of transformers computes of a model with these fields (of a shape, or a config.json)."""
    words = {
        "learned_positions": "learned positions",
        "window_pattern": "attention windows",
        "value_embeddings": "value embeddings",
        "repeat": "repeated layers",
    }
    found = [said for field, said in words.items() if fields.get(field) not in (None, False)]
    return " and ".join(filter(None, [", ".join(found[:-1]), *found[-1:]]))
