"""Hosts on one machine: each a set of Linux namespaces with its own address, name, processes, /tmp and /dev/shm.

Every host has one cable (a veth pair) to a router in a namespace of its own. A cable can be pulled at the router, which
the host sees, and the router can drop in silence what goes between two hosts. The process that holds a host's
namespaces ends with its standard input, so that nothing is left however the tests end.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

# Reserved for tests of networks (RFC 2544), so no machine's own; a network takes one of its 256 blocks of 256.
BLOCK = "198.18"
ROOT = Path(__file__).resolve().parents[2]
SHM = "192m"
NAMESPACES = ("--net", "--uts", "--mount", "--pid")

# Orphans of the host are this process's children: with SIGCHLD ignored the kernel keeps nothing of those that ended.
INIT = """
import signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("up", flush=True)
sys.stdin.read()
"""
SETUP = """
set -e
hostname "$1"
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
mount --bind "$2/hosts" /etc/hosts
# A checkout below /tmp is what the host runs: it stays where it is.
case "$6" in /tmp/*) mkdir -p "$2/tmp${6#/tmp}"; mount --rbind "$6" "$2/tmp${6#/tmp}";; esac
mount --rbind "$2/tmp" /tmp
mount -t tmpfs -o size="$3" host /dev/shm
exec "$4" -ISc "$5"
"""


@functools.cache
def why_not() -> str:
    """Why this process can lay out no hosts, "" if it can."""
    for tool in ("ip", "unshare", "nsenter", "mount", "hostname"):
        if not shutil.which(tool):
            return f"no `{tool}`: install iproute2, util-linux, mount and hostname"
    probe = "ip link set lo up && ip rule add from 198.18.0.1 to 198.18.0.2 blackhole && mount -t tmpfs probe /mnt"
    tried = subprocess.run(
        ["unshare", *NAMESPACES, "--fork", "--mount-proc", "sh", "-c", probe],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    return "" if tried.returncode == 0 else f"no right to make namespaces here: {tried.stderr.strip()}"


class Inside(subprocess.Popen[Any]):
    """A command inside a host. Signals go to it, and not to the process that went in to start it."""

    @property
    def inner_pid(self) -> int | None:
        """The command's process id as the machine sees it; None if it has ended."""
        with suppress(OSError):
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            return int(children[0]) if children else None
        return None

    def send_signal(self, sig: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.inner_pid or self.pid, sig)


class Host:
    """One host of a network: ``up`` between ``boot`` and ``power_off``, its files below ``folder`` kept in between."""

    def __init__(self, network: Network, name: str, number: int) -> None:
        self.network, self.name, self.number = network, name, number
        self.folder = network.folder / name
        self.tmp = self.folder / "tmp"
        self.address = f"{BLOCK}.{network.block}.{4 * number + 2}"
        self.gateway = f"{BLOCK}.{network.block}.{4 * number + 1}"
        self._process: subprocess.Popen[str] | None = None
        self.pid = 0

    def __repr__(self) -> str:
        return self.name

    @property
    def up(self) -> bool:
        return self._process is not None

    def boot(self) -> None:
        """Make the host's namespaces; its cable is for the network to lay."""
        assert self._process is None, f"{self.name} is up"
        self.tmp.mkdir(parents=True, exist_ok=True)
        (self.folder / "hosts").write_text(self.network.hosts_file())
        self._process = subprocess.Popen(
            [
                "unshare", *NAMESPACES, "--fork", "--mount-proc", "--kill-child",
                "sh", "-c", SETUP, "sh", self.name, str(self.folder), SHM, sys.executable, INIT, str(ROOT),
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "up\n":
            raise RuntimeError(f"host {self.name} did not come up")
        self.pid = int(Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()[0])

    def halt(self) -> None:
        """SIGKILL every process of the host, and wait until it is gone with its namespaces."""
        process, self._process = self._process, None
        if process is None:
            return
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)  # the first process of a pid namespace takes all others along
        process.communicate()
        self.pid = 0

    def popen(self, *command: str, **options: Any) -> Inside:
        """Start a command inside, in /tmp."""
        assert self.up, f"{self.name} is down"
        enter = ["nsenter", f"--target={self.pid}", *NAMESPACES, "env", "--chdir=/tmp"]
        return Inside([*enter, *command], **options)

    def run(self, *command: str, text: str = "") -> None:
        """Run a command inside to its end; CalledProcessError if it fails."""
        with self.popen(*command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            _, said = process.communicate(text)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, stderr=said)

    def processes(self, *words: str) -> list[int]:
        """The host's processes whose title has one of ``words``, by the machine's process ids."""
        if not self.up:
            return []
        ours, found = os.readlink(f"/proc/{self.pid}/ns/pid"), []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):  # it ended while we looked
                    if os.readlink(entry / "ns/pid") == ours:
                        title = (entry / "cmdline").read_text(errors="replace").replace("\0", " ")
                        if any(word in title for word in words):
                            found.append(int(entry.name))
        return sorted(found)


class Network:
    """Hosts by name around one router, all reachable from this process too. A context: leaving it ends all of them."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder = folder
        self.block = random.SystemRandom().randrange(256)
        self.router = Host(self, "router", 0)
        self.hosts = {name: Host(self, name, number) for number, name in enumerate(names, 2)}
        self._here = f"mgt{self.block}"  # this process's end of its cable
        self._cuts: set[tuple[str, str]] = set()

    def __enter__(self) -> Network:
        try:
            self.router.boot()
            self._lay_own_cable()
            for host in self.hosts.values():
                self.power_on(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in (*self.hosts.values(), self.router):
            host.halt()
            shutil.rmtree(host.tmp, ignore_errors=True)
        # The other cables go with their hosts, this one at once.
        subprocess.run(["ip", "link", "del", self._here], check=False, capture_output=True)

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def hosts_file(self) -> str:
        """Every host's name, as /etc/hosts of each has it."""
        return "127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in self.hosts.values())

    def power_on(self, host: Host) -> None:
        """Boot a host and lay its cable."""
        host.boot()
        port = _port(host)
        _ip(f"link add {port} netns {self.router.pid} type veth peer name eth0 netns {host.pid}")
        host.run("ip", "-batch", "-", text=f"addr add {host.address}/30 dev eth0\nlink set eth0 up\n")
        host.run("ip", "route", "add", "default", "via", host.gateway)
        self.router.run("ip", "-batch", "-", text=f"addr add {host.gateway}/30 dev {port}\nlink set {port} up\n")

    def power_off(self, host: Host) -> None:
        """As a power cut does: nobody hears of it. The others' connections just fall silent."""
        self.router.run("ip", "link", "del", _port(host))  # first, so that no dying process can say good-bye
        host.halt()

    def unplug(self, host: Host) -> None:
        """Pull the host's cable: nothing goes in or out, and its own side sees that."""
        self.router.run("ip", "link", "set", _port(host), "down")

    def plug(self, host: Host) -> None:
        """Put the cable back."""
        self.router.run("ip", "link", "set", _port(host), "up")

    def cut(self, one: Host, other: Host) -> None:
        """Drop in silence whatever goes between two hosts, both ways."""
        self._rules("add", one, other)

    def join(self, one: Host, other: Host) -> None:
        """Undo a ``cut``."""
        self._rules("del", one, other)

    def _rules(self, what: str, one: Host, other: Host) -> None:
        for source, target in ((one, other), (other, one)):
            self.router.run("ip", "rule", what, "from", source.address, "to", target.address, "blackhole")

    def _lay_own_cable(self) -> None:
        near, far = (f"{BLOCK}.{self.block}.{number}" for number in (6, 5))
        _ip(f"link add {self._here} type veth peer name here netns {self.router.pid}")
        _ip(f"addr add {near}/30 dev {self._here}")
        _ip(f"link set {self._here} up")
        self.router.run("ip", "-batch", "-", text=f"addr add {far}/30 dev here\nlink set here up\n")
        _ip(f"route add {BLOCK}.{self.block}.0/24 via {far}")


def _port(host: Host) -> str:
    return f"to{host.number}"


def _ip(command: str) -> None:
    tried = subprocess.run(["ip", *command.split()], check=False, capture_output=True, text=True)
    if tried.returncode:
        raise RuntimeError(f"ip {command}: {tried.stderr.strip()}")


def wait_until(condition: Any, what: str, within: float, every: float = 0.1) -> None:
    """Return once ``condition()`` is true; AssertionError naming ``what`` if it is not within that many seconds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within:.0f} s: {what}"
        time.sleep(every)
