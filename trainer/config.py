"""What a training run is: one frozen, TOML-able value that fixes everything but the bytes of the data.

Two runs with equal configuration and equal dataset digests see the same rows in the same order and start from the same
weights, so the configuration's digest is the run's identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from trainer.errors import ConfigError


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(_Frozen):
    """A Llama-style model. ``depth`` sizes it; every derived dimension can be overridden.

    dim = 64·depth, heads = dim/64 (at least 1), kv_heads = heads, ffn = 8/3·dim rounded up to a multiple of 32 (the
    SwiGLU width that keeps the parameter count of a 4·dim ReLU block, Shazeer 2020, arXiv 2002.05202).
    """

    depth: int = Field(ge=1, le=256)
    layers: int | None = Field(default=None, ge=1, le=256)
    dim: int | None = Field(default=None, ge=2)
    heads: int | None = Field(default=None, ge=1)
    kv_heads: int | None = Field(default=None, ge=1)
    ffn: int | None = Field(default=None, ge=1)
    vocab_size: int | None = Field(default=None, ge=2, le=65_536)
    tied: bool = False
    rope_theta: float = Field(default=10_000.0, gt=0)
    norm_eps: float = Field(default=1e-5, gt=0)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        shape = self.shape(vocab_size=2)
        if shape.dim % shape.heads or shape.head_dim % 2:
            raise ValueError(
                f"heads = {shape.heads}: dim = {shape.dim} must be a multiple of 2·heads; change heads or dim"
            )
        if shape.heads % shape.kv_heads:
            raise ValueError(f"kv_heads = {shape.kv_heads}: must divide heads = {shape.heads}; change kv_heads")
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
        )


class ModelShape(_Frozen):
    """Every dimension of a model, none left open: what ``trainer.model.Llama`` is built from."""

    vocab_size: int
    layers: int
    dim: int
    heads: int
    kv_heads: int
    ffn: int
    tied: bool = False
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


class DataConfig(_Frozen):
    """One dataset of the mixture: ``dataset`` is "NAME@VERSION", ``weight`` its share before normalisation."""

    dataset: str
    weight: float = Field(default=1.0, gt=0)


class OptimizerConfig(_Frozen):
    """AdamW with decoupled decay (Loshchilov & Hutter 2019, arXiv 1711.05101): each step shrinks by lr·weight_decay."""

    name: Literal["adamw"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    betas: Annotated[tuple[float, float], BeforeValidator(_as_tuple)] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    grad_clip: float | None = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _betas(self) -> Self:
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas = {list(self.betas)}: both must lie in [0, 1)")
        return self


class ScheduleConfig(_Frozen):
    """Learning-rate factor over steps; see ``trainer.schedule``. ``decay_fraction`` is read by ``wsd`` only."""

    name: Literal["cosine", "wsd"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    decay_fraction: float = Field(default=0.2, ge=0, le=1)
    final_fraction: float = Field(default=0.1, ge=0, le=1)


class TransferConfig(_Frozen):
    """Start from model version ``source`` ("MODEL@V"): ``all`` but embeddings and head, or ``attn``: q, k, v, o."""

    source: str
    what: Literal["all", "attn"] = "attn"


class TrainConfig(_Frozen):
    """One training run. Counts of sequences are global, over all ranks; ``steps`` counts optimiser updates."""

    model: ModelConfig
    data: Annotated[tuple[DataConfig, ...], BeforeValidator(_as_tuple)] = Field(min_length=1)
    eval: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    eval_sequences: int = Field(default=256, ge=1)
    steps: int = Field(ge=1)
    batch_sequences: int = Field(ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    transfer: TransferConfig | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpoint_every: int = Field(default=200, ge=1)
    eval_every: int = Field(default=200, ge=1)
    log_every: int = Field(default=10, ge=1)
    publish: str | None = None

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.schedule.warmup_steps > self.steps:
            raise ValueError(
                f"schedule.warmup_steps = {self.schedule.warmup_steps}: must not exceed steps = {self.steps}; lower it"
            )
        return self

    def check_world(self, world: int) -> int:
        """Sequences per rank; ConfigError unless ``world`` ranks share the global batch evenly."""
        if world < 1 or self.batch_sequences % world:
            raise ConfigError(
                f"batch_sequences = {self.batch_sequences}: must be a multiple of the {world} ranks, so that all step "
                "equally often; change batch_sequences or the number of workers"
            )
        return self.batch_sequences // world


def parse_config(mapping: Mapping[str, Any]) -> TrainConfig:
    """``TrainConfig`` from parsed TOML or JSON; ConfigError in one line, one clause per problem."""
    try:
        return TrainConfig.model_validate(mapping)
    except ValidationError as error:
        raise ConfigError("; ".join(_problem(item) for item in error.errors())) from error


def _problem(item: Any) -> str:
    field = ".".join(str(part) for part in item["loc"])
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        return f"{field}: unknown field; remove it or check its spelling"
    if item["type"] == "missing":
        return f"{field}: missing; give it a value"
    if item["type"] == "value_error":
        return f"{field + ': ' if field else ''}{message}"
    return f"{field} = {item['input']!r}: {message[0].lower()}{message[1:]}"
