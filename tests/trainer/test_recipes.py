"""Three recipes with their losses on file, and the one with everything in it killed after each of its steps."""

import json
from pathlib import Path
from typing import Any

import pytest

from datalake import Lake
from tests.trainer.lake_data import add_dataset, curve, eval_curve, machine, patterned, tiny_config, tiny_lake
from trainer import TrainConfig, TrainJob, load_metrics, run_training
from trainer.errors import DivergedError

GOLDEN = Path(__file__).with_name("golden_recipes.json")
FRAMED = {"family": "nca", "grid": [4, 4], "patch": 2}  # frames of 6 tokens, four in a sequence of 24

RECIPES: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": {"lr": 1e-2}, "schedule": {"warmup_steps": 5}},
    "muon": {
        "optimizer": {"name": "muon", "lr": 1e-2, "muon": {"lr": 2e-2, "momentum_warmup_steps": 20}},
        "schedule": {"name": "wsd", "warmup_steps": 5, "decay": "sqrt", "decay_fraction": 0.4},
    },
    "hybrid": {
        "optimizer": {"name": "hybrid", "lr": 1e-2},
        "schedule": {"warmup_steps": 5},
        "transfer": {"source": "pre@1", "what": "attn+norm", "freeze_steps": 5, "ramp_steps": 10},
    },
}


def everything() -> TrainConfig:
    """Twelve steps with all that keeps state, or changes during the run, or draws."""
    return tiny_config(
        data=[
            {"dataset": "framed@1", "weight": 1.0, "share": "annealed", "until_fraction": 0.6},
            {"dataset": "train@1", "weight": 2.0},
        ],
        eval=["framed@1"],
        model={
            "depth": 2,
            "dim": 16,
            "heads": 2,
            "kv_heads": 1,
            "qk_norm": True,
            "dropout": 0.1,
            "recompute": True,
            "learned_positions": 23,
            "window_pattern": "S",
            "window": 7,
            "value_embeddings": True,
            "repeat": {"first": 0, "last": 0, "times": 2, "from_fraction": 0.4},
        },
        optimizer={
            "name": "hybrid",
            "lr": 1e-2,
            "weight_decay_final_fraction": 0.1,
            "muon": {"momentum_warmup_steps": 9},
        },
        schedule={
            "name": "wsd",
            "warmup_steps": 2,
            "decay": "sqrt",
            "decay_fraction": 0.5,
            "cycle": {"count": 2, "steps": 3},
        },
        transfer={"source": "pre@1", "what": "mlp", "freeze_steps": 4, "ramp_steps": 4, "decay_toward": "source"},
        average={"decay": 0.8, "start_fraction": 0.3},
        ensemble={"checkpoints": 3, "mean": "probabilities"},
        loss_mask="first_frame+delimiters",
        micro_batches=2,
        steps=12,
        keep_last=2,
        publish="everything",
    )


def prepare(path: Path) -> Lake:
    """A lake with ``pre@1`` to start from and ``framed@1``."""
    lake = tiny_lake(path)
    add_dataset(lake, "framed", patterned(16, seed=2), **FRAMED)
    run_training(TrainJob(tiny_config(publish="pre", steps=6, eval=[]), lake, "pre"), threads=1)
    return lake


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return prepare(tmp_path_factory.mktemp("recipes") / "lake")


@pytest.fixture(scope="module")
def everything_whole(prepared: Lake) -> Lake:
    run_training(TrainJob(everything(), prepared, "whole"), threads=1)
    return prepared


def losses(lake: Lake, recipe: str) -> list[float]:
    config = tiny_config(**RECIPES[recipe], steps=50, eval=[], checkpoint_every=50)
    run_training(TrainJob(config, lake, f"recipe-{recipe}"), threads=1)
    return [row[1] for row in curve(load_metrics(lake, f"recipe-{recipe}"))]


@pytest.mark.parametrize("recipe", RECIPES)
def test_golden_losses(prepared: Lake, recipe: str) -> None:
    """Bit for bit where torch, its kernels and the CPU are those of the file; alike elsewhere (Muon works in bf16)."""
    golden, found = json.loads(GOLDEN.read_text()), losses(prepared, recipe)
    if golden["machine"] == machine():
        assert found == golden["losses"][recipe]
    else:
        assert found == pytest.approx(golden["losses"][recipe], rel=2e-2)
    assert sum(found[-5:]) < sum(found[:5])


class Killed(BaseException):
    """Leaves the loop as nothing it catches could."""


@pytest.mark.parametrize("kill_at", range(1, 13))
def test_everything_killed_after_any_step(everything_whole: Lake, kill_at: int) -> None:
    lake, run = everything_whole, f"killed-{kill_at}"

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == kill_at:
            raise Killed

    with pytest.raises(Killed):
        run_training(TrainJob(everything(), lake, run), on_event=watch, threads=1)
    run_training(TrainJob(everything(), lake, run), threads=1)
    found, expected = load_metrics(lake, run), load_metrics(lake, "whole")
    assert curve(found) == curve(expected)
    assert eval_curve(found) == eval_curve(expected)
    files = [version.files for version in lake.models.history("everything")]
    assert all(each == files[0] for each in files)


def test_everything_says_what_it_does(everything_whole: Lake) -> None:
    run = everything_whole.runs.get("whole")
    facts = run.state["result"]["facts"]
    assert {name: (group["rule"], group["tensors"]) for name, group in facts["groups"].items()} == {
        "hidden": ("muon", 9),
        "hidden/transferred": ("adamw", 6),
        "head": ("adamw", 1),
        "embedding": ("adamw", 3),
        "norm": ("adamw", 9),
    }
    assert sorted(facts["moved"]) == sorted(
        f"model.layers.{layer}.mlp.{part}_proj.weight" for layer in range(2) for part in ("gate", "up", "down")
    )
    [scores] = run.state["result"]["evals"].values()
    assert scores["tokens"] == 16 * (3 * 4)  # three frames of four patches after the first
    assert len(scores["frames"]) == 4
    assert scores["loss"] == pytest.approx(sum(scores["frames"][1:]) / 3)


def test_old_checkpoints_go_and_the_curve_stays(everything_whole: Lake) -> None:
    lake = everything_whole
    run = lake.runs.get("whole")
    assert [checkpoint.step for checkpoint in run.checkpoints] == [6, 9, 12]
    assert len(curve(load_metrics(lake, "whole"))) == 12
    kept = {key for key in lake.store.list("checkpoints/whole/") if not key.endswith("metrics.jsonl")}
    assert kept == {f"{item.key_prefix}/{name}" for item in run.checkpoints for name in item.files}


def test_permanent_checkpoints_stay(prepared: Lake) -> None:
    config = tiny_config(steps=13, eval=[], checkpoint_every=2, keep_last=1, keep_every=4)
    run_training(TrainJob(config, prepared, "permanent"), threads=1)
    assert [checkpoint.step for checkpoint in prepared.runs.get("permanent").checkpoints] == [4, 8, 12, 13]


def test_a_loss_that_leaps_keeps_the_checkpoint(prepared: Lake) -> None:
    config = tiny_config(
        steps=60,
        eval=[],
        optimizer={"lr": 0.3, "grad_clip": None},
        schedule={"warmup_steps": 60},
        spike_nats=0.05,
    )
    with pytest.raises(DivergedError, match=r"is more than spike_nats = 0\.05 above its recent mean"):
        run_training(TrainJob(config, prepared, "leaps"), threads=1)
    run = prepared.runs.get("leaps")
    assert run.status == "failed"
    assert run.checkpoints[-1].step >= 18


def test_event_files(prepared: Lake, tmp_path: Path) -> None:
    config = tiny_config(steps=3, tensorboard=str(tmp_path / "events"))
    run_training(TrainJob(config, prepared, "watched"), threads=1)
    [written] = (tmp_path / "events" / "watched").iterdir()
    data = written.read_bytes()
    assert b"train/loss" in data
    assert b"eval/held.1/perplexity" in data


def write_golden(folder: Path) -> None:
    """`python -c "…write_golden(Path('/tmp/x'))"` after a change that is meant to change the losses."""
    lake = prepare(folder)
    found = {recipe: losses(lake, recipe) for recipe in RECIPES}
    GOLDEN.write_text(json.dumps({"machine": machine(), "losses": found}, indent=1) + "\n")
