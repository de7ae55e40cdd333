"""What a benchmark's arguments may not be ends in one line and exit code 2, before anything is measured."""

import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from benchmarks import arguments
from benchmarks.gpu.conductor import has_cuda_driver

ROOT = Path(__file__).resolve().parents[1]


def refused(*words: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 2, ended
    assert "Traceback" not in ended.stderr
    return ended.stderr.splitlines()[-1]


def test_a_gpu_run_says_what_it_cannot_use(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    command = ("benchmarks.gpu", "--toy", "--out", str(tmp_path / "out"))
    assert "--minutes: nan: allowed are numbers above 0" in refused(*command, "--minutes", "nan")
    assert "allowed are 0.05 to 1440" in refused(*command, "--minutes", "2000")
    assert f"{file} is no folder" in refused("benchmarks.gpu", "--toy", "--out", str(file / "below"))
    assert "there is no such folder" in refused(*command, "--data", str(tmp_path / "none"))
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(has_cuda_driver(), reason="for machines without a GPU")
def test_a_gpu_run_wants_a_gpu(tmp_path: Path) -> None:
    assert "no CUDA driver" in refused("benchmarks.gpu", "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "", "5"])
def test_a_number_is_whole_and_within_its_limits(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="allowed are whole numbers from 1 to 4"):
        arguments.whole(1, 4)(text)
    assert arguments.whole(1, 4)("4") == 4


@pytest.mark.parametrize("text", ["0", "-0.5", "nan", "inf", "soon"])
def test_a_duration_is_a_number_above_zero(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="above 0"):
        arguments.above_zero(text)
    assert arguments.above_zero("0.25") == 0.25


def test_a_folder_may_be_new_or_there_but_lies_in_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    assert arguments.folder(str(tmp_path / "a/b")) == tmp_path / "a/b"
    assert arguments.folder(str(tmp_path)) == tmp_path
    for taken in ("file", "file/below", "nowhere/below"):
        with pytest.raises(ArgumentTypeError, match="is no folder"):
            arguments.folder(str(tmp_path / taken))
