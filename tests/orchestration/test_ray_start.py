"""A Ray of one's own: started again where a busy machine took over 30 s; its processes know it has no dashboard."""

from __future__ import annotations

import os
import subprocess

import pytest

from orchestration.cluster import session as module
from orchestration.cluster.ray_token import TOKENS
from orchestration.errors import ClusterLostError

BUSY = "The current node timed out during startup. This could happen because some of the raylet failed to startup."


@pytest.fixture
def starts(monkeypatch):
    """What each start of Ray raises, in order; None is a start that works."""
    outcomes = []

    def init(**_):
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    monkeypatch.setattr(module.ray, "init", init)
    return outcomes


def test_a_start_that_took_too_long_is_tried_again(starts, capsys):
    starts += [Exception(BUSY), None, None]
    module._start({})
    assert starts == [None]
    assert "busy" in "".join(capsys.readouterr())


def test_what_a_failed_start_has_started_is_ended_before_the_next(monkeypatch):
    """Each leaves a head's processes behind, and four heads keep a machine busier than one."""
    left = []

    def init(**_):
        assert all(process.poll() is not None for process in left)
        left.append(subprocess.Popen(["sleep", "600"]))
        if len(left) < 3:
            raise Exception(BUSY)

    monkeypatch.setattr(module.ray, "init", init)
    try:
        module._start({})
        assert [process.poll() for process in left] == [-9, -9, None]
    finally:
        left[-1].kill()
        left[-1].wait()


@pytest.mark.parametrize(
    ("home", "brings"),
    [(None, True), ("/proc/none", True), ("", True), ("writable", False), ("has a token", False)],
)
def test_where_ray_can_keep_no_token_it_is_brought_one(starts, monkeypatch, tmp_path, home, brings):
    for name in ("RAY_AUTH_MODE", *TOKENS):
        monkeypatch.delenv(name, raising=False)
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home if home.startswith("/") or not home else str(tmp_path))
    if home == "has a token":
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("1" * 32)
        (tmp_path / ".ray").chmod(0o500)
    starts += [None]
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # so that what is set here is taken away again
    module._start({})
    assert bool(os.environ["RAY_AUTH_TOKEN"]) == brings


def test_three_are_told_in_one_line(starts):
    starts += [Exception(BUSY)] * 3
    with pytest.raises(ClusterLostError, match=r"3 times.*RAY_ADDRESS"):
        module._start({})
    assert starts == []


@pytest.mark.parametrize("before", [None, "http://another-cluster:8265"])
def test_a_ray_without_dashboard_says_so_to_its_processes_and_to_nobody_else(monkeypatch, before):
    monkeypatch.delenv(module.API_SERVER, raising=False)
    if before:
        monkeypatch.setenv(module.API_SERVER, before)
    told = []
    monkeypatch.setattr(module.ray, "init", lambda **_: told.append(os.environ[module.API_SERVER]))
    module._start({})
    assert told == [module.NOBODY]
    assert os.environ.get(module.API_SERVER) == before


def test_another_failure_is_not_repeated(starts):
    starts += [ValueError("num_cpus"), None]
    with pytest.raises(ClusterLostError, match="ValueError: num_cpus"):
        module._start({})
    assert starts == [None]
