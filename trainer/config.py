"""What a training run is: one frozen, TOML-able value that fixes everything but the bytes of the data.

Two runs with equal configuration and equal dataset digests see the same rows in the same order and start from the same
weights, so the configuration's digest is the run's identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from datalake.plan.lanes import default_lanes
from datalake.shards.tokens import MAX_VOCABULARY
from generator.toml_files import problems_of
from trainer.config_model import ConfigModel, Listed, without_unset
from trainer.errors import ConfigError
from trainer.heads import heads_of
from trainer.mask import LossMask
from trainer.model_config import ModelConfig, ModelShape
from trainer.recipe import (
    AverageConfig,
    CycleConfig,
    EnsembleConfig,
    MuonConfig,
    OptimizerConfig,
    ScheduleConfig,
    TasksConfig,
    TransferConfig,
)

__all__ = [
    "AverageConfig",
    "CycleConfig",
    "DataConfig",
    "EnsembleConfig",
    "ModelConfig",
    "ModelShape",
    "MuonConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "TasksConfig",
    "TrainConfig",
    "TransferConfig",
    "parse_config",
]


class DataConfig(ConfigModel):
    """One dataset of the mixture: ``dataset`` is "NAME@VERSION", ``weight`` its share before normalisation.

    ``share`` says how the weight goes on: ``constant``, ``front_loaded`` (whole for the first ``until_fraction`` of the
    run, then nothing) or ``annealed`` (down to nothing over that time); see ``trainer.mixture``. ``end_of_text`` is the
    token that ends a document, for ``model.attention`` = "document" where the dataset itself does not say. ``loss`` is
    what ``loss_mask`` is for this dataset alone; left out, ``loss_mask`` holds.
    """

    dataset: str
    weight: float = Field(default=1.0, gt=0)
    share: Literal["constant", "front_loaded", "annealed"] = "constant"
    until_fraction: float = Field(default=1.0, gt=0, le=1)
    end_of_text: int | None = Field(default=None, ge=0, lt=MAX_VOCABULARY)
    loss: LossMask | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without ``end_of_text`` and ``loss`` where they are not given: a config's digest is the identity of its
        run."""
        return without_unset(handler(self), end_of_text=None, loss=None)

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.share == "front_loaded" and self.until_fraction == 1.0:
            raise ValueError("until_fraction = 1.0: a front-loaded share ends before the run does; give less than 1")
        if self.share == "constant" and self.until_fraction != 1.0:
            raise ValueError(
                f"until_fraction = {self.until_fraction}: a constant share has no end; leave it out or change share"
            )
        return self


class TrainConfig(ConfigModel):
    """One training run. Counts of sequences are global, over all ranks; ``steps`` counts optimiser updates.

    ``init`` is the model "NAME@V" whose weights, all of them, the run begins with; ``model`` must be its shape.
    ``lanes``, a divisor of ``batch_sequences``, orders rows by so many lanes, so that each rank reads its share of the
    data alone (``datalake.plan.lanes``); without it every rank reads everything, in the order of version 1.
    Each rank's share of a batch is computed in ``micro_batches`` pieces. ``spike_nats`` stops a run whose loss jumps
    that far above its recent mean. ``tasks`` are scored where ``eval`` is, every
    ``eval_every`` steps. Of the checkpoints, all are kept, or the ``keep_last`` newest and those at multiples of
    ``keep_every`` steps. ``tensorboard`` is a folder for event files.
    """

    init: str | None = None
    model: ModelConfig
    data: Listed[DataConfig] = Field(min_length=1)
    eval: Listed[str] = ()
    eval_sequences: int = Field(default=256, ge=1)
    steps: int = Field(ge=1)
    batch_sequences: int = Field(ge=1)
    lanes: int | None = Field(default=None, ge=1)
    micro_batches: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    loss_mask: LossMask = "none"
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    transfer: TransferConfig | None = None
    average: AverageConfig | None = None
    tasks: TasksConfig | None = None
    ensemble: EnsembleConfig | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    spike_nats: float | None = Field(default=3.0, gt=0)
    checkpoint_every: int = Field(default=200, ge=1)
    keep_last: int | None = Field(default=None, ge=1)
    keep_every: int | None = Field(default=None, ge=1)
    eval_every: int = Field(default=200, ge=1)
    log_every: int = Field(default=10, ge=1)
    publish: str | None = None
    tensorboard: str | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.schedule.warmup_steps > self.horizon:
            of = "steps" if self.schedule.steps is None else "schedule.steps"
            raise ValueError(
                f"schedule.warmup_steps = {self.schedule.warmup_steps}: must not exceed {of} = {self.horizon}; lower it"
            )
        if len(self.data) > 1 and (said := self.in_epochs) is not None:
            raise ValueError(
                f"{said}: an epoch is of one dataset, data names {len(self.data)}; state it in steps or as a fraction"
            )
        if self.lanes is not None and self.batch_sequences % self.lanes:
            raise ValueError(
                f"lanes = {self.lanes}: must divide batch_sequences = {self.batch_sequences}; "
                f"{default_lanes(self.batch_sequences)} does"
            )
        if self.init is not None and self.transfer is not None:
            raise ValueError(
                f"init = {self.init!r}: brings all weights, and transfer some of another model's; leave one of them out"
            )
        if self.optimizer.name == "hybrid" and self.transfer is None:
            raise ValueError("optimizer.name = 'hybrid': needs a transfer to tell matrices apart; add it or use 'muon'")
        if self.transfer is not None and (heads := heads_of(self.transfer.what)) is not None:
            if problem := heads.problem(self.model.shape(1)):
                raise ValueError(f"transfer.what = {self.transfer.what!r}: {problem}")
            if self.optimizer.name == "hybrid":
                raise ValueError(
                    "optimizer.name = 'hybrid': moves whole matrices in another way, and transfer.what = "
                    f"{self.transfer.what!r} is a part of some; use 'muon', or carry 'attn'"
                )
        if self.transfer is not None and self.transfer.freeze_steps > self.steps:
            raise ValueError(
                f"transfer.freeze_steps = {self.transfer.freeze_steps}: must not exceed steps = {self.steps}; lower it"
            )
        if self.model.attention == "causal" and any(item.end_of_text is not None for item in self.data):
            raise ValueError(
                "data.end_of_text: is read by model.attention = 'document' only; leave it out, or set attention"
            )
        if all(item.share != "constant" for item in self.data):
            raise ValueError("data: every share ends, which leaves nothing to read; keep one share constant")
        if self.ensemble is not None and (found := 1 + (self.steps - 1) // self.checkpoint_every) < (
            wanted := self.ensemble.checkpoints
        ):
            raise ValueError(
                f"ensemble.checkpoints = {wanted}: {self.steps} steps, one each {self.checkpoint_every}, make {found}; "
                "lower it or checkpoint_every"
            )
        if self.keep_every is not None and (self.keep_last is None or self.keep_every % self.checkpoint_every):
            raise ValueError(
                f"keep_every = {self.keep_every}: needs keep_last, and must be a multiple of checkpoint_every = "
                f"{self.checkpoint_every}; change one of them"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what came later where there is none: a config's digest is the identity of its run, also of older
        ones."""
        return without_unset(handler(self), init=None, lanes=None, tasks=None, ensemble=None)

    @property
    def masks(self) -> tuple[LossMask, ...]:
        """Which predictions count in each dataset of ``data``."""
        return tuple(item.loss or self.loss_mask for item in self.data)

    @property
    def horizon(self) -> int:
        """The steps that schedules, and whatever is a fraction of a run, are laid out over."""
        return self.schedule.steps or self.steps

    @property
    def ensemble_steps(self) -> list[int]:
        """The steps whose weights predict together at the end, the last one included; empty without ``ensemble``."""
        if self.ensemble is None:
            return []
        every, last = self.checkpoint_every, (self.steps - 1) // self.checkpoint_every
        return [*(every * at for at in range(last + 2 - self.ensemble.checkpoints, last + 1)), self.steps]

    @property
    def in_epochs(self) -> str | None:
        """The first field that is stated in epochs, None where none is; ``trainer.epochs`` makes steps of them."""
        if (said := self.schedule.in_epochs) is not None:
            return f"schedule.{said}"
        again = self.model.repeat
        return "model.repeat.from_epoch" if again is not None and again.from_epoch is not None else None

    def check_world(self, world: int) -> int:
        """Sequences per rank; ConfigError unless ``world`` ranks share the global batch evenly."""
        if world < 1 or self.batch_sequences % world:
            raise ConfigError(
                f"batch_sequences = {self.batch_sequences}: must be a multiple of the {world} ranks, so that all step "
                "equally often; change batch_sequences or the number of workers"
            )
        share = self.batch_sequences // world
        if self.micro_batches > share:
            raise ConfigError(
                f"micro_batches = {self.micro_batches}: a rank has {share} sequences a step; lower micro_batches"
            )
        return share


def parse_config(mapping: Mapping[str, Any]) -> TrainConfig:
    """``TrainConfig`` from parsed TOML or JSON; ConfigError in one line, one clause per problem."""
    try:
        return TrainConfig.model_validate(mapping)
    except ValidationError as error:
        raise ConfigError(problems_of(error)) from error
