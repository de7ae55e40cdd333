"""What a lattice's training run is: one frozen, TOML-able value, whose digest is the run's identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from generator.toml_files import problems_of
from trainer.config_model import ConfigModel
from trainer.errors import ConfigError
from trainer.lattice.config import LatticeConfig
from trainer.lattice.shapes import SHAPES
from trainer.recipe import AverageConfig, OptimizerConfig, ScheduleConfig


class TargetConfig(ConfigModel):
    """The task. ``seed`` draws the permutation of ``surface``; ``shapes`` (of ``extent`` voxels; None: as many as the
    shortest side) are those of ``growth``."""

    kind: Literal["surface", "growth"]
    seed: int = Field(default=0, ge=0, lt=2**63)
    shapes: int = Field(default=8, ge=2, le=len(SHAPES))
    extent: int | None = Field(default=None, ge=3)


class PoolConfig(ConfigModel):
    """States kept between updates (Mordvintsev et al. 2020, distill.pub/2020/growing-ca). Each sample of a batch has
    ``slots`` of its own. A drawn state begins anew with chance ``fresh`` and is damaged with chance ``damage``."""

    slots: int = Field(default=16, ge=1)
    fresh: float = Field(default=0.25, ge=0, le=1)
    damage: float = Field(default=0.25, ge=0, le=1)


class LatticeTrainConfig(ConfigModel):
    """One training run. An update lets ``batch`` volumes go on for a number of steps drawn from ``time`` (both ends
    included), in ``micro_batches`` pieces, ``segment`` steps computed again at once (``recompute``; without it all
    activations stay in memory). ``offload`` keeps states between segments in host memory. The last
    ``quantise_fraction`` of the updates round weights and states to 8 bits. ``eval_volumes`` are judged at the end and
    every ``eval_every`` updates. The rest is as in ``TrainConfig``.
    """

    lattice: LatticeConfig
    target: TargetConfig
    steps: int = Field(ge=1)
    batch: int = Field(default=8, ge=1)
    micro_batches: int = Field(default=1, ge=1)
    time: tuple[int, int] = (16, 24)
    segment: int = Field(default=8, ge=1)
    recompute: bool = True
    offload: bool = False
    seed: int = Field(default=0, ge=0, lt=2**63)
    pool: PoolConfig | None = None
    quantise_fraction: float = Field(default=0.0, ge=0, le=1)
    optimizer: OptimizerConfig = OptimizerConfig(weight_decay=0.0)
    schedule: ScheduleConfig = ScheduleConfig()
    average: AverageConfig | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    spike_nats: float | None = Field(default=None, gt=0)
    checkpoint_every: int = Field(default=200, ge=1)
    keep_last: int | None = Field(default=2, ge=1)
    keep_every: int | None = Field(default=None, ge=1)
    eval_every: int = Field(default=500, ge=1)
    eval_volumes: int = Field(default=32, ge=1)
    log_every: int = Field(default=10, ge=1)
    publish: str | None = None
    tensorboard: str | None = None
    transfer: None = None  # what rates are asked of may have one; a lattice has none

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        low, high = self.time
        if not 1 <= low <= high:
            raise ValueError(f"time = {[low, high]}: must be two numbers of steps, 1 <= first <= second; change it")
        if self.micro_batches > self.batch:
            raise ValueError(f"micro_batches = {self.micro_batches}: batch = {self.batch} volumes; lower micro_batches")
        if self.schedule.warmup_steps > self.horizon:
            raise ValueError(
                f"schedule.warmup_steps = {self.schedule.warmup_steps}: must not exceed {self.horizon} steps; lower it"
            )
        if (said := self.schedule.in_epochs) is not None:
            raise ValueError(f"schedule.{said}: a lattice reads no dataset, so it has no epochs; state it in steps")
        if self.optimizer.name in ("muon", "hybrid"):
            raise ValueError(
                f"optimizer.name = {self.optimizer.name!r}: Muon is for single matrices, a lattice stacks them; "
                "use 'adamw' or 'adamw8bit'"
            )
        if self.quantise_fraction and self.lattice.norm != "shift":
            raise ValueError(
                f"quantise_fraction = {self.quantise_fraction}: whole numbers have no layer norm; "
                "set lattice.norm = 'shift'"
            )
        if self.keep_every is not None and (self.keep_last is None or self.keep_every % self.checkpoint_every):
            raise ValueError(
                f"keep_every = {self.keep_every}: needs keep_last, and must be a multiple of checkpoint_every = "
                f"{self.checkpoint_every}; change one of them"
            )
        return self

    @property
    def horizon(self) -> int:
        """The steps that schedules, and whatever is a fraction of a run, are laid out over."""
        return self.schedule.steps or self.steps

    def check_world(self, world: int) -> int:
        """Volumes per rank; ConfigError unless ``world`` ranks share the batch evenly."""
        if world < 1 or self.batch % world:
            raise ConfigError(f"batch = {self.batch}: must be a multiple of the {world} ranks; change one of them")
        share = self.batch // world
        if self.micro_batches > share:
            raise ConfigError(
                f"micro_batches = {self.micro_batches}: a rank has {share} volumes an update; lower micro_batches"
            )
        return share


def parse_lattice_config(mapping: Mapping[str, Any]) -> LatticeTrainConfig:
    """``LatticeTrainConfig`` from parsed TOML or JSON; ConfigError in one line, one clause per problem."""
    try:
        return LatticeTrainConfig.model_validate(mapping)
    except ValidationError as error:
        raise ConfigError(problems_of(error)) from error
