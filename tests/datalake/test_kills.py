"""SIGKILL at any moment, of writers and of the S3 server: what was acknowledged is there, nothing is half there."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from datalake.clock import System
from datalake.errors import StoreUnavailableError
from datalake.log.version_log import VersionLog
from datalake.store.open import open_store
from tests.s3server import S3Server

_BODY = random.Random(0).randbytes(300_000)


def _write_for_ever(uri: str, acknowledged: Connection) -> None:
    """Objects named by their digest, and log entries, as fast as they go; says what is done."""
    store = open_store(uri)
    log = VersionLog(store, "params", "x", System())
    for number in range(1_000_000):
        body = _BODY + number.to_bytes(8, "little")
        key = f"blobs/{hashlib.sha256(body).hexdigest()}"
        store.put_if_absent(key, body)
        acknowledged.send(key)
        entry = log.update(lambda state: {"n": (state or {"n": 0})["n"] + 1})
        acknowledged.send(entry.number)


def test_a_killed_writer_leaves_whole_objects_only(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    store = open_store(str(lake))
    spawn = multiprocessing.get_context("spawn")
    keys: set[str] = set()
    head = 0
    for seed in range(3):
        here, there = spawn.Pipe(duplex=False)
        writer = spawn.Process(target=_write_for_ever, args=(str(lake), there))
        writer.start()
        there.close()
        for _ in range(random.Random(seed).randrange(3, 40)):
            seen = here.recv()
            keys |= {seen} if isinstance(seen, str) else set()
            head = seen if isinstance(seen, int) else head
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        here.close()

    listed = list(store.list("blobs/"))
    assert keys <= set(listed)
    assert all(hashlib.sha256(store.get(key)).hexdigest() == key.removeprefix("blobs/") for key in listed)
    entries = list(VersionLog(store, "params", "x", System()).entries())
    assert len(entries) >= head
    assert [entry.state["n"] for entry in entries] == list(range(1, len(entries) + 1))


@pytest.mark.soak
def test_a_killed_server_keeps_what_it_acknowledged(own_server: S3Server) -> None:
    """Writers go on through three kills and restarts without an error of their own, or with a named one."""
    store = open_store("s3://lake/kills")
    acknowledged: list[tuple[str, bytes]] = []
    stop = threading.Event()

    def write(writer: int) -> None:
        log = VersionLog(store, "params", f"w{writer}", System())
        number = 0
        while not stop.is_set():
            number += 1
            key, body = f"blobs/{writer}-{number:06d}", random.Random(number * 16 + writer).randbytes(2_000)
            try:
                store.put_if_absent(key, body)
                log.update(lambda state: {"n": (state or {"n": 0})["n"] + 1})
            except StoreUnavailableError:
                continue
            acknowledged.append((key, body))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for seed in range(3):
        stop.wait(0.5 + random.Random(seed).random())
        own_server.kill()
        own_server.start()
    stop.wait(1)
    stop.set()
    for thread in threads:
        thread.join()

    assert len(acknowledged) > 20
    assert [key for key, body in acknowledged if store.get(key) != body] == []
    for writer in range(4):
        entries = list(VersionLog(store, "params", f"w{writer}", System()).entries())
        assert [entry.state["n"] for entry in entries] == list(range(1, len(entries) + 1))
