"""`morphogen models export`: a folder that stands alone, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from datalake import Lake
from orchestration.cli import main
from tests.trainer.lake_data import tiny_config, tiny_lake
from trainer import hf_layout, run_training


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = tiny_lake(tmp_path_factory.mktemp("export") / "lake")
    run_training(tiny_config(steps=2, eval=[], publish="tiny"), lake, "run", threads=1)
    return lake


def export(lake: Lake, *arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["models", "export", *map(str, arguments), "--lake", lake.store.uri])
    code = exit_.value.code or 0
    assert isinstance(code, int)
    return code


def test_the_folder_holds_the_model_and_its_origins(lake: Lake, tmp_path: Path) -> None:
    assert export(lake, "tiny@1", tmp_path / "out", "--format", "hf") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "lineage.json",
        "model.safetensors",
    ]
    model = hf_layout.from_files(
        (tmp_path / "out" / hf_layout.CONFIG).read_bytes(), (tmp_path / "out" / hf_layout.WEIGHTS).read_bytes()
    )
    assert model.shape.layers == 2
    assert json.loads((tmp_path / "out" / "lineage.json").read_text())["model"]["ref"] == "tiny@1"


def test_transformers_opens_it_and_generates(lake: Lake, tmp_path: Path) -> None:
    """Needs the ``hf`` extra."""
    transformers = pytest.importorskip("transformers")
    assert export(lake, "tiny", tmp_path / "out") == 0
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    prompt_BT = torch.arange(6)[None]
    longer_BT = model.generate(prompt_BT, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert longer_BT.shape == (1, 11)


def test_refusals_write_nothing(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(lake, "nobody@1", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("kept")
    assert export(lake, "tiny@1", tmp_path / "full") == 2
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]
    assert "is not an empty folder; give a new one" in capsys.readouterr().err
