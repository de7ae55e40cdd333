"""Output that goes nowhere, to a full disk, or to a terminal that knows ASCII only; files that cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from datalake.registry.access import AccessError
from datalake.registry.http_client import RegistryClient
from orchestration.cli import main
from tests.ray_fixtures import ROOT
from tests.serve.lake_content import SPEC, put


@pytest.fixture(scope="module")
def lake_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    from datalake import Lake

    folder = str(tmp_path_factory.mktemp("streams") / "lake")
    for number in range(3):
        put(Lake.open(folder), f"set-{number}", {**SPEC, "hidden": 4 + number}, "naïve – “quoted” …")
    return folder


def morphogen(lake: str, redirection: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command by a shell that sends its output as ``redirection`` says."""
    command = ["bash", "-c", f'"$@" {redirection}', "bash", sys.executable, "-m", "orchestration", *arguments]
    return subprocess.run(
        [*command, "--lake", lake],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_reader_that_has_gone_is_no_fault(lake_folder):
    command = ["bash", "-c", 'exec 3> >(exec true); wait $!; "$@" >&3', "bash", sys.executable, "-m", "orchestration"]
    found = subprocess.run(
        [*command, "params", "list", "--lake", lake_folder],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (found.returncode, found.stderr) == (141, ""), "as SIGPIPE ends a process"


def test_a_full_disk_is_named(lake_folder):
    found = morphogen(lake_folder, "> /dev/full", "params", "list")
    assert found.returncode == 2
    assert found.stderr.startswith("error: standard output: cannot be written (No space left on device)")
    assert len(found.stderr.splitlines()) == 1


def test_closed_streams_are_no_place_for_the_next_file(lake_folder):
    """With standard output closed, the first file that is opened gets its number: it must not be the lake's."""
    before = sorted(Path(lake_folder).rglob("*"))
    assert morphogen(lake_folder, ">&- 2>&- <&-", "params", "put", "closed", "tiny").returncode == 0
    [entry] = [path for path in Path(lake_folder).rglob("closed/*.json") if path not in before]
    assert entry.read_text().startswith("{")
    assert entry.read_text().endswith("}")


def test_what_a_terminal_cannot_encode_is_spelled_in_ascii(lake_folder):
    found = morphogen(
        lake_folder, "", "params", "history", "set-0", PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0"
    )
    assert found.returncode == 0, found.stderr
    assert r"na\xefve - \u201cquoted\u201d ..." in found.stdout


@pytest.mark.parametrize("place", ["absent/x.png", ".", "file/x.png", "x" * 300])
def test_a_file_that_cannot_be_made_is_refused_before_the_work(tmp_path, capsys, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for command in (["preview", "tiny", "-o"], ["profile", "tiny", "--plot"], ["demo", "--report"]):
        with pytest.raises(SystemExit) as exit_:
            main([*command, place, "--lake", str(tmp_path / "lake")])
        captured = capsys.readouterr()
        assert exit_.value.code == 2, captured.err
        [line] = captured.err.splitlines()
        assert line.startswith("error: ")
        assert "cannot be written" in line


def test_numbers_beyond_reason_are_refused_in_one_line(tmp_path, capsys):
    huge = "9" * 5000
    for arguments in (
        ["data", "gc", "--grace", "1e300"],
        ["data", "gc", "--grace", huge],
        ["data", "head", "x", "-n", huge],
        ["params", "show", f"x@{huge}"],
        ["params", "put", "x", "tiny", "--expect", huge],
        ["generate", "x@1", "--tokens", huge],
        ["generate", "x@1", "--tokens", "-5"],
        ["tokens", "create", "x", "--days", huge],
        ["runs", "resume", "x", "--workers", "0"],
        ["serve", "--port", "99999999999"],
    ):
        with pytest.raises(SystemExit) as exit_:
            main([*arguments, "--lake", str(tmp_path / "lake")])
        captured = capsys.readouterr()
        assert exit_.value.code == 2, (arguments[:3], captured.err[:300])
        assert captured.err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("token", ["mg_secret\n", "mg secret", "mg_sécret", "mg_secret\x00", "\ud800"])
def test_a_token_that_cannot_be_one_is_refused_and_not_repeated(token):
    with pytest.raises(AccessError) as refused:
        RegistryClient("http://127.0.0.1:9", token)
    assert "secret" not in str(refused.value)
    assert "MORPHOGEN_TOKEN" in str(refused.value)
