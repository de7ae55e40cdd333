"""How a tuning is done: its space, its proxy, its budget, its seeds. All has a default that two cores can bear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from generator.toml_files import problems_of
from orchestration.errors import InvalidRequestError
from orchestration.tune.space import DEFAULT_SPACE, Space, check_space
from trainer.config import parse_config
from trainer.config_model import ConfigModel
from trainer.errors import ConfigError

Table = dict[str, Any]

PROXY_MODEL: Table = {"depth": 2, "dim": 64, "heads": 2}

PROXY_TRAIN: Table = {
    "steps": 600,
    "batch_sequences": 16,
    "eval_sequences": 128,
    "optimizer": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.1},
    "schedule": {"name": "cosine", "warmup_steps": 20, "final_fraction": 0.1},
}


class TuneSettings(ConfigModel):
    """A tuning's settings.

    ``train`` is the proxy's ``TrainConfig`` table, whose ``steps`` are the whole budget: a proposal's share of its
    tokens is synthetic, the rest the target's. ``seed`` is the search's, in proposals and proxies; confirmation is on
    ``seeds``. ``rungs`` evaluations of the language run are where ASHA may stop a trial; ``share`` is the incumbent's
    where no tuning has set one. A proposal whose band accepts less than ``min_acceptance`` is refused: its trial would
    be spent waiting for data.
    """

    space: Space = Field(default_factory=lambda: dict(DEFAULT_SPACE))
    model: Table = Field(default_factory=lambda: dict(PROXY_MODEL))
    train: Table = Field(default_factory=lambda: dict(PROXY_TRAIN))
    trials: int = Field(default=24, ge=1)
    seed: int = Field(default=0, ge=0)
    seeds: tuple[int, ...] = (101, 102, 103, 104, 105)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    share: float = Field(default=0.2, gt=0, lt=1)
    what: str = "attn"
    rungs: int = Field(default=3, ge=1, le=20)
    gate_sequences: int = Field(default=64, ge=1)
    min_acceptance: float = Field(default=0.02, ge=0.001, le=1)
    threads: int = Field(default=1, ge=1)


def parse_settings(mapping: Mapping[str, Any]) -> TuneSettings:
    """Settings from parsed TOML, tables merged over the defaults. InvalidRequestError in one line."""
    table = dict(mapping)
    if "seeds" in table and isinstance(table["seeds"], list):
        table["seeds"] = tuple(table["seeds"])
    if isinstance(table.get("train"), Mapping):
        table["train"] = {**PROXY_TRAIN, **table["train"]}
    try:
        settings = TuneSettings.model_validate(table)
        check_space(settings.space)
        stand_in = {"data": [{"dataset": "target@1"}], "model": settings.model}
        parse_config(settings.train | stand_in | {"transfer": {"source": "proxy@1", "what": settings.what}})
    except ValidationError as error:
        raise InvalidRequestError(f"settings: {problems_of(error)}; mend them") from error
    except ConfigError as error:
        raise InvalidRequestError(f"settings: {error}") from error
    if len(settings.seeds) < 2 or len({*settings.seeds}) < len(settings.seeds) or settings.seed in settings.seeds:
        raise InvalidRequestError(
            f"seeds = {list(settings.seeds)}: give two or more, each once, and none that is the search's own "
            f"(seed = {settings.seed}); confirmation must be on fresh ones"
        )
    return settings
