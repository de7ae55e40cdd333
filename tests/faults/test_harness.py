"""The fault harness itself: it kills whom it names, cuts and slows what it should, and tells right rows from wrong."""

from __future__ import annotations

import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.faults import KINDS
from tests.faults.lake.fault_proxy import proxy_loop
from tests.faults.processes import descendants, kill_tree, titled
from tests.faults.rows import FOLDER, Seen, global_batches
from tests.faults.schedule import CHECKPOINT, SEQUENCES, SHARD, STEPS, Schedule
from tests.faults.store_proxy import StoreProxy
from tests.faults.test_pipeline_faults import SOAK_SEEDS
from tests.faults.world import INSIDE, ROOT


def test_every_kind_of_fault_comes_up_where_it_can_strike() -> None:
    schedules = [Schedule.of(seed) for seed in SOAK_SEEDS]
    kinds = Counter(fault.kind for schedule in schedules for fault in schedule.faults)
    assert min(kinds[kind] for kind in KINDS) >= 2
    for schedule in schedules:
        assert schedule == Schedule.of(schedule.seed)
        assert len(schedule.faults) >= 2
        for fault in schedule.faults:
            assert schedule.store in KINDS[fault.kind]
            assert fault.count < (SEQUENCES // SHARD if fault.stage == "shards" else STEPS // CHECKPOINT)


def test_a_tree_is_killed_whole_and_its_members_are_found_by_title() -> None:
    parent = subprocess.Popen(["sh", "-c", "sleep 1234 & sleep 1235 & wait"])
    try:
        deadline = time.monotonic() + 10
        while len(titled(parent.pid, "sleep 123")) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        below = descendants(parent.pid)
        assert titled(parent.pid, "sleep 1235") == [pid for pid, title in below.items() if title == "sleep 1235"]
    finally:
        kill_tree(parent.pid)
    assert parent.wait() == -signal.SIGKILL
    assert not any(Path(f"/proc/{pid}/cmdline").exists() and _title(pid).startswith("sleep") for pid in below)


def _title(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def test_a_process_of_a_schedule_exits_when_told(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{INSIDE}{os.pathsep}{ROOT}", FOLDER: str(tmp_path)}
    program = "print('ready', flush=True); import time; time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR2)
    assert process.wait(20) == 7
    process.stdout.close()


def test_the_step_loop_is_watched_from_outside(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{INSIDE}{os.pathsep}{ROOT}", FOLDER: str(tmp_path)}
    program = "import trainer.learner, trainer.data; assert trainer.learner.check_batch is not trainer.data.check_batch"
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert len(list(tmp_path.glob("*.jsonl"))) == 1


@pytest.fixture
def echo() -> Iterator[int]:
    class Echo(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(ConnectionResetError):
                for line in self.rfile:
                    self.wfile.write(line)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_the_store_is_there_or_slow_or_gone(echo: int) -> None:
    with proxy_loop() as loop:
        proxy = StoreProxy(loop, echo)
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
            assert _said(client) == b"hello\n"
            proxy.delay = 0.2
            began = time.monotonic()
            assert _said(client) == b"hello\n"
            assert time.monotonic() - began >= 0.2
            proxy.down()
            with pytest.raises(OSError, match="reset"):
                client.recv(10)
        with pytest.raises(OSError, match=r"reset|refused|ended"):
            _call(proxy.port)
        proxy.up()
        assert _call(proxy.port) == b"hello\n"
        proxy.close()


def _call(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        if not (answer := _said(client)):
            raise ConnectionError("it ended")
        return answer


def _said(client: socket.socket) -> bytes:
    client.sendall(b"hello\n")
    return client.recv(10)


def test_rows_are_put_together_and_wrong_ones_are_told() -> None:
    def seen(step: int, world: int, rank: int, *rows: int) -> Seen:
        return Seen("p", step, world, rank, tuple((0, row) for row in rows), 1)

    whole = [seen(0, 1, 0, 4, 5), seen(1, 2, 0, 6), seen(1, 2, 1, 7), seen(1, 1, 0, 6, 7), seen(1, 2, 0, 6)]
    assert global_batches(whole) == {("p", 0): [(0, 4), (0, 5)], ("p", 1): [(0, 6), (0, 7)]}
    for wrong in ([seen(1, 2, 0, 8)], [seen(0, 2, 0, 5), seen(0, 2, 1, 4)], [seen(2, 2, 1, 9)]):
        with pytest.raises(AssertionError):
            global_batches([*whole, *wrong])
