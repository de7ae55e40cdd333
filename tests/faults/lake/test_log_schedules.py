"""The version log under seeded fault schedules: every recorded history is linearizable, nothing acknowledged is lost.

Fifty schedules run by default, over two thousand with ``-m soak``. A failure prints its schedule's name, which is its
seed: ``local_schedule(parent, NAME, folder)`` or ``s3_schedule(NAME, …)`` draws the same clients, calls and faults.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from datalake.store.local import LocalStore
from tests.faults.lake.clients import Script, history_of, run_client
from tests.faults.lake.fault_proxy import FAULTS, proxy_loop
from tests.faults.lake.linearizability import linear_order
from tests.faults.lake.schedules import CLIENTS, local_schedule, nursery, s3_schedule
from tests.s3server import S3Server

# Linking and listing are the kernel's on a RAM disk too, and without waiting for fsync three times as many run.
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
S3_AT_ONCE = 5  # the server makes writers of one key wait whole seconds; other logs can use the time


def run_local(seeds: range, base: str | None) -> None:
    unknown = 0
    with nursery() as parent:
        for seed in seeds:
            with tempfile.TemporaryDirectory(dir=base) as folder:
                unknown += local_schedule(parent, f"local {seed}", Path(folder)).faults["killed or unknown"]
    assert unknown > len(seeds), "the schedules killed and lost too little to mean anything"


def run_s3(seeds: range, server: S3Server, *, processes: bool) -> None:
    kind = "processes" if processes else "threads"
    faults: Counter[str] = Counter()
    with proxy_loop() as loop, ThreadPoolExecutor(S3_AT_ONCE) as pool:

        def run(seed: int) -> Counter[str]:
            name = f"s3 {kind} {seed}"
            if not processes:
                return s3_schedule(name, server, loop).faults
            with nursery() as parent, tempfile.TemporaryDirectory(dir=FAST) as folder:
                return s3_schedule(name, server, loop, (parent, Path(folder))).faults

        for seen in pool.map(run, seeds):
            faults += seen
    if not processes:
        assert set(FAULTS) <= set(faults), f"these schedules met only {dict(faults)}"


def test_processes_on_disk(tmp_path: Path) -> None:
    run_local(range(8), str(tmp_path))


def test_processes_on_a_ram_disk() -> None:
    run_local(range(8, 40), FAST)


@pytest.mark.soak
def test_threads_on_s3(s3_env: S3Server) -> None:
    run_s3(range(9), s3_env, processes=False)


def test_processes_on_s3(s3_env: S3Server) -> None:
    run_s3(range(1), s3_env, processes=True)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("start", range(1_000, 2_800, 100))
def test_many_schedules_on_disk(start: int) -> None:
    run_local(range(start, start + 100), FAST)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("start", range(1_000, 1_300, 25))
def test_many_schedules_on_s3(s3_env: S3Server, start: int) -> None:
    run_s3(range(start, start + 25), s3_env, processes=False)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_process_schedules_on_s3(s3_env: S3Server) -> None:
    run_s3(range(1_000, 1_020), s3_env, processes=True)


class OverwritingStore(LocalStore):
    """Create-if-absent in two steps, the way an S3 server without conditional writes would be used."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self.exists(key):
            return False
        time.sleep(0.001)
        self.replace(key, data)
        return True


class LaggingStore(LocalStore):
    """Listings that now and then do not show the newest object."""

    def list(self, prefix: str = "", start_after: str = "", limit: int | None = None):
        keys = list(super().list(prefix, start_after, limit))
        return iter(keys[:-1] if random.random() < 0.1 else keys)


class ForgetfulStore(LocalStore):
    """Writes that are acknowledged and not done."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return random.random() < 0.1 or super().put_if_absent(key, data)


@pytest.mark.parametrize("kind", [OverwritingStore, LaggingStore, ForgetfulStore])
def test_a_store_that_does_not_conform_is_found_out(tmp_path: Path, kind: type[LocalStore]) -> None:
    """The schedules can fail: on stores like these, some history is not linearizable."""
    for seed in range(40):
        store = kind(tmp_path / str(seed))
        notes: list[list[dict]] = [[] for _ in range(CLIENTS)]
        scripts = [Script(client, f"broken {seed}", store.uri, 4) for client in range(CLIENTS)]
        threads = [
            threading.Thread(target=run_client, args=(script, store, notes[script.client].append)) for script in scripts
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        history = [call for client, items in enumerate(notes) for call in history_of(client, items)]
        if linear_order(history) is None:
            return
    pytest.fail(f"40 schedules on a {kind.__name__} showed nothing wrong")
