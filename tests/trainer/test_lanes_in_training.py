"""Runs in an order by lanes: any world and any resume reads the same rows, and runs of before keep their order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import morphogen
from datalake import Lake
from tests.trainer.lake_data import add_dataset, curve, patterned, tiny_config, tiny_lake
from trainer import TrainJob, load_metrics, local_batches, parse_config, run_training
from trainer.errors import ConfigError, PlanMismatchError
from trainer.inputs import open_inputs


class Killed(BaseException):
    """Leaves the loop as nothing it catches could."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return tiny_lake(tmp_path_factory.mktemp("lanes") / "lake")


def test_worlds_read_parts_of_one_batch_across_epochs(lake: Lake) -> None:
    inputs = open_inputs(tiny_config(batch_sequences=12, lanes=12), lake)
    assert (inputs.plan.lanes, inputs.plan.describe()["algorithm"]) == (12, 2)
    alone = list(local_batches(inputs.plan, 0, 12, 1, 0, inputs.train))
    at = 0
    for world, steps in ((1, 3), (4, 3), (2, 3), (3, 3)):  # 22 rows: an epoch ends in every other batch
        ranks = [local_batches(inputs.plan, at, at + steps, world, rank, inputs.train) for rank in range(world)]
        for parts in zip(*ranks, strict=True):
            assert np.concatenate([part.rows for part in parts]).tolist() == alone[at].rows.tolist()
            assert np.array_equal(np.concatenate([np.asarray(part.tokens) for part in parts]), alone[at].tokens)
            at += 1


def test_a_killed_run_goes_on_in_its_order(lake: Lake) -> None:
    def train(run: str, kill_at: int | None = None, **changes: Any) -> list[tuple]:
        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "step" and event["step"] == kill_at:
                raise Killed

        config = tiny_config(**changes)
        if kill_at is not None:
            with pytest.raises(Killed):
                run_training(TrainJob(config, lake, run), on_event=on_event, threads=1)
        run_training(TrainJob(config, lake, run), threads=1)
        return curve(load_metrics(lake, run))

    whole = train("whole", lanes=4)
    assert train("killed", kill_at=7, lanes=4) == whole
    assert train("without") != whole
    state = lake.runs.get("whole").state
    assert state["config"]["lanes"] == 4
    assert "lanes" not in lake.runs.get("without").state["config"], "as runs of before: same config, same digest"
    assert open_inputs(parse_config(lake.runs.get("without").state["config"]), lake).plan.lanes is None


def test_the_loader_for_anybodys_loop_takes_lanes(lake: Lake) -> None:
    data = morphogen.LakeDataset(lake.uri, "train@1")
    settings: dict[str, Any] = {"batch": 8, "seed": 5, "lanes": 8}
    whole = morphogen.plan_loader(data, **settings)
    parts = [morphogen.plan_loader(data, **settings, rank=rank, world=4) for rank in range(4)]
    for step in (0, 2, 40):
        assert torch.equal(torch.cat([part.batch(step) for part in parts]), whole.batch(step))
    trained = open_inputs(tiny_config(batch_sequences=8, lanes=8, seed=5), lake)
    assert trained.plan == whole.plan
    with pytest.raises(PlanMismatchError):
        morphogen.plan_loader(data, batch=8, seed=5).load_state_dict(whole.state_dict())


def test_what_cannot_be_is_refused(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lanes = 3: must divide batch_sequences = 4; 4 does"):
        parse_config(tiny_config().model_dump(mode="json") | {"lanes": 3})
    many = Lake.open(str(tmp_path / "lake"))
    add_dataset(many, "train", patterned(65), shard=1)
    config = tiny_config(eval=[], lanes=4)
    with pytest.raises(ConfigError, match="lanes = 4: dataset train@1 has 65 shards of an older format"):
        open_inputs(config, many)
    assert open_inputs(tiny_config(eval=[]), many).plan.lanes is None
    assert open_inputs(config, lake).plan.lanes == 4
