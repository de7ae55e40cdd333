"""What a schedule runs in: a Ray head and an S3 server of its own, a proxy between them, a disk that can be full."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from datalake.lake import Lake
from orchestration.cluster.session import API_SERVER, NOBODY
from tests.faults.lake.fault_proxy import proxy_loop
from tests.faults.processes import kill_tree, titled
from tests.faults.rows import FOLDER, PACE
from tests.faults.store_proxy import StoreProxy
from tests.s3server import S3Server

ROOT = Path(__file__).resolve().parents[2]
INSIDE = Path(__file__).parent / "inside"
STEP_S = 0.15
DISK_MIB = 64
HEAD_ATTEMPTS = 3  # Ray gives up after 30 s, which a busy machine may need

HEAD_CPUS = 6
HEAD = f"""
import logging, sys, ray
quiet = dict(logging_level=logging.ERROR, log_to_driver=False)
ray.init(address="local", num_cpus={HEAD_CPUS}, include_dashboard=False, **quiet)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


class World:
    """The machines of a small site. ``environment`` is what its processes run in, ``rows`` where they note theirs."""

    def __init__(self, folder: Path, server: S3Server, proxy: StoreProxy) -> None:
        self.folder, self.server, self.proxy = folder, server, proxy
        self.rows = folder / "rows"
        self.rows.mkdir()
        self.environment = {
            **os.environ,
            **server.env(),
            "AWS_ENDPOINT_URL_S3": proxy.endpoint,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "PYTHONPATH": f"{INSIDE}{os.pathsep}{ROOT}",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
            API_SERVER: NOBODY,  # the head has no dashboard
            FOLDER: str(self.rows),
            PACE: str(STEP_S),
        }
        self._head: subprocess.Popen[str] | None = None

    @property
    def head_pid(self) -> int:
        assert self._head is not None
        return self._head.pid

    def start_head(self) -> None:
        """Start Ray; drivers that are started from now on join it."""
        for _ in range(HEAD_ATTEMPTS):
            self._head = subprocess.Popen(
                [sys.executable, "-c", HEAD],
                cwd=self.folder, env=self.environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            assert self._head.stdout is not None
            if address := self._head.stdout.readline().strip():
                self.environment["RAY_ADDRESS"] = address
                return
            self.kill_head()
        raise RuntimeError(f"Ray's head did not start in {HEAD_ATTEMPTS} attempts")

    def start_node(self, cpus: int) -> subprocess.Popen[str]:
        """Start another node of the cluster, which the caller ends."""
        address = self.environment["RAY_ADDRESS"]
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--address", address]
        with (self.folder / "node.log").open("w") as out:
            return subprocess.Popen(
                [*command, "--num-cpus", str(cpus)],
                cwd=self.folder, env=self.environment, text=True, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def stop_head(self, within: float = 20.0) -> None:
        """End Ray in good order if it can still."""
        assert self._head is not None
        with suppress(subprocess.TimeoutExpired):
            self._head.communicate(timeout=within)  # closes its input, at the end of which it ends
        self.kill_head()

    def kill_head(self) -> None:
        """SIGKILL the head with everything that runs on it."""
        assert self._head is not None
        kill_tree(self._head.pid)
        self._head.wait()

    def driver(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``morphogen …``, its output in the world's folder under its process id."""
        log = self.folder / "driver.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "orchestration", *arguments],
                cwd=self.folder, env=self.environment, text=True, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        log.rename(self.folder / f"driver-{process.pid}.log")
        return process

    def said(self, process: subprocess.Popen[str]) -> str:
        """All that a driver has printed."""
        return (self.folder / f"driver-{process.pid}.log").read_text()

    def quiet(self, within: float = 60.0) -> None:
        """Wait until no worker of an earlier schedule is left, and forget the rows it noted."""
        deadline = time.monotonic() + within
        while titled(self.head_pid, "ray::RayTrainWorker", "ray::ShardWorker", "ray::TrainController"):
            assert time.monotonic() < deadline, "workers outlive their job"
            time.sleep(0.1)
        for path in self.rows.iterdir():
            path.unlink()

    @contextmanager
    def lake(self, name: str, kind: str) -> Iterator[tuple[str, Lake]]:
        """A fresh lake: its address for drivers, and the same lake past the proxy. ``kind``: s3 or disk (small)."""
        if kind == "s3":
            uri = f"s3://lake/{name}"
            with self.server.in_environment():
                direct = Lake.open(uri)
            yield uri, direct
            return
        disk = self.folder / name
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "morphogen-test", str(disk)], check=True)
        try:
            yield str(disk / "lake"), Lake.open(str(disk / "lake"))
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)
            disk.rmdir()


def can_mount() -> bool:
    """Whether a small disk can be made: as root, where mounting is allowed."""
    if os.geteuid() or not shutil.which("mount"):
        return False
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=1m", "probe", "/mnt"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Start a site and end it, whatever state the faults left it in."""
    server = S3Server(folder / "s3")
    server.start()
    try:
        server.create_bucket("lake")
        with proxy_loop() as loop:
            proxy = StoreProxy(loop, int(server.endpoint.rpartition(":")[2]))
            site = World(folder, server, proxy)
            site.start_head()
            try:
                yield site
            finally:
                site.stop_head()
                proxy.close()
    finally:
        server.stop()
