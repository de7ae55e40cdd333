"""The network of hosts does what its words say, before any verdict leans on it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, Network, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

ECHO = """
import socket
with socket.create_server(("", 7000)) as server:
    print("listening", flush=True)
    while True:
        connection, _ = server.accept()
        with connection:
            connection.sendall(socket.gethostname().encode())
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with Network(tmp_path_factory.mktemp("network"), ["one", "two", "three"]) as started:
        for host in started.hosts.values():
            listen(host)
        yield started


def listen(host: Host) -> None:
    server = host.popen("/usr/bin/env", "python3", "-ISc", ECHO, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "listening\n"
    server.stdout.close()


def heard(host: Host, other: Host) -> str:
    """What ``host`` is told at ``other``'s port, "" if nothing comes."""
    client = f"import socket; print(socket.create_connection(({other.name!r}, 7000), timeout=0.4).recv(99).decode())"
    done = host.popen("python3", "-ISc", client, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.communicate()[0].strip()


def test_hosts_have_names_addresses_and_files_of_their_own(network: Network) -> None:
    one, two = network["one"], network["two"]
    assert heard(one, two) == "two"
    assert socket.create_connection((one.address, 7000), timeout=5).recv(99) == b"one"
    one.run("sh", "-c", "echo mine > /tmp/file")
    assert (one.tmp / "file").read_text() == "mine\n"
    with pytest.raises(subprocess.CalledProcessError):
        two.run("test", "-e", "/tmp/file")


def test_a_cut_parts_two_hosts_and_no_others(network: Network) -> None:
    one, two, three = (network[name] for name in ("one", "two", "three"))
    network.cut(one, two)
    assert [heard(one, two), heard(two, one), heard(one, three), heard(three, two)] == ["", "", "three", "two"]
    network.join(one, two)
    assert heard(one, two) == "two"


def test_connections_outlive_a_pulled_cable_and_fall_silent_with_their_host(network: Network) -> None:
    one, two = network["one"], network["two"]
    network.unplug(two)
    assert heard(one, two) == heard(two, one) == ""
    network.plug(two)
    assert heard(one, two) == "two"
    held = two.pid
    network.power_off(two)
    assert not two.up
    assert not Path(f"/proc/{held}").exists()
    assert heard(one, two) == ""
    network.power_on(two)
    assert heard(one, two) == "", "what ran there is gone"
    listen(two)
    assert heard(one, two) == "two"


def test_nothing_is_left_of_a_network(tmp_path: Path) -> None:
    with Network(tmp_path, ["lone"]) as started:
        pids = [started["lone"].pid, started.router.pid]
        cable = started._here
        assert cable in os.listdir("/sys/class/net")
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert cable not in os.listdir("/sys/class/net")


def test_signals_reach_the_command_and_not_its_door(network: Network) -> None:
    process = network["one"].popen("sleep", "60")
    while process.inner_pid is None:
        pass
    process.terminate()
    assert process.wait(10) == -15
