"""What a pipeline is made of: parameters, how much to generate, and up to three trainings, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from datalake.shards.source import MOST_SHARD_SEQUENCES
from generator import parse_spec
from generator.toml_files import problems_of
from orchestration.errors import InvalidRequestError
from trainer import TrainConfig, parse_config
from trainer.config_model import ConfigModel
from trainer.errors import ConfigError

PRE, LANGUAGE, BASELINE = "pre", "language", "baseline"


class GenerateConfig(ConfigModel):
    """How much synthetic data there is to be. ``dataset`` is named like the pipeline unless named here; a second one,
    NAME-heldout, gets ``heldout_sequences`` sequences from the next seed for evaluation."""

    tokens: int = Field(ge=1)
    dataset: str | None = None
    seed: int = Field(default=0, ge=0, lt=2**63 - 1)
    shard_sequences: int = Field(default=4096, ge=1, le=MOST_SHARD_SEQUENCES)
    heldout_sequences: int = Field(default=256, ge=0)


class PipelineConfig(ConfigModel):
    """One pipeline. ``params`` is a spec or "NAME@V" (or an alias) in the registry.

    ``pre`` is a training config whose ``data`` is the synthetic dataset and whose ``eval`` its held-out part, unless
    they are given; ``language`` is one that starts from what ``pre`` published where its ``transfer`` names no
    ``source``; with ``baseline`` the same is trained without transfer, too. Each publishes NAME-pre, NAME-language or
    NAME-baseline unless it says otherwise.
    """

    name: str
    params: str | dict[str, Any]
    generate: GenerateConfig
    pre: dict[str, Any]
    language: dict[str, Any] | None = None
    baseline: bool = False

    @property
    def dataset(self) -> str:
        """Name of the synthetic dataset."""
        return self.generate.dataset or self.name

    def trainings(self) -> tuple[str, ...]:
        """The trainings, in their order."""
        return (PRE, *((LANGUAGE,) if self.language is not None else ()), *((BASELINE,) if self.baseline else ()))

    def training(self, stage: str, *, dataset: str, heldout: str | None, model: str | None) -> TrainConfig:
        """The config of one training, given what the stages before it made ("NAME@V" each). Raises ConfigError."""
        fields: dict[str, Any] = {"publish": f"{self.name}-{stage}"}
        if stage == PRE:
            fields |= {"data": [{"dataset": dataset}], "eval": [heldout] if heldout else []}
            fields |= self.pre
        else:
            fields |= self.language or {}
            if stage == BASELINE:
                fields |= {"transfer": None, "publish": f"{self.name}-{stage}"}
            elif isinstance(fields.get("transfer"), Mapping):
                fields["transfer"] = {"source": model, **fields["transfer"]}
        try:
            return parse_config(fields)
        except ConfigError as error:
            raise ConfigError(f"[{LANGUAGE if stage == BASELINE else stage}] {error}") from error


def parse_pipeline(mapping: Mapping[str, Any], name: str) -> PipelineConfig:
    """``PipelineConfig`` from parsed TOML or JSON, every part of it checked; ``name`` is used where it has none.

    Raises InvalidRequestError, ConfigError (a training) or what ``parse_spec`` raises, in one line each.
    """
    try:
        config = PipelineConfig.model_validate({"name": name, **mapping})
    except ValidationError as error:
        raise InvalidRequestError(f"pipeline {name}: {problems_of(error)}; mend the file") from error
    if config.baseline and config.language is None:
        raise InvalidRequestError(f"pipeline {name}: baseline = true needs [language]; add it or leave baseline out")
    if isinstance(config.params, Mapping):
        parse_spec(dict(config.params))
    for stage in config.trainings():
        config.training(stage, dataset="data@1", heldout="data-heldout@1", model="model@1")
    return config
