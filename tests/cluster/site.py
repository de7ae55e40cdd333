"""A small cluster on hosts of its own: an S3 server, a Ray head, workers of one CPU each, a desk for drivers.

Every Ray node is started again when it ends, as the service manager of a machine does: with `ray start`, at the head
that its host's file /tmp/head names.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from datalake.lake import Lake
from orchestration.cluster import silence
from tests.cluster.hosts import ROOT, Host, Inside, Network, wait_until
from tests.faults.rows import FOLDER, PACE, PAUSE, Seen, read_seen
from tests.s3server import S3Server

INSIDE = ROOT / "tests" / "faults" / "inside"
RAY_PORT = 6379
STEP_S = 0.15
# Answers a line with the addresses of a head's live nodes; a process of its own, since Ray's token is a process's.
NODES = """
import sys
from ray._raylet import GcsClient
for line in sys.stdin:
    try:
        found = GcsClient(address=line.strip()).get_all_node_info(timeout=3)
        print(*(node.node_manager_address for node in found.values() if node.state == 0), flush=True)
    except Exception:
        print(flush=True)
"""
RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray's default of 15 starves its workers on a busy machine
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A node that does not answer counts as dead after 12 s, and not after 40, for which a test should not wait.
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    **silence.SETTINGS,  # as the image has them
}
# A node that has lost its head ends after 15 s, not after a minute, and is started again.
NODE_SETTINGS = {"RAY_gcs_rpc_server_reconnect_timeout_s": "15"}
# Whoever asks is not to end because nobody answers.
ASKER_SETTINGS = {"RAY_gcs_rpc_server_reconnect_timeout_s": "86400"}
OURS = {
    "MORPHOGEN_CACHE": "off",
    "MORPHOGEN_CLUSTER_WAIT_S": "60",
    "MORPHOGEN_LEASE_S": "6",
    "MORPHOGEN_COLLECTIVE_TIMEOUT_S": "20",
    "MORPHOGEN_REJOIN_WAIT_S": "60",
    "MORPHOGEN_START_WAIT_S": "90",
    "OMP_NUM_THREADS": "1",
}
SERVICE = """
while :; do
  ray start --block --include-log-monitor false --object-store-memory 80000000 "$@" $(cat /tmp/head)
  sleep 1
done
"""


class Site:
    """The hosts of ``network`` with what runs on them: ``store`` and ``head``, all others are Ray's workers.

    Drivers run at ``desk``, or at the head if there is no such host; then the head has a CPU as well, else none.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.store, self.head = network["store"], network["head"]
        self.desk = network.hosts.get("desk", self.head)
        self.cuts: set[frozenset[str]] = set()
        self.unplugged: set[str] = set()
        self.server = S3Server(
            self.store.tmp / "s3", self.store.address, self.store.popen, data=Path("/tmp/s3/data")
        )  # as the host itself sees its files
        self._token = secrets.token_hex(32)
        self._asker: subprocess.Popen[str] | None = None
        self._drivers = 0
        self.drivers: list[Driver] = []

    @property
    def hosts(self) -> dict[str, Host]:
        return self.network.hosts

    def __getitem__(self, name: str) -> Host:
        return self.network[name]

    @property
    def workers(self) -> list[Host]:
        """Every host but the head that is one of Ray's, up or down."""
        return [host for host in self.hosts.values() if host not in (self.store, self.head)]

    def environment(self) -> dict[str, str]:
        """What every process of the site runs in."""
        around = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
        return {
            **around,
            **self.server.env(),
            **RAY_SETTINGS,
            **OURS,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{INSIDE}{os.pathsep}{ROOT}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            FOLDER: "/tmp/rows",
            PACE: str(STEP_S),
        }

    def start(self) -> None:
        """Start the S3 server and Ray on every host; returns once all have joined."""
        for host in self.hosts.values():
            self._prepare(host)
        self.start_store()
        self.server.create_bucket("lake")
        self.start_head(self.head)
        # One at a time: Ray's nodes give themselves 30 s to start, which several at once may need on a busy machine.
        for host in self.workers:
            self.start_ray(host)
            self.await_ray(host)

    def start_store(self) -> None:
        """Start the S3 server, at the port that it had."""
        self.server.folder.mkdir(exist_ok=True)
        self.server.start()

    def start_head(self, host: Host) -> None:
        """Start a new Ray with its head at ``host``, and wait for it; nodes join it when they next look for a head."""
        self.head = host
        address = ["--node-ip-address", host.address, "--port", str(RAY_PORT)]
        # Nobody needs these here, and each is a Python process that takes seconds to start.
        without = ["--include-dashboard", "false", "--no-monitor"]
        self._service(host, "--head", *address, *without, "--num-cpus", "1" if self.desk is host else "0", head="")
        self.await_ray(host)

    def start_ray(self, host: Host) -> None:
        """Let a worker's host join the head that there is now, and go on trying."""
        self._service(host, "--node-ip-address", host.address, "--num-cpus", "1", head=self.ray_address)

    @property
    def ray_address(self) -> str:
        return f"{self.head.address}:{RAY_PORT}"

    def point_to_head(self) -> None:
        """Tell every worker's host which head to join when it looks next."""
        for host in self.workers:
            (host.tmp / "head").write_text(f"--address {self.ray_address}\n")

    def await_ray(self, host: Host, within: float = 300.0) -> None:
        """Return once ``host`` is a live node of the Ray whose head there is now."""
        wait_until(lambda: host.address in self.nodes(), f"Ray at {host.name} joins", within, every=0.3)

    def nodes(self) -> list[str]:
        """Addresses of the live nodes, as the head has it; none where it does not answer."""
        if self._asker is None:
            self._asker = subprocess.Popen(
                [sys.executable, "-c", NODES],
                env=self.environment() | ASKER_SETTINGS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        assert self._asker.stdin is not None
        assert self._asker.stdout is not None
        self._asker.stdin.write(f"{self.ray_address}\n")
        self._asker.stdin.flush()
        return self._asker.stdout.readline().split()

    def stop(self) -> None:
        """End what runs outside the hosts."""
        if self._asker is not None:
            self._asker.communicate()

    def _service(self, host: Host, *options: str, head: str) -> None:
        (host.tmp / "head").write_text(f"--address {head}\n" if head else "")
        log = host.tmp / "ray-start.log"
        with log.open("w") as out:
            host.popen(
                "sh", "-c", SERVICE, "sh", *options,
                env=self.environment() | NODE_SETTINGS,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def _prepare(self, host: Host) -> None:
        (host.tmp / "rows").mkdir(exist_ok=True)

    def restart(self, host: Host) -> None:
        """Power a host on again with what runs there."""
        self.network.power_on(host)
        self.unplugged.discard(host.name)
        self._prepare(host)
        if host is self.store:
            self.start_store()
        elif host is not self.head:
            self.start_ray(host)

    def lake(self, name: str) -> tuple[str, Lake]:
        """A lake's address for the site's commands, and the same lake from here."""
        with self.server.in_environment():
            return f"s3://lake/{name}", Lake.open(f"s3://lake/{name}")

    def driver(self, host: Host, *arguments: str) -> Driver:
        """Start ``morphogen …`` at ``host``."""
        self._drivers += 1
        driver = Driver(self, host, self._drivers, arguments)
        self.drivers.append(driver)
        return driver

    def rows(self) -> list[Seen]:
        """The rows that training processes noted, on all hosts."""
        return [seen for host in self.hosts.values() for seen in read_seen(host.tmp / "rows")]

    def row_lines(self) -> int:
        """How much has been noted there; cheap."""
        return sum(path.stat().st_size for host in self.hosts.values() for path in (host.tmp / "rows").glob("*.jsonl"))

    def forget_rows(self) -> None:
        self.pause_trainings(False)
        for host in self.hosts.values():
            for path in (host.tmp / "rows").glob("*.jsonl"):
                path.unlink()

    def pause_trainings(self, paused: bool) -> None:
        """Let no training end a step, or go on."""
        for host in self.hosts.values():
            file = host.tmp / "rows" / PAUSE
            if paused:
                file.touch()
            else:
                file.unlink(missing_ok=True)

    def write(self, name: str, text: str) -> str:
        """Put a file on every host; its path there."""
        for host in self.hosts.values():
            (host.tmp / name).write_text(text)
        return f"/tmp/{name}"

    # What faults do, so that all can be undone.

    def cut(self, one: Host, other: Host) -> None:
        pair = frozenset((one.name, other.name))
        if pair not in self.cuts:
            self.cuts.add(pair)
            self.network.cut(one, other)

    def join(self, one: Host, other: Host) -> None:
        pair = frozenset((one.name, other.name))
        if pair in self.cuts:
            self.cuts.remove(pair)
            self.network.join(one, other)

    def unplug(self, host: Host) -> None:
        self.unplugged.add(host.name)
        self.network.unplug(host)

    def plug(self, host: Host) -> None:
        self.unplugged.discard(host.name)
        self.network.plug(host)

    def power_off(self, host: Host) -> None:
        self.network.power_off(host)

    def seen(self, host: Host) -> bool:
        """Whether the host is up with its cable in."""
        return host.up and host.name not in self.unplugged

    def reachable(self, host: Host) -> bool:
        """Whether a person would start a command there: it is up, and neither head nor store is cut off from it."""
        partners = (self.head, self.store)
        return all(map(self.seen, (host, *partners))) and not any(
            frozenset((host.name, partner.name)) in self.cuts for partner in partners
        )

    def restore(self) -> None:
        """Undo every fault, end every driver, and wait until all hosts are Ray's nodes again."""
        for driver in self.drivers:
            driver.end()
        self.drivers.clear()
        for pair in list(self.cuts):
            self.join(*(self.hosts[name] for name in pair))
        for name in list(self.unplugged):
            if self.hosts[name].up:
                self.plug(self.hosts[name])
        moved = self.head is not self.network["head"] or not self.head.up
        if moved:  # the first layout again
            for host in self.hosts.values():
                if host is not self.store and host.up:
                    self.power_off(host)
            self.network.power_on(self.network["head"])
            self.start_head(self.network["head"])
        for host in self.hosts.values():
            if not host.up:
                self.restart(host)
        for host in self.workers:
            self.await_ray(host)


class Driver:
    """One of our commands at a host of the site, its output in a file of that host."""

    def __init__(self, site: Site, host: Host, number: int, arguments: Sequence[str]) -> None:
        self.host = host
        self.log = host.tmp / f"driver-{number}.log"
        environment = site.environment() | {"RAY_ADDRESS": site.ray_address}
        with self.log.open("w") as out:
            self.process: Inside = host.popen(
                sys.executable, "-m", "orchestration", *arguments,
                env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def code(self) -> int | None:
        """Its exit code, None while it runs."""
        return self.process.poll()

    def said(self) -> str:
        """All that it has printed."""
        return self.log.read_text(errors="replace")

    def end(self) -> None:
        """SIGKILL it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextmanager
def site_of(folder: Path, workers: Sequence[str]) -> Iterator[Site]:
    """Lay out and start a site with these workers beside ``store`` and ``head``; ends whatever it became."""
    with Network(folder, ["store", "head", *workers]) as network:
        site = Site(network)
        try:
            site.start()
            yield site
        finally:
            site.stop()
