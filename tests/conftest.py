"""Fixtures every package's tests share: one S3 server per test session, and fresh lakes on it and on local disk."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from tests.s3server import S3Server

pytest_plugins = ["tests.ray_fixtures"]

_numbers = itertools.count(1)

# Before torch is imported, and for the processes that tests start: their tensors are tiny, and threads of several
# processes on two cores would mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers would give way to everything else (nice 15), which here is the other half of the tests: actors that work
# within 14 s took 180 s on a busy machine.
os.environ.setdefault("RAY_worker_niceness", "0")


# The files that take longest, by measurement: of two processes neither should begin one of them last.
LONGEST = (
    "orchestration/test_generate_job.py",
    "orchestration/test_train_job.py",
    "orchestration/experiment/test_run_experiment.py",
    "orchestration/test_live.py",
    "e2e/test_ray_job.py",
    "serve/test_access.py",
    "datalake/test_s3_answers.py",
    "trainer/test_ranks.py",
    "generator/test_backends.py",
    "trainer/test_sharded.py",
    "trainer/test_recipes.py",
    "trainer/test_resume.py",
    "orchestration/test_runs.py",
    "orchestration/test_corpus_records.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    order = {name: number for number, name in enumerate(LONGEST)}
    here = Path(__file__).parent
    items.sort(key=lambda item: order.get(item.path.relative_to(here).as_posix(), len(order)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Look for no garbage while half a million objects are imported, and never among them: half a second each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


class Shared(LoadFileScheduling):
    """Keep a file on one process, and on one all files that share what takes long to start once a session."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return _shares(file) or file


# Ray takes a minute to start, the five servers of tests/serve 10 to 20 s.
_SESSIONS = {"Ray": re.compile(r"\bray_cluster\b"), "servers": re.compile(r"serve\.conftest import .*\bSite\b")}


@functools.cache
def _shares(file: str) -> str | None:
    text = (Path(__file__).parents[1] / file).read_text()
    return next((name for name, sign in _SESSIONS.items() if sign.search(text)), None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Shared | None:
    """Let ``--dist loadfile`` know of what files share."""
    return Shared(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Iterator[None]:
    """Reports go between processes as UTF-8, which names and texts under test need not be."""
    return _encodable((yield))


def _encodable(part: Any) -> Any:
    if isinstance(part, str):
        return part.encode(errors="backslashreplace").decode()
    if isinstance(part, dict):
        return {_encodable(key): _encodable(value) for key, value in part.items()}
    return type(part)(map(_encodable, part)) if type(part) in (list, tuple) else part


@pytest.fixture(scope="session", autouse=True)
def no_node_cache() -> Iterator[None]:
    """Jobs under test keep nothing in the home of whoever runs the tests; what is about the cache says where it is."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MORPHOGEN_CACHE", "off")
        yield


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server with the bucket ``lake``; started at the first test that asks for it."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    try:
        server.create_bucket("lake")
        yield server
    finally:
        server.stop()


@pytest.fixture
def own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server that a test may kill, with the bucket ``lake`` and the environment set."""
    server = S3Server(tmp_path / "s3")
    server.start()
    for name, value in server.env().items():
        monkeypatch.setenv(name, value)
    try:
        server.create_bucket("lake")
        yield server
    finally:
        server.stop()


@pytest.fixture
def s3_env(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with the standard AWS variables of this test (and of processes it starts) pointing at it."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.env().items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def s3_lake_uri(s3_env: S3Server) -> str:  # noqa: ARG001 - asked for its environment
    """``s3://lake/<a prefix no other test uses>``, with the environment set."""
    return f"s3://lake/test-{next(_numbers)}"


@pytest.fixture(params=["local", "s3"])
def lake_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh lake's address: once a folder that does not exist yet, once a prefix on the S3 server."""
    if request.param == "local":
        return str(tmp_path / "lake")
    return request.getfixturevalue("s3_lake_uri")
