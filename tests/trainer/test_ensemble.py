"""The last checkpoints' predictions averaged: against models that are opened one by one, and nothing stays changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

from datalake import Lake
from tests.trainer.lake_data import patterned, tiny_config, tiny_lake
from trainer import TrainConfig, TrainJob, ensemble, load_metrics, run_training
from trainer.config import EnsembleConfig
from trainer.documents import numbered
from trainer.ensemble import Ensemble, weights_of
from trainer.errors import CheckpointError
from trainer.model import Llama


def config(**changes: Any) -> TrainConfig:
    return tiny_config(**{"ensemble": {"checkpoints": 3}, "keep_last": 1, **changes})


def averaged(models: list[Llama], tokens_BT: torch.Tensor, mean: str) -> float:
    """Nats per token of the plain mean, in a few lines."""
    logits = torch.stack([model.logits(tokens_BT[:, :-1]).double() for model in models])
    probabilities = logits.softmax(-1).mean(0) if mean == "probabilities" else logits.mean(0).softmax(-1)
    return float(-probabilities.gather(-1, tokens_BT[:, 1:, None]).log().mean())


@pytest.mark.parametrize("mean", ["logits", "probabilities"])
def test_the_run_s_end_is_scored_by_its_last_checkpoints_together(tmp_path, mean: str, monkeypatch) -> None:
    """Fourteen steps with a checkpoint each third: 9, 12 and 14, which are kept for it; in passes of two rows."""
    monkeypatch.setattr(ensemble, "LOGITS", 2 * 24 * 32)
    lake = tiny_lake(tmp_path / "lake")
    found = run_training(TrainJob(config(ensemble={"checkpoints": 3, "mean": mean}), lake, "run"), threads=1)
    run = lake.runs.get("run")
    assert [checkpoint.step for checkpoint in run.checkpoints] == [9, 12, 14]
    models = []
    for checkpoint in run.checkpoints:
        model = Llama(config().model.shape(32), None)
        model.load_state_dict(load(run.open_checkpoint(checkpoint)["model.safetensors"]))
        models.append(model)
    tokens_BT = torch.from_numpy(patterned(10, seed=1).astype(np.int64))
    scores = found.evals["held@1"]
    with torch.no_grad():
        assert scores["ensemble"]["loss"] == pytest.approx(averaged(models, tokens_BT, mean), rel=1e-5)
        assert scores["loss"] == pytest.approx(averaged(models[-1:], tokens_BT, mean), rel=1e-5)
    assert scores["ensemble"]["steps"] == [9, 12, 14]
    assert scores["ensemble"]["loss"] != scores["loss"]
    plain = run_training(TrainJob(config(ensemble=None), lake, "plain"), threads=1)
    assert plain.evals["held@1"] == {name: value for name, value in scores.items() if name != "ensemble"}
    assert [checkpoint.step for checkpoint in lake.runs.get("plain").checkpoints] == [14]
    rows = [row["eval"]["held@1"] for row in load_metrics(lake, "run") if "eval" in row]
    assert ["ensemble" in row for row in rows] == [False, False, True]


def test_the_model_has_its_own_weights_again_and_documents_stay_apart() -> None:
    shape = config().model.shape(32)
    models = [Llama(shape, seed) for seed in range(3)]
    own = weights_of(models[2])
    tokens_BT = torch.from_numpy(patterned(3).astype(np.int64))
    documents_BT = numbered(tokens_BT, int(tokens_BT[0, 3]))
    together = Ensemble(models[2], [weights_of(model) for model in models], EnsembleConfig(checkpoints=3))
    losses_BT, hits_BT = together.scores(tokens_BT, documents_BT)
    logits = sum(model.logits(tokens_BT[:, :-1], documents_BT[:, :-1]) for model in models) / 3
    assert isinstance(logits, torch.Tensor)
    expected_BT = -logits.log_softmax(-1).gather(-1, tokens_BT[:, 1:, None])[..., 0]
    torch.testing.assert_close(losses_BT, expected_BT)
    assert torch.equal(hits_BT, logits.argmax(-1) == tokens_BT[:, 1:])
    assert not torch.allclose(losses_BT, together.scores(tokens_BT)[0])
    assert all(torch.equal(weight, own[name]) for name, weight in models[2].named_parameters())


@pytest.mark.parametrize(
    ("steps", "every", "count", "found"), [(14, 3, 3, [9, 12, 14]), (12, 3, 4, [3, 6, 9, 12]), (5, 4, 2, [4, 5])]
)
def test_which_checkpoints_they_are(steps: int, every: int, count: int, found: list[int]) -> None:
    made = tiny_config(steps=steps, checkpoint_every=every, ensemble={"checkpoints": count})
    assert made.ensemble_steps == found
    assert tiny_config().ensemble_steps == []
    assert "ensemble" not in tiny_config().model_dump()
    with pytest.raises(ValueError, match=rf"ensemble.checkpoints = 9: {steps} steps, one each {every}, make"):
        tiny_config(steps=steps, checkpoint_every=every, ensemble={"checkpoints": 9})


class Killed(BaseException):
    """Leaves the loop as nothing it catches could."""


def test_a_checkpoint_that_is_gone_is_named(tmp_path) -> None:
    lake = tiny_lake(tmp_path / "lake")

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 13:
            raise Killed

    with pytest.raises(Killed):
        run_training(TrainJob(config(), lake, "run"), on_event=watch, threads=1)
    drop(lake, "run", 9)
    with pytest.raises(CheckpointError, match=r"ensemble: the checkpoint of step 9 cannot be read: the run keeps none"):
        run_training(TrainJob(config(), lake, "run"), threads=1)


def drop(lake: Lake, run: str, step: int) -> None:
    record = lake.runs.start(run, "train", *(lake.runs.get(run).state[name] for name in ("config", "inputs")))
    record.drop_checkpoints([checkpoint for checkpoint in record.checkpoints if checkpoint.step == step])
