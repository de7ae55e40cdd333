"""Real server processes over real lakes, local and S3: started once, as `morphogen serve` starts them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from datalake import Lake, open_store
from datalake.registry.access import TokenLog
from tests.s3server import S3Server
from tests.serve.lake_content import fill

ROOT = Path(__file__).resolve().parents[2]
API = "/api/v1"


class Server:
    """One `morphogen serve` process. ``log`` is all that it printed so far."""

    def __init__(self, lake: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "orchestration", "serve", "--lake", lake, "--port", "0", *arguments]
        environment = {**os.environ, **(env or {}), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            command, cwd=tempfile.gettempdir(), env=environment, stderr=subprocess.PIPE, text=True
        )
        self._lines: list[str] = []
        self._found = threading.Event()
        self.url = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line)
            if match := re.search(r"serving lake .* at (http://\S+)", line):
                self.url = match[1]
                self._found.set()
        self._found.set()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def wait(self) -> Server:
        """Until it answers: its socket is bound before it prints its address, so one request waits for the rest."""
        assert self._found.wait(120), f"the server printed no address:\n{self.log}"
        assert self.url, f"the server ended:\n{self.log}"
        assert httpx.get(self.url + API + "/health", timeout=60).status_code == 200
        return self

    def terminate(self) -> None:
        self._process.terminate()

    def stop(self) -> None:
        self.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def client(self, token: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # Without TLS there is nothing to verify, and reading the certificates would take most of a test's time.
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, verify=False)


@dataclass
class Site:
    """A lake, the servers on it, and a token of each role."""

    lake: Lake
    servers: list[Server]
    tokens: dict[str, str] = field(default_factory=dict)

    def api(self, role: str = "writer", server: int = 0) -> httpx.Client:
        """A client of the API; close it or not, the process ends soon."""
        chosen = self.servers[server % len(self.servers)]
        client = chosen.client(self.tokens.get(role))
        client.base_url = chosen.url + API
        return client


@contextmanager
def serving(uri: str, count: int, tokens: bool, env: dict[str, str] | None = None) -> Iterator[Site]:
    """``count`` servers on one lake that is filled already."""
    lake = Lake.open(uri)
    made: dict[str, str] = {}
    if tokens:
        log = TokenLog(lake.store, lake.system)
        made = {role: log.create(f"the-{role}", role)[1] for role in ("reader", "writer", "admin")}
    servers = [Server(uri, env=env) for _ in range(count)]
    try:
        yield Site(lake, [server.wait() for server in servers], made)
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.stop()


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with content, to copy."""
    folder = tmp_path_factory.mktemp("filled") / "lake"
    fill(Lake.open(str(folder)))
    return folder


@pytest.fixture(scope="session")
def site(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two replicas on one local lake with tokens and content."""
    folder = shutil.copytree(filled, tmp_path_factory.mktemp("site") / "lake")
    with serving(str(folder), 2, tokens=True) as running:
        yield running


@pytest.fixture(scope="session")
def open_site(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One server on a local lake without tokens, so open to this machine."""
    folder = shutil.copytree(filled, tmp_path_factory.mktemp("open") / "lake")
    with serving(str(folder), 1, tokens=False) as running:
        yield running


@pytest.fixture(scope="session")
def s3_site(filled: Path, s3_server: S3Server) -> Iterator[Site]:
    """Two replicas on one prefix of a bucket, with tokens and content."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
            environment.delenv(name, raising=False)
        for name, value in s3_server.env().items():
            environment.setenv(name, value)
        local, remote = open_store(str(filled)), open_store("s3://lake/serve")
        for key in local.list():
            remote.put_if_absent(key, local.get(key))
        with serving(remote.uri, 2, tokens=True) as running:
            yield running


@pytest.fixture(params=["site", "s3_site"], ids=["local", "s3"])
def any_site(request: pytest.FixtureRequest) -> Site:
    """Each lake in turn."""
    return request.getfixturevalue(request.param)
