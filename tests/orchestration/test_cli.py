"""The command line in this process: what it prints, and how it refuses: one line, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.cli import main
from tests.ray_fixtures import ROOT, TINY_SPEC, toml_of


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Run one command with a lake in tmp_path; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MORPHOGEN_LAKE", str(tmp_path / "lake"))

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        code = exit_.value.code or 0
        assert isinstance(code, int)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_the_command_line_is_there_before_what_only_some_commands_need():
    """Each of these takes a tenth of a second to seconds to import, and every command would pay."""
    heavy = (
        "('torch', 'ray', 'matplotlib', 'transformers', 'fastapi', 'boto3', 'jinja2', 'fsspec', 'tokenizers', 'numba')"
    )
    code = f"import orchestration.cli, sys; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert out.strip() == "[]"


def write_spec(folder: Path, **changes: object) -> Path:
    path = folder / "spec.toml"
    path.write_text(toml_of({key: value for key, value in (TINY_SPEC | changes).items() if value is not None}))
    return path


def refused(call, tmp_path, *arguments: str) -> str:
    """Assert a one-line error with exit code 2 and an untouched lake; returns the line."""
    before = sorted(tmp_path.rglob("lake/**/*"))
    code, out, err = call(*arguments)
    assert code == 2, (out, err)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("lake/**/*")) == before
    return lines[0]


def test_parameters_are_put_shown_listed_tagged(call, tmp_path):
    spec = write_spec(tmp_path)
    code, out, _ = call("params", "put", "tiny", spec, "-m", "because", "--json")
    assert code == 0
    put = json.loads(out)
    assert (put["name"], put["version"], put["message"]) == ("tiny", 1, "because")
    assert json.loads(call("params", "put", "tiny", spec, "--json")[1])["version"] == 1
    assert json.loads(call("params", "show", "tiny@1", "--json")[1])["digest"] == put["digest"]
    write_spec(tmp_path, hidden=5)
    assert json.loads(call("params", "put", "tiny", spec, "--json")[1])["version"] == 2
    assert call("params", "tag", "tiny@1", "stable")[0] == 0
    assert json.loads(call("params", "show", "tiny@stable", "--json")[1])["version"] == 1
    assert [each["version"] for each in json.loads(call("params", "history", "tiny", "--json")[1])] == [1, 2]
    assert [each["name"] for each in json.loads(call("params", "list", "--json")[1])] == ["tiny"]
    for arguments in (("params", "show", "tiny"), ("params", "list"), ("params", "history", "tiny")):
        code, out, _ = call(*arguments)
        assert code == 0
        assert "tiny" in out or "version" in out


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"colours": 4}, "colours"),
        ({"colors": 1}, "colors"),
        ({"grid": [7, 6]}, "grid"),
        ({"colors": 250, "grid": [6, 6]}, "2147483648"),
        ({"band": {"score": "gzip-int32-v1", "low": 0.6, "high": 0.4}}, "band"),
        ({"family": "nac"}, "family"),
    ],
    ids=["unknown field", "out of range", "grid not divisible", "vocabulary too large", "empty band", "unknown family"],
)
def test_a_bad_spec_is_refused(call, tmp_path, changes, named):
    assert named in refused(call, tmp_path, "params", "put", "tiny", write_spec(tmp_path, **changes))


def test_a_large_vocabulary_is_advised_against_and_taken(call, tmp_path):
    code, out, err = call("params", "put", "large", write_spec(tmp_path, colors=23, band=None), "--json")
    assert code == 0
    assert json.loads(out)["spec"]["colors"] == 23
    assert "vocabulary of 279,843 tokens: a model has a row for each" in err


def test_a_band_that_rules_hardly_meet_is_refused_with_the_acceptance(call, tmp_path):
    spec = write_spec(tmp_path, band={"score": "gzip-int32-v1", "low": 3.9, "high": 4.0})
    assert "0" in refused(call, tmp_path, "params", "put", "tiny", spec)


def test_missing_things_are_named(call, tmp_path):
    call("params", "put", "tiny", write_spec(tmp_path))
    assert "tiny" in refused(call, tmp_path, "generate", "tiny@7", "--tokens", "1000")
    assert "nothing" in refused(call, tmp_path, "params", "show", "nothing")
    assert "nothing" in refused(call, tmp_path, "data", "show", "nothing@1")
    assert "nothing" in refused(call, tmp_path, "models", "show", "nothing@1")
    assert "nothing" in refused(call, tmp_path, "lineage", "nothing@1")
    assert "absent.toml" in refused(call, tmp_path, "params", "put", "tiny", "absent.toml")


def test_names_cannot_escape_their_prefix(call, tmp_path):
    spec = write_spec(tmp_path)
    for name in ("../up", "a/b", "/etc", "", ".hidden", "x" * 200):
        refused(call, tmp_path, "params", "put", name, spec)


def test_a_lake_that_is_a_file_is_refused(call, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    line = refused(call, tmp_path, "params", "list", "--lake", str(tmp_path / "file"))
    assert "file" in line
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_bucket_that_does_not_exist_is_refused(call, tmp_path, s3_env):  # noqa: ARG001
    assert "absent-bucket" in refused(call, tmp_path, "params", "list", "--lake", "s3://absent-bucket/lake")


def test_wrong_credentials_are_refused_and_not_printed(call, tmp_path, s3_env, monkeypatch):  # noqa: ARG001
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "this-is-the-wrong-secret")
    line = refused(call, tmp_path, "params", "list", "--lake", "s3://lake/some-prefix")
    assert "this-is-the-wrong-secret" not in line


def test_a_relative_lake_inside_a_ray_job_is_refused(call, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert "lake" in refused(call, tmp_path, "params", "list", "--lake", "lake")


def test_the_lake_option_may_come_first(call, tmp_path):
    spec = write_spec(tmp_path)
    assert call("--lake", tmp_path / "other", "params", "put", "tiny", spec)[0] == 0
    assert list((tmp_path / "other").rglob("*.json"))
    assert os.environ["MORPHOGEN_LAKE"] == str(tmp_path / "other")


@pytest.mark.parametrize("text", ["steps = ", "colors = 3\ncolors = 4"])
def test_a_file_that_is_not_toml_is_refused(call, tmp_path, text):
    (tmp_path / "bad.toml").write_text(text)
    assert "bad.toml" in refused(call, tmp_path, "params", "put", "tiny", tmp_path / "bad.toml")
