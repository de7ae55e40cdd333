"""The recipe of `experiments/slowrun.toml` at toy size: every option of it on, with and without the stage before."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from datalake import Lake
from orchestration.experiment.analysis.checks import check_arms
from orchestration.experiment.config.configs import Refs, language_config, pre_config
from orchestration.experiment.config.load import parse_experiment
from orchestration.experiment.run.runner import run_experiment
from tests.orchestration.experiment.test_file_arms import merged
from tests.ray_fixtures import ROOT
from trainer.epochs import repeats_from
from trainer.hf_layout import CONFIG, from_hf_config, read_config
from trainer.layer_order import layer_order

SLOWRUN = tomllib.loads((ROOT / "experiments" / "slowrun.toml").read_text())
SPEC = {"grid": [6, 6], "colors": 3, "embed": 2, "hidden": 4, "burn_in": 2, "seq_len": 64}

SMALL: dict[str, Any] = {
    "name": "slowrun-twin",
    "seeds": [1],
    "factors": {"pre": ["none", "nca"], "pre_optimizer": ["adamw"], "optimizer": ["muon"], "decay": ["native"]},
    "corpus": {"paths": [str(Path(json.__file__).parent)], "patterns": ["*.py"], "tokenizer": "bytes", "seq_len": 64},
    "model": {"depth": 4, "dim": 16, "heads": 2, "window": 32, "repeat": {"first": 2, "last": 2}},
    "pre": {"spec": SPEC, "gate_sequences": 8, "train": {"steps": 12, "batch_sequences": 8, "precision": "fp32"}},
    "train": {
        "steps": 50,
        "batch_sequences": 8,
        "micro_batches": 2,
        "eval_sequences": 8,
        "eval_every": 10,
        "checkpoint_every": 2,
        "transfer": {"freeze_steps": 3, "ramp_steps": 2},
        "optimizer": {"lr": 9e-3},
        "schedule": {"warmup_steps": 2},
        "precision": "fp32",
    },
}


def twin() -> dict[str, Any]:
    """The file's table with smaller numbers; rates are not tried."""
    table = merged(SLOWRUN, SMALL)
    table["pre"]["train"]["schedule"]["warmup_steps"] = 2
    del table["sweep"]
    return table


def paths_of(table: Mapping[str, Any], place: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from paths_of(value, f"{place}{name}.")
        else:
            yield f"{place}{name}"


def test_the_twin_sets_whatever_the_file_sets_of_model_and_training() -> None:
    parts = [f"{part}." for part in ("model", "train", "pre.model", "pre.train")]
    set_there, set_here = (
        {path for path in paths_of(table) if path.startswith(tuple(parts))} for table in (SLOWRUN, twin())
    )
    assert set_there <= set_here


def test_the_file_is_the_recipe() -> None:
    """Of the language run: from epoch 12 of 25 on layers repeat, the rate cycles in the last 6, the last 7 predict."""
    file = parse_experiment(SLOWRUN)
    epoch = 191
    for cell in file.cells:
        config = language_config(file, cell, 1, Refs(), source="m@1")
        assert config.steps == 25 * epoch
        assert repeats_from(config, 97_656) == 11 * epoch
        assert config.ensemble_steps == [epoch * number for number in range(19, 26)]
        cycle = config.schedule.cycle
        assert cycle is not None
        assert (cycle.count, round((cycle.fraction or 0) * config.steps)) == (6, epoch)
        trial = language_config(file, cell, 1000, Refs(), source="m@1", rate=1e-3, steps=955)
        assert (trial.ensemble, trial.steps) == (None, 955)
        if cell["pre"] != "none":
            before = pre_config(file, cell, 1, Refs()).model.shape(9)
            assert layer_order(before) == [*range(12)]
            assert before.window_pattern == "SSSL"


@pytest.mark.timeout(300)
def test_it_runs_with_and_without_pre_pre_training_under_one_hash(tmp_path: Path) -> None:
    lake, file = Lake.open(str(tmp_path / "lake")), parse_experiment(twin(), folder=tmp_path)
    result = run_experiment(lake, file, ray=False)
    none, nca = result.arms
    assert [arm.status for arm in (none, nca)] == ["finished"] * 2, [arm.error for arm in (none, nca)]
    assert [arm.arm.factors["pre"] for arm in (none, nca)] == ["none", "nca"]
    assert none.shared_hash == nca.shared_hash
    assert none.checks == nca.checks
    assert not [each for each in check_arms(result) if each.effect == "refused" and each.check != "labels"]
    for arm in (none, nca):
        assert arm.run is not None
        (scores,) = lake.runs.get(arm.run).state["result"]["evals"].values()
        assert arm.final_loss == scores["ensemble"]["loss"] != scores["loss"]
        assert scores["ensemble"]["steps"] == [38, 40, 42, 44, 46, 48, 50]
    moved = lake.runs.get(str(nca.run)).state["result"]["facts"]["moved"]
    assert {name.rpartition("self_attn.")[2] for name in moved} == {
        *(f"{part}_proj.weight" for part in "qkvo"),
        "value_gate.weight",
    }
    assert nca.pre_config is not None
    language, before = (
        from_hf_config(read_config(lake.models.open_file(f"{name}@1", CONFIG)))
        for name in (str(nca.model).partition("@")[0], nca.pre_config["publish"])
    )
    assert (layer_order(language), layer_order(before)) == ([0, 1, 2, 2, 2, 3], [0, 1, 2, 3])
