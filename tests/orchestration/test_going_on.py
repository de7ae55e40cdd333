"""`train` asked for more: what a finished run says, --extend, and `init` from the lake or a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datalake import Lake
from orchestration.cli import main
from tests.ray_fixtures import toml_of
from tests.trainer.lake_data import tiny_config, tiny_lake

Call = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def train(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """`train` with a config of these fields; returns (exit code, what it prints as JSON, stderr)."""
    tiny_lake(tmp_path / "lake")

    def run(*arguments: str | Path, **changes: Any) -> tuple[int, dict[str, Any], str]:
        fields = tiny_config(steps=2, schedule={}, eval=[], publish="m").model_dump(mode="json", exclude_defaults=True)
        fields = {**fields, **changes}
        tables = {name: fields.pop(name) for name in ("data", "model", "optimizer") if name in fields}
        text = toml_of({**fields, **{name: tables[name] for name in ("model", "optimizer") if tables.get(name)}})
        (tmp_path / "train.toml").write_text(text + f'[[data]]\ndataset = "{tables["data"][0]["dataset"]}"\n')
        with pytest.raises(SystemExit) as exit_:
            main([*map(str, ("train", tmp_path / "train.toml", "--no-ray", "--json", *arguments)),
                  "--lake", str(tmp_path / "lake")])  # fmt: skip
        printed = capsys.readouterr()
        code = int(exit_.value.code or 0)
        return code, json.loads(printed.out) if code == 0 else {}, printed.err

    return run


def test_more_steps_for_a_finished_run(train: Call, tmp_path: Path) -> None:
    assert train("--run", "r")[0] == 0
    code, _, said = train("--run", "r", steps=5)
    assert code == 2
    assert "steps = 2, not 5" in said
    assert "--extend" in said
    assert "Traceback" not in said
    code, result, _ = train("--run", "r", "--extend", steps=5)
    assert (code, result["step"], result["model"]) == (0, 5, "m@2")
    state = Lake.open(str(tmp_path / "lake")).runs.get("r").state
    assert state["config"]["schedule"]["steps"] == 2
    assert train("--run", "r", "--extend", steps=5)[1]["step"] == 5
    code, _, said = train("--run", "r", "--extend", steps=6, data=[{"dataset": "held@1"}])
    assert code == 2
    assert "data.0.dataset = 'held@1': run 'r' was trained with 'train@1'" in said
    code, _, said = train("--extend", steps=5)
    assert code == 2
    assert "name it with --run" in said


def test_a_run_without_a_name_says_that_it_begins_anew(train: Call) -> None:
    _, first, said = train()
    assert "begins anew, at step 0 of 2" in said
    assert "begins anew" not in train()[2]
    _, second, said = train(steps=3)
    assert second["run"] != first["run"]
    assert f"run {first['run']} of the same file has steps = 2: `--run {first['run']}`" in said


def test_init_from_the_lake_and_from_a_folder(train: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--run", "r")[0] == 0
    code, result, _ = train(init="m", model={"dropout": 0.1}, steps=1, publish="more")
    assert (code, result["step"]) == (0, 1)
    lake = Lake.open(str(tmp_path / "lake"))
    assert lake.models.get("more").parents == ("m@1",)
    with pytest.raises(SystemExit):
        main(["models", "export", "more", str(tmp_path / "folder"), "--lake", lake.uri])
    capsys.readouterr()
    code, result, _ = train(init=str(tmp_path / "folder"), model={}, steps=1, publish="third")
    assert (code, lake.models.get("third").parents) == (0, ("init-folder@1",))
    for init, says in (("nobody", "no model named 'nobody'"), ("./nowhere", "init = 'nowhere': cannot be read")):
        code, _, said = train(init=init, model={})
        assert code == 2
        assert says in said
    code, _, said = train(init="m", model={"depth": 7})
    assert code == 2
    assert "model.layers = 7: init = 'm@1' has 2" in said
