"""A fault schedule: clients, calls, faults and deaths, all drawn from one seed; the interleaving is the machine's."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import boto3
from botocore.config import Config

from datalake.clock import System
from datalake.log.version_log import VersionLog
from datalake.store.interface import Store
from datalake.store.open import open_store
from datalake.store.s3 import S3Store
from tests.faults.lake.clients import (
    HURRY,
    NAME,
    Script,
    history_of,
    read_notes,
    run_client,
)
from tests.faults.lake.fault_proxy import FaultProxy
from tests.faults.lake.linearizability import Call, explain, linear_order
from tests.s3server import S3Server

CLIENTS = 16
ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def nursery() -> Iterator[subprocess.Popen[str]]:
    """The process that forks clients; see ``clients.nursery``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.lake.clients"],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait(60)


@dataclass
class Outcome:
    """What a schedule did: its history and which faults it met."""

    seed: str
    history: list[Call]
    faults: Counter[str] = field(default_factory=Counter)


def check(outcome: Outcome, store: Store) -> None:
    """Fail, with the seed, unless the history is linearizable and the log holds what was acknowledged."""
    title = f"schedule {outcome.seed} ({dict(outcome.faults)})"
    order = linear_order(outcome.history)
    assert order is not None, f"{title} is not linearizable:\n{explain(outcome.history)}"
    entries = list(VersionLog(store, "params", NAME, System()).entries())
    values = [entry.state["v"] for entry in entries]
    assert len(set(values)) == len(values), f"{title}: a value is in the log twice: {values}"
    for call in outcome.history:
        if call.result is not None and call.result[0] == "ok":
            assert values[int(str(call.result[1])) - 1] == call.value, f"{title}: {call} is not in {values}"
    written = {call.value for call in outcome.history if call.unknown or (call.result and call.result[0] == "ok")}
    assert set(values) <= written, f"{title}: entries from nowhere in {values}:\n{explain(outcome.history)}"


def processes_on(
    parent: subprocess.Popen[str], uri: str, seed: str, folder: Path, environment: dict[str, str], calls: int
) -> list[Call]:
    """Sixteen processes, half of them killed on the way."""
    rng = random.Random(f"{seed} deaths")
    rate = rng.choice([0.0, 0.1, 0.4])
    deadly = rng.random() < 0.7
    scripts = [
        Script(
            client=client,
            seed=seed,
            uri=uri,
            calls=calls,
            fault_rate=rate,
            kill_at=rng.randrange(1, 14 * calls) if deadly and rng.random() < 0.5 else None,
        )
        for client in range(CLIENTS)
    ]
    records = [folder / f"client-{script.client}.jsonl" for script in scripts]
    assert parent.stdin is not None
    assert parent.stdout is not None
    jobs = [(asdict(script), str(record), environment) for script, record in zip(scripts, records, strict=True)]
    parent.stdin.write(json.dumps(jobs) + "\n")
    parent.stdin.flush()
    for script, code in zip(scripts, json.loads(parent.stdout.readline()), strict=True):
        assert code == 0 or (script.kill_at and code == -9), f"schedule {seed}: {script} ended with exit code {code}"
    return [call for script in scripts for call in history_of(script.client, read_notes(records[script.client]))]


def local_schedule(parent: subprocess.Popen[str], seed: str, folder: Path, calls: int = 4) -> Outcome:
    """Processes on one folder: late and lost answers, and SIGKILL between any two system calls."""
    lake = folder / "lake"
    lake.mkdir(parents=True)
    outcome = Outcome(seed, processes_on(parent, str(lake), seed, folder, {}, calls))
    outcome.faults["killed or unknown"] = sum(call.unknown for call in outcome.history)
    check(outcome, open_store(str(lake)))
    return outcome


def s3_schedule(
    seed: str,
    server: S3Server,
    loop: asyncio.AbstractEventLoop,
    processes_of: tuple[subprocess.Popen[str], Path] | None = None,
    calls: int = 3,
) -> Outcome:
    """Threads (or processes) on one prefix of an S3 server, every request through the fault proxy."""
    rng = random.Random(f"{seed} proxy")
    proxy = FaultProxy(
        loop, int(server.endpoint.rpartition(":")[2]), rng.randrange(2**32), rng.choice([0.1, 0.25, 0.4])
    )
    uri = f"s3://lake/{seed.replace(' ', '-')}"
    environment = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{proxy.port}"}
    try:
        if processes_of is not None:
            parent, folder = processes_of
            history = processes_on(parent, uri, seed, folder, {**server.env(), **environment}, calls)
        else:
            history = _threads_on(seed, ProxiedStore(uri, server, proxy.port), calls)
    finally:
        proxy.close()
    outcome = Outcome(seed, history, proxy.seen)
    check(outcome, S3Store(uri))
    return outcome


class ProxiedStore(S3Store):
    """An S3 store that reaches the server through a proxy, whatever the process's environment says."""

    def __init__(self, uri: str, server: S3Server, port: int) -> None:
        super().__init__(uri, retry=HURRY)
        self._proxied = boto3.session.Session().client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            region_name="us-east-1",
            config=Config(
                read_timeout=30,
                max_pool_connections=32,
                retries={"mode": "standard", "total_max_attempts": 1},
                s3={"addressing_style": "path"},
            ),
        )

    def _client(self):
        return self._proxied


def _threads_on(seed: str, store: Store, calls: int) -> list[Call]:
    """Sixteen threads, each with its own handle on the log."""
    notes: dict[int, list[dict]] = {client: [] for client in range(CLIENTS)}
    errors: list[BaseException] = []

    def run(client: int) -> None:
        try:
            run_client(Script(client, seed, store.uri, calls), store, notes[client].append)
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that waits
            errors.append(error)

    threads = [threading.Thread(target=run, args=(client,), daemon=True) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
        assert not thread.is_alive(), f"schedule {seed}: a client hangs"
    if errors:
        raise AssertionError(f"schedule {seed}: a client failed") from errors[0]
    return [call for client, items in notes.items() for call in history_of(client, items)]
