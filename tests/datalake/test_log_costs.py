"""What an append, a look and a page of a log cost, for every kind of log, however long it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from datalake.canonical import canonical_json
from datalake.clock import System
from datalake.lake import Lake
from datalake.log.growing import GrowingList
from datalake.log.version_log import VersionLog
from datalake.log.versions import Versions
from datalake.registry.access import AccessControl, TokenLog
from datalake.store.local import LocalStore
from tests.datalake.helpers import make_manifest

Calls = Mapping[str, tuple[Callable[[Lake], Any], int, int]]
"""What to do with a lake that another process has just opened, and the most requests and bytes that it may take."""


class CountingStore(LocalStore):
    """Counts requests, and the bytes of what is written, read and listed, as an S3 server would bill them."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.counts: Counter[str] = Counter()

    def _count(self, size: int = 0) -> None:
        self.counts["requests"] += 1
        self.counts["bytes"] += size

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._count(len(data))
        return super().put_if_absent(key, data)

    def replace(self, key: str, data: bytes) -> None:
        self._count(len(data))
        super().replace(key, data)

    def get(self, key: str) -> bytes:
        self._count()
        data = super().get(key)
        self.counts["bytes"] += len(data)
        return data

    def exists(self, key: str) -> bool:
        self._count()
        return super().exists(key)

    def delete(self, key: str) -> None:
        self._count()
        super().delete(key)

    def list(self, prefix: str = "", start_after: str = "", limit: int | None = None) -> Iterator[str]:
        keys = list(super().list(prefix, start_after, limit))
        self.counts["requests"] += max(1, -(-len(keys) // 1000))
        self.counts["bytes"] += sum(map(len, keys))
        return iter(keys)


def cost(store: CountingStore, call) -> tuple[int, int]:
    """Requests and bytes of ``call()``."""
    store.counts.clear()
    call()
    return store.counts["requests"], store.counts["bytes"]


SIZES = pytest.mark.parametrize(
    "sizes", [(35, 140), pytest.param((100, 1_000, 10_000), marks=pytest.mark.soak)], ids=["short", "ten_thousand"]
)


def measure(store: CountingStore, kind: str, count: int, calls: Calls) -> None:
    """Hold what each call costs with nothing remembered against its bounds, which are the same at every length."""
    for name, (call, most_requests, most_bytes) in calls.items():
        lake = Lake(store, System(author="test"))
        requests, data = cost(store, lambda call=call, lake=lake: call(lake))
        print(f"{kind} | {name} | {count} | {requests} requests | {data} bytes")
        assert requests <= most_requests, f"{kind}, {name} at {count}: {requests} requests"
        assert data <= most_bytes, f"{kind}, {name} at {count}: {data} bytes"


def grow_versions(log: VersionLog, count: int) -> None:
    """Append versions like the latest until there are ``count``."""
    while Versions(log.head(), log.entry).count < count:

        def add(head: Any) -> dict[str, Any]:
            versions = Versions(head, log.entry)
            return versions.with_version({**(versions.latest or {}), "version": versions.count + 1})

        log.append_next(add)


@SIZES
def test_parameter_sets(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    store = CountingStore(tmp_path)
    lake = Lake(store, System(author="test"))
    lake.params.put("x", {"n": 0})
    for count in sizes:
        grow_versions(lake.params.versioned.log("x"), count - 1)
        calls: Calls = {
            "put": (lambda lake, n=count: lake.params.put("x", {"n": n}), 14, 20_000),
            "the same put": (lambda lake, n=count: lake.params.put("x", {"n": n}), 14, 20_000),
            "get": (lambda lake: lake.params.get("x"), 8, 20_000),
            "get 1": (lambda lake: lake.params.get("x@1"), 12, 20_000),
            "page of 1": (lambda lake: lake.params.page("x", 0, 1), 12, 20_000),
            "page of 20": (lambda lake, n=count: lake.params.page("x", n // 2, 20), 55, 60_000),
            "tag": (lambda lake, n=count: lake.params.tag("x", "stable", n // 2), 16, 20_000),
            "get stable": (lambda lake: lake.params.get("x@stable"), 12, 20_000),
        }
        measure(store, "params", count, calls)


@SIZES
def test_datasets(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    store = CountingStore(tmp_path)
    lake = Lake(store, System(author="test"))
    lake.datasets.commit("x", make_manifest(lake, sequences=32, seed=0))
    for count in sizes:
        grow_versions(lake.datasets.versioned.log("x"), count - 1)
        manifest = make_manifest(lake, sequences=32, seed=count)
        calls: Calls = {
            "commit": (lambda lake, manifest=manifest: lake.datasets.commit("x", manifest), 22, 20_000),
            "the same commit": (lambda lake, manifest=manifest: lake.datasets.commit("x", manifest), 22, 20_000),
            "get": (lambda lake: lake.datasets.get("x"), 8, 20_000),
            "get 1": (lambda lake: lake.datasets.get("x@1"), 12, 20_000),
            "page of 20": (lambda lake, n=count: lake.datasets.page("x", n // 2, 20), 55, 80_000),
        }
        measure(store, "datasets", count, calls)


@SIZES
def test_models(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    store = CountingStore(tmp_path)
    lake = Lake(store, System(author="test"))
    lake.models.publish("x", {"config.json": b"0"}, run="r")
    for count in sizes:
        grow_versions(lake.models.versioned.log("x"), count - 1)
        calls: Calls = {
            "publish": (
                lambda lake, n=count: lake.models.publish("x", {"config.json": b"%d" % n}, run="r"),
                18,
                20_000,
            ),
            "get": (lambda lake: lake.models.get("x"), 8, 20_000),
            "get 1": (lambda lake: lake.models.get("x@1"), 12, 20_000),
            "page of 20": (lambda lake, n=count: lake.models.page("x", n // 2, 20), 55, 80_000),
            "tag": (lambda lake, n=count: lake.models.tag("x", "stable", n // 2), 16, 20_000),
        }
        measure(store, "models", count, calls)


@SIZES
def test_runs(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """A run that keeps its last three checkpoints, and had as many repairs and trials."""
    store = CountingStore(tmp_path)
    lake = Lake(store, System(author="test"))
    run = lake.runs.start("x", "train", {"steps": 10**6}, {"datasets": ["d@1"]})
    run.add_checkpoint(0, {"model": b"x"}, metrics=canonical_json({"step": 0}))
    run.add_repair({"key": "data/0"})
    run.add_trial({"loss": 1.0})
    for count in sizes:
        grow_run(lake, count - 1)

        def checkpoint(lake: Lake, n: int = count) -> None:
            held = lake.runs.start("x", "train", {"steps": 10**6}, {"datasets": ["d@1"]}, lease=run.lease)
            held.add_checkpoint(n, {"model": b"x"}, metrics=canonical_json({"step": n}))
            held.drop_checkpoints(held.checkpoints[:-3])

        def page(lake: Lake) -> None:
            seen = lake.runs.get("x")
            assert seen.checkpoint_count == 3
            assert len(seen.recorded_checkpoints(64)) >= 35
            assert len([seen.listed(field).newest(64) for field in ("repairs", "trials")]) == 2

        calls: Calls = {
            "checkpoint and drop one": (checkpoint, 40, 250_000),
            "look": (lambda lake: lake.runs.get("x").newest_checkpoint, 6, 40_000),
            "page": (page, 16, 250_000),
            "resume from": (lambda lake: lake.runs.get("x").latest_valid_checkpoint(), 12, 60_000),
            "ask to stop": (lambda lake: lake.runs.ask_stop("x", f"{lake}"), 14, 80_000),
        }
        measure(store, "runs", count, calls)


def grow_run(lake: Lake, count: int) -> None:
    """Append checkpoints, repairs and trials like the last ones until there are ``count``; the last three are kept."""
    log = VersionLog(lake.store, "runs", "x", lake.system, 2)

    def lists(head: Any) -> dict[str, GrowingList]:
        fields = ("checkpoints", "repairs", "trials")
        return {
            name: GrowingList(head.state[name], head.number, lambda n, f=name: log.entry(n).state[f]) for name in fields
        }

    def add(head: Any) -> dict[str, Any]:
        found = lists(head)
        number = {"key_prefix": f"checkpoints/x/{head.number}"}
        grown = {name: each.with_item({**each.item(each.count - 1), **number}) for name, each in found.items()}
        checkpoints = GrowingList(grown["checkpoints"], head.number + 1, lambda _: [])
        marked = checkpoints.with_marks(range(max(0, checkpoints.count - 3)), lambda item: {**item, "files": {}})
        return {**head.state, **grown, "checkpoints": marked}

    while lists(log.head())["checkpoints"].count < count:
        log.append_next(add)


@SIZES
def test_tokens(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """What grows is a server's first look: it reads an entry for 32 tokens."""
    store = CountingStore(tmp_path)
    lake = Lake(store, System(author="test"))
    token, text = TokenLog(store, lake.system).create("first", "admin")
    access = AccessControl(store, lake.system, refresh_s=0.0)
    for count in sizes:
        grow_tokens(lake, count)
        access.authenticate(text)

        def make(lake: Lake) -> None:
            TokenLog(store, lake.system).create("one-more", "reader")

        calls: Calls = {
            "create": (make, 8, 60_000),
            "a server that follows": (lambda _: access.authenticate(text), 4, 60_000),
            "and lists them": (lambda _: access.tokens.list(), 2, 10_000),
            "and ends one": (lambda _: access.tokens.revoke(access.tokens.list()[-1].id), 6, 80_000),
            "a server that starts": (
                lambda lake: AccessControl(store, lake.system).authenticate(text), 6 + count // 30, 30_000 + 600 * count
            ),
        }  # fmt: skip
        measure(store, "tokens", count, calls)
    assert access.authenticate(text) == token


def grow_tokens(lake: Lake, count: int) -> None:
    """Append records like the first until there are ``count`` tokens."""
    log = VersionLog(lake.store, "access", "tokens", lake.system, 2)

    def events(head: Any) -> GrowingList:
        return GrowingList(head.state["events"], head.number, lambda n: log.entry(n).state["events"])

    first = events(log.head()).item(0)
    while (made := events(log.head()).count) < count:
        log.append_next(lambda head, n=made: {"events": events(head).with_item({**first, "id": f"{n:012x}"})})
