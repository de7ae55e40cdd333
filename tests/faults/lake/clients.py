"""Clients of one version log: what a seeded one does, and how what it saw is recorded, also if it is killed.

Every call is noted before it begins and after it ends, with the machine's monotonic clock, so a client that dies leaves
a call without an end: its effect is unknown. A client's own wall clock is hours wrong; nothing may depend on it.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from datalake.clock import System
from datalake.errors import Conflict, StoreUnavailableError
from datalake.log.version_log import VersionLog
from datalake.store.interface import Store
from datalake.store.local import LocalStore
from datalake.store.retry import RetryPolicy
from datalake.store.s3 import S3Store
from tests.faults.lake.linearizability import Call

NAME = "shared"
HURRY = RetryPolicy(attempts=6, base=0.02, cap=0.4)  # some calls shall give up: their effect is then unknown


@dataclass(frozen=True)
class Script:
    """What one client does: ``calls`` calls drawn from ``seed``; dies at its ``kill_at``-th system call, if set."""

    client: int
    seed: str
    uri: str
    calls: int
    fault_rate: float = 0.0  # of the local store's calls; S3 has its faults from the proxy
    kill_at: int | None = None


class FlakyLocalStore(LocalStore):
    """A disk behind an unreliable network: answers are late or lost, before the call took effect or after."""

    def __init__(self, root: Path, rng: random.Random, rate: float) -> None:
        super().__init__(root)
        self._rng = rng
        self._rate = rate

    def _perhaps(self, call: Callable[[], Any]) -> Any:
        if self._rng.random() >= self._rate:
            return call()
        fault = self._rng.choice(("late", "slow", "lost request", "lost reply"))
        time.sleep(self._rng.random() * 0.004 if fault in ("late", "slow") else 0)
        result = None if fault == "lost request" else call()
        time.sleep(self._rng.random() * 0.004 if fault == "slow" else 0)
        if fault.startswith("lost"):
            raise StoreUnavailableError(f"injected: {fault}")
        return result

    def put_if_absent(self, key: str, data: bytes) -> bool:
        # A retry after a lost reply meets its own object and is told that the key was taken.
        return self._perhaps(lambda: super(FlakyLocalStore, self).put_if_absent(key, data)) and (
            self._rng.random() >= self._rate
        )

    def get(self, key: str) -> bytes:
        return self._perhaps(lambda: super(FlakyLocalStore, self).get(key))


def open_client_store(script: Script) -> Store:
    """The store as this client sees it."""
    rng = random.Random(f"{script.seed} store {script.client}")
    if script.uri.startswith("s3://"):
        return S3Store(script.uri, System(jitter=rng.random), HURRY)
    return FlakyLocalStore(Path(script.uri), rng, script.fault_rate)


def run_client(script: Script, store: Store, note: Callable[[dict[str, Any]], None]) -> None:
    """Make the script's calls, telling ``note`` before and after each."""
    rng = random.Random(f"{script.seed} client {script.client}")
    skew = timedelta(hours=rng.uniform(-48, 48))
    system = System(
        clock=lambda: datetime.now(UTC) + skew,
        jitter=rng.random,
        sleep=lambda seconds: time.sleep(seconds / 10),
        author=f"client-{script.client}",
    )
    log = VersionLog(store, "params", NAME, system)
    known = 0
    for number in range(script.calls):
        value = f"{script.client}-{number}"
        kind = rng.choices(["read", "append", "update"], [0.35, 0.45, 0.2])[0]
        expected = max(0, known + rng.choices([0, -1, 1], [0.8, 0.1, 0.1])[0])
        if rng.random() < 0.2:
            log = VersionLog(store, "params", NAME, system)  # another handle, that remembers nothing
        note({"call": kind, "value": value, "expected": expected, "time": time.monotonic()})
        result: tuple[object, object] | None = None
        try:
            if kind == "read":
                head = log.head()
                result = (head.number, head.state["v"]) if head else (0, None)
                known = head.number if head else 0
            elif kind == "append":
                known = log.append({"v": value}, expected_head=expected).number
                result = ("ok", known)
            else:
                known = log.update(lambda _, value=value: {"v": value}).number
                result = ("ok", known)
        except Conflict as conflict:
            known = conflict.found
            # An update gives up after many lost races; none is the sequential log's answer, and no effect either.
            result = ("conflict", conflict.found) if kind == "append" else None
        except StoreUnavailableError:
            pass
        note({"result": result, "time": time.monotonic()})


def process_main(script: Script, record: str, environment: dict[str, str]) -> None:
    """A client as a process of its own, its notes in the file ``record``."""
    os.environ.update(environment)
    descriptor = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    store = open_client_store(script)
    if script.kill_at is not None:
        _die_at(script.kill_at, script.uri)
    run_client(script, store, lambda item: _write(descriptor, item))


def nursery() -> None:
    """Serve process schedules: a JSON list of (script, record, environment) a line in, their exit codes a line out.

    A process that has imported everything and has no threads forks a client in milliseconds; a fresh interpreter for
    each of the tens of thousands of clients would take a second.
    """
    for line in sys.stdin:
        children = []
        for script, record, environment in json.loads(line):
            child = os.fork()
            if child == 0:
                try:
                    process_main(Script(**script), record, environment)
                    os._exit(0)
                except BaseException:  # noqa: BLE001 - a forked child must not run its parent's code
                    traceback.print_exc()
                    os._exit(1)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


def _write(descriptor: int, item: dict[str, Any]) -> None:
    os.write(descriptor, json.dumps(item).encode() + b"\n")


def _die_at(count: int, folder: str) -> None:
    """Kill this process right before its ``count``-th system call on the lake's files, or its n-th send to S3."""
    left = count

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        touches = event in ("open", "os.link", "os.remove", "os.mkdir", "os.scandir") and folder in str(arguments[0])
        if touches or event == "http.client.send":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def history_of(client: int, notes: list[dict[str, Any]]) -> list[Call]:
    """The calls that a client's notes tell of."""
    calls = []
    for at, begun in enumerate(notes):
        if "call" not in begun:
            continue
        ended = notes[at + 1] if at + 1 < len(notes) else {"result": None}
        result = tuple(ended["result"]) if ended["result"] is not None else None
        calls.append(
            Call(
                client=client,
                kind=begun["call"],
                begin=begun["time"],
                end=ended["time"] if result is not None else math.inf,
                value=begun["value"],
                expected=begun["expected"],
                result=result,
            )
        )
    return calls


def read_notes(record: Path) -> list[dict[str, Any]]:
    """A client's notes; a last line cut short by its death is left out."""
    if not record.exists():
        return []
    return [json.loads(line) for line in record.read_text().splitlines(keepends=True) if line.endswith("\n")]


if __name__ == "__main__":
    nursery()
