"""Every file of examples/ runs for a few steps, with the libraries it is about, and stays short."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from orchestration.cli import main
from tests.trainer.lake_data import tiny_lake

FOLDER = Path(__file__).resolve().parents[1] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs_and_says_what_it_came_to(path, tmp_path, monkeypatch, capsys):
    arguments = ["--steps", "3"]
    if path.stem == "token_file":
        lake = tiny_lake(tmp_path / "lake")
        (name, *_) = sorted(lake.datasets.names())
        folder = tmp_path / "exported"
        with pytest.raises(SystemExit) as ended:
            main(["data", "export", name, str(folder), "--format", "bin", "--lake", lake.uri])
        assert ended.value.code == 0
        (file,) = folder.glob("*.bin")
        assert file.name == re.search(r"exported/(\S+\.bin)", path.read_text())[1]
        arguments = [str(file), "--block", "16", *arguments]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    runpy.run_path(str(path), run_name="__main__")
    assert re.search(r"loss \d+\.\d+ nats", capsys.readouterr().out)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_short_and_named_in_the_folder_s_page(path):
    assert len(path.read_text().splitlines()) < 60
    assert f"[{path.name}]({path.name})" in (FOLDER / "README.md").read_text()
