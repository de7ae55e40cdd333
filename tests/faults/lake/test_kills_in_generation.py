"""SIGKILL of writers and of the storage server during a generation: the outcome is that of an undisturbed one."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from datalake.errors import StoreUnavailableError
from datalake.lake import Lake
from datalake.maintenance.verify import verify_dataset
from tests.faults.lake.schedules import ROOT
from tests.faults.lake.writer import generate
from tests.s3server import S3Server

WRITERS = 2
SHARDS_PER_KILL = 12


class Writers:
    """Two writers that are started again whenever they end before their work is done."""

    def __init__(self, uri: str, shards: int, gate: Path) -> None:
        self._gate = gate
        self.allow(0)
        self._command = [sys.executable, "-m", "tests.faults.lake.writer", uri, str(shards)]
        self._processes = [self._start(number) for number in range(WRITERS)]

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self._command, str(number), str(self._gate)], cwd=ROOT)

    def allow(self, shards: int) -> None:
        """Let each writer go on to this many shards."""
        part = self._gate.with_suffix(".part")
        part.write_text(str(shards))
        part.replace(self._gate)

    def kill(self, number: int) -> None:
        process = self._processes[number]
        assert process.poll() != 0, "the generation was over before the kill"
        process.kill()
        process.wait()
        self._processes[number] = self._start(number)

    def wait(self) -> None:
        for number, process in enumerate(self._processes):
            while process.wait(timeout=240) != 0:  # it gave up while the server was away: run again, as a user would
                process = self._start(number)


def disturbed(uri: str, kills: int, seed: int, gate: Path, server: S3Server | None) -> Counter[str]:
    """A generation with ``kills`` kills at random moments; returns who was killed how often."""
    rng = random.Random(seed)
    writers = Writers(uri, SHARDS_PER_KILL * kills, gate)
    killed: Counter[str] = Counter()
    for number in range(kills):
        writers.allow(SHARDS_PER_KILL * number + SHARDS_PER_KILL // 2)
        time.sleep(rng.uniform(0.02, 1.0))
        if server is not None and rng.random() < 0.5:
            server.kill()
            time.sleep(rng.uniform(0, 0.5))
            server.start()
            killed["server"] += 1
        else:
            writers.kill(rng.randrange(WRITERS))
            killed["writer"] += 1
    writers.allow(SHARDS_PER_KILL * kills)
    writers.wait()
    return killed


def check(uri: str, kills: int, tmp_path: Path) -> None:
    lake = Lake.open(uri)
    manifest = lake.datasets.manifest("d@1")
    assert verify_dataset(lake.store, manifest).problems == ()
    assert len(lake.datasets.history("d")) == 1, "two writers and their restarts committed the same version"
    assert manifest.digest == generate(str(tmp_path / "undisturbed"), SHARDS_PER_KILL * kills, seed=9)
    assert sorted(ref.key for ref in manifest.shards) == list(lake.store.list("data/"))


def test_three_kills(tmp_path: Path, own_server: S3Server) -> None:
    killed = disturbed("s3://lake/x", 3, 2, tmp_path / "gate", own_server)
    assert set(killed) == {"server", "writer"}
    check("s3://lake/x", 3, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_twenty_kills(tmp_path: Path, own_server: S3Server, seed: int) -> None:
    killed = disturbed("s3://lake/x", 20, seed, tmp_path / "gate", own_server)
    print(f"seed {seed}: killed {dict(killed)}")
    assert sum(killed.values()) == 20
    check("s3://lake/x", 20, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_twenty_kills_of_writers_on_disk(tmp_path: Path) -> None:
    uri = str(tmp_path / "lake")
    disturbed(uri, 20, 4, tmp_path / "gate", None)
    leftovers = list(Lake.open(uri).store.leftovers())
    check(uri, 20, tmp_path)
    assert all(info.size < 20_000 for info in leftovers), "dead writers leave temporary files and nothing else"


def test_a_writer_gives_up_by_name_while_the_server_is_away(own_server: S3Server) -> None:
    lake = Lake.open("s3://lake/x")
    own_server.kill()
    with pytest.raises(StoreUnavailableError, match="did not answer"):
        Lake.open("s3://lake/x")
    own_server.start()
    assert lake.params.put("code", {"family": "nca"}).version == 1
