"""A Ray kept between commands: joined by those that it suits, left alone by others, ended with all its processes."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace

import psutil
import pytest

from datalake import Lake
from generator import parse_spec
from orchestration.cluster import kept as module
from orchestration.cluster.kept import KeptRay, in_use, kept_ray, start_kept, stop_kept, using
from orchestration.errors import ClusterLostError, InvalidRequestError
from tests.ray_fixtures import TINY_SPEC, free_port


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A place of this test's own, so that no kept Ray of the machine's user is met."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)


def recorded(**changes) -> KeptRay:
    """What a start by this process would have written down of it."""
    this = psutil.Process()
    kept = KeptRay("127.0.0.1:1", this.pid, this.create_time(), 4, sys.executable, "salt", module._fingerprint("salt"))
    kept = replace(kept, **changes)
    module._path().write_text(json.dumps(module.asdict(kept)))
    return kept


@pytest.mark.soak  # a start of Ray, and of four commands
def test_commands_join_it_and_it_ends_with_all_its_processes(tmp_path, morphogen):
    lake = Lake.open(str(tmp_path / "lake"))
    lake.params.put("tiny", parse_spec(TINY_SPEC).model_dump(mode="json"))
    started = morphogen.run("ray", "start", "--json")
    assert started.returncode == 0, started.stderr
    kept = kept_ray()
    try:
        assert kept is not None
        assert json.loads(started.stdout) == {"address": kept.address, "cpus": kept.cpus, "pid": kept.pid}
        again = morphogen.run("ray", "start")
        assert (again.returncode, "already" in again.stderr) == (2, True)
        tree = [psutil.Process(kept.pid), *psutil.Process(kept.pid).children(recursive=True)]
        assert len(tree) > 3
        made = morphogen.run("generate", "tiny@1", "--tokens=4096", "--run=r", "--lake", lake.uri)
        assert made.returncode == 0, made.stderr
        assert "left alone" not in made.stderr
        assert lake.runs.get("r").state["resources"]["cluster"] == "kept"
        with using(kept):
            assert in_use()
            refused = morphogen.run("ray", "stop")
            assert (refused.returncode, "uses it" in refused.stderr) == (2, True)
        assert not in_use()
    finally:
        stop_kept()
    assert kept_ray() is None
    assert not [process for process in tree if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_it_is_left_alone_where_it_would_do_otherwise(monkeypatch):
    assert recorded().differs(4) is None
    assert "4 logical CPUs, and this takes 5" in str(recorded().differs(5))
    assert "/usr/bin/other" in str(recorded(python="/usr/bin/other").differs(1))
    kept = recorded()
    monkeypatch.setenv("MORPHOGEN_LAKE", "elsewhere")  # its processes are told the lake by the job
    assert kept.differs(1) is None
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "changed")
    monkeypatch.setenv("MORPHOGEN_CACHE", "elsewhere")
    assert str(kept.differs(1)).endswith("another AWS_SECRET_ACCESS_KEY, MORPHOGEN_CACHE")
    assert "changed" not in module._path().read_text()


def test_one_whose_process_is_gone_or_another_s_is_none():
    assert kept_ray() is None
    this = recorded()
    assert kept_ray() == this
    recorded(started=this.started - 3600)
    assert kept_ray() is None
    module._path().write_text("{")
    assert kept_ray() is None
    assert stop_kept() is None
    assert os.stat(module._path().parent).st_mode & 0o077 == 0


def test_nobody_uses_a_head_that_does_not_answer():
    kept = recorded(address=f"127.0.0.1:{free_port()}")
    with pytest.raises(ClusterLostError, match="no Ray head answers"), using(kept):
        pass
    assert not in_use()


@pytest.mark.soak
def test_a_start_that_fails_says_why_and_leaves_nothing():
    with pytest.raises(ClusterLostError, match=r"did not start.*all of it is in"):
        start_kept(-1, {}, lambda _: None)
    assert kept_ray() is None


def test_one_starts_or_uses_it_at_a_time():
    with module._path().with_suffix(".lock").open("a") as lock:
        module.fcntl.flock(lock, module.fcntl.LOCK_SH)
        with pytest.raises(InvalidRequestError, match="another command"):
            start_kept(4, {}, lambda _: None)
