"""`morphogen … delete` in this process: by number, by name, undone; and nothing new is begun with the retired."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from datalake import Lake
from orchestration.cli import main
from orchestration.runs.owner import this_process
from tests.ray_fixtures import TINY_SPEC, toml_of
from tests.trainer.lake_data import tiny_config, tiny_lake
from trainer import TrainJob, run_training

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """``train@1``, from which run "run" made ``tiny@1``; ``held@1``; and parameters ``rules@1``, which made nothing."""
    opened = tiny_lake(tmp_path / "lake")
    run_training(TrainJob(tiny_config(steps=2, eval=[], publish="tiny"), opened, "run"), threads=1)
    opened.params.put("rules", TINY_SPEC)
    return opened


@pytest.fixture
def call(lake: Lake, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MORPHOGEN_LAKE", lake.uri)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        assert isinstance(exit_.value.code, int)
        return (exit_.value.code, *capsys.readouterr())

    return run


def refused(call: Call, *arguments: str) -> str:
    code, out, err = call(*arguments)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (code, len(errors), "Traceback" in err) == (2, 1, False), (out, err)
    return errors[0]


def test_what_depends_is_said_and_force_must_name_it(call: Call, lake: Lake) -> None:
    said = refused(call, "data", "delete", "train@1")
    assert said.startswith("error: dataset train@1 is needed by model tiny@1: retire these first, or force it by name")
    assert "force = 'train'" in refused(call, "data", "delete", "train@1", "--force", "train")
    assert "name it by number" in refused(call, "data", "delete", "train")
    assert "requires an argument" in refused(call, "data", "delete", "train@1", "--force")
    assert "leave one of them out" in refused(call, "data", "delete", "train@1", "--force", "train@1", "--undo")
    assert "model tiny@1" in refused(call, "runs", "delete", "run")
    assert call("data", "delete", "train@1", "--force", "train@1")[0] == 0
    code, out, _ = call("models", "delete", "tiny@1", "-m", "no use", "--json")
    assert (code, json.loads(out)["retired"]) == (0, True)
    code, out, _ = call("runs", "delete", "run", "--json")
    assert (code, json.loads(out)["state"]) == (0, "retired")
    assert "was retired before" in call("runs", "delete", "run")[1]
    assert call("params", "delete", "rules@1")[0] == 0
    shown = "".join(call(*command)[1] for command in (("data", "list"), ("models", "list"), ("params", "list")))
    assert shown.count("1 (retired)") == 3
    assert "retired" in call("runs", "list")[1]
    for command in (("params", "show", "rules@1"), ("data", "show", "train@1"), ("models", "show", "tiny@1")):
        assert "(retired)" in call(*command)[1].splitlines()[0]
    assert "(retired)" in call("params", "history", "rules")[1]
    tree = call("lineage", "tiny@1")[1]
    assert tree.count("(retired)") == 3
    assert lake.models.get("tiny@1").retired


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: object) -> Path:
        table = {"steps": 2, "batch_sequences": 4, "model": {"depth": 2, "dim": 16, "heads": 2}, **changes}
        data = table.pop("data", "held@1")
        path = tmp_path / f"train-{len(list(tmp_path.iterdir()))}.toml"
        path.write_text(toml_of(table) + f'[[data]]\ndataset = "{data}"\n')
        return path

    return write


def test_nothing_new_is_begun_with_what_is_retired(call: Call, config: Callable[..., Path], tmp_path: Path) -> None:
    for kind, ref in (("data", "train@1"), ("models", "tiny@1"), ("params", "rules@1")):
        assert call(kind, "delete", ref, "--force", ref)[0] == 0
    train = ("train", "--no-ray", "--run=new")
    for arguments, ref in (
        ((*train, config(data="train@1")), "dataset train@1"),
        ((*train, config(data="train")), "dataset train@1"),
        ((*train, config(eval=["train@1"])), "dataset train@1"),
        ((*train, config(transfer={"source": "tiny@1", "what": "all"})), "model tiny@1"),
        ((*train, config(init="tiny@1")), "model tiny@1"),
        (("generate", "rules@1", "--tokens", "1000"), "parameter set rules@1"),
        (("generate", "rules", "--tokens", "1000"), "parameter set rules@1"),
        (("tune", "rules@1", "--target", "held@1"), "parameter set rules@1"),
        (("models", "export", "tiny@1", tmp_path / "out"), "model tiny@1"),
        (("models", "evaluate", "tiny@1", "--data", "held@1"), "model tiny@1"),
        (("data", "export", "train@1", tmp_path / "out"), "dataset train@1"),
        (("data", "head", "train@1"), "dataset train@1"),
        (("data", "verify", "train@1"), "dataset train@1"),
        (("data", "heal", "train@1"), "dataset train@1"),
        (("params", "tag", "rules@1", "best"), "parameter set rules@1"),
        (("models", "tag", "tiny@1", "best"), "model tiny@1"),
    ):
        said = refused(call, *arguments)
        assert said.startswith(f"error: {ref} is retired, and what it named may be gone: use another version"), said
        assert "--undo" in said
    assert not (tmp_path / "out").exists()


def test_a_run_goes_on_after_undo_and_is_not_retired_while_somebody_works_on_it(call: Call, lake: Lake) -> None:
    assert call("models", "delete", "tiny@1")[0] == 0
    assert call("runs", "delete", "run")[0] == 0
    assert call("runs", "delete", "run", "--undo")[0] == 0
    assert call("models", "delete", "tiny@1", "--undo")[1] == "tiny@1 is in use again\n"
    assert lake.runs.get("run").status == "finished"
    assert lake.models.open_file("tiny@1", "config.json")
    run = lake.runs.start("busy", "train", {}, {"datasets": ["held@1"]}, about={"holder": this_process()})
    run.send_heartbeat(1, {})
    assert "run busy" in refused(call, "data", "delete", "held@1")
    lake.runs.start("left", "train", {}, {}, about={"holder": this_process() | {"started": 0}})
    assert call("runs", "delete", "left")[0] == 0
    assert "retired" in refused(call, "runs", "resume", "left")
