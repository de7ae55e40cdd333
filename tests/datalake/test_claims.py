"""Commits and sweeps in every interleaving of their requests: nothing that was committed is ever swept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake.canonical import sha256_hex
from datalake.clock import System
from datalake.errors import CollectionError, DatalakeError, ManifestError, NotFoundError
from datalake.lake import Lake
from datalake.log.claims import CLAIMS, COLLECTIONS, claimed, collecting, forget, notes
from datalake.maintenance.garbage import find_garbage, sweep
from datalake.maintenance.verify import verify_dataset
from datalake.store.local import LocalStore
from tests.datalake.helpers import make_manifest


class Turns:
    """Lets two threads take turns, one request at a time, as ``schedule`` says; what it leaves open falls to whoever
    is there. A thread that has ended gives up its turns."""

    def __init__(self, schedule: list[int]) -> None:
        self._schedule = schedule
        self._changed = threading.Condition()
        self._waiting: set[int] = set()
        self._running = {0, 1}
        self.done: list[int] = []

    def take(self, who: int) -> None:
        """Return when it is this thread's turn to make its next request."""
        with self._changed:
            self._waiting.add(who)
            self._changed.notify_all()
            # Only once each living thread waits is it decided, so that the schedule alone decides.
            self._changed.wait_for(lambda: self._waiting == self._running and self._next() == who, timeout=60)
            self._waiting.discard(who)
            self.done.append(who)

    def _next(self) -> int:
        if len(self._running) == 1:
            return next(iter(self._running))
        return self._schedule[len(self.done)] if len(self.done) < len(self._schedule) else len(self.done) % 2

    def end(self, who: int) -> None:
        with self._changed:
            self._running.discard(who)
            self._changed.notify_all()


class TurnStore(LocalStore):
    """A store each of whose requests waits for its thread's turn."""

    def __init__(self, root: Path, turns: Turns, who: int) -> None:
        super().__init__(root)
        self._turns = turns
        self._who = who

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._turns.take(self._who)
        return super().put_if_absent(key, data)

    def get(self, key: str) -> bytes:
        self._turns.take(self._who)
        return super().get(key)

    def exists(self, key: str) -> bool:
        self._turns.take(self._who)
        return super().exists(key)

    def list(self, prefix: str = "", start_after: str = "", limit: int | None = None) -> Iterator[str]:
        self._turns.take(self._who)
        return iter([*super().list(prefix, start_after, limit)])

    def delete(self, key: str) -> None:
        self._turns.take(self._who)
        super().delete(key)


def later(store: LocalStore, turns: Turns, who: int) -> Lake:
    """The lake thirty days from now; sleeping is a turn, and takes a second."""
    ticks = iter(range(10**6))
    return Lake(
        store,
        System(
            clock=lambda: datetime.now(UTC) + timedelta(days=30),
            sleep=lambda _seconds: turns.take(who),
            monotonic=lambda: float(next(ticks)),
            author="test",
        ),
    )


def interleaved(folder: Path, schedule: list[int], commit: Callable[[Lake], object]) -> object:
    """Run ``commit`` and a sweep, a request at a time each; what commit returned or raised."""
    turns = Turns(schedule)
    lakes = [later(TurnStore(folder, turns, who), turns, who) for who in (0, 1)]
    outcome: list[object] = [None, None]
    found = find_garbage(later(LocalStore(folder), Turns([]), 0))

    def run(who: int, work: Callable[[], object]) -> None:
        try:
            outcome[who] = work()
        except DatalakeError as error:
            outcome[who] = error
        finally:
            turns.end(who)

    threads = [
        threading.Thread(target=run, args=(0, lambda: commit(lakes[0]))),
        threading.Thread(target=run, args=(1, lambda: sweep(lakes[1], found))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert isinstance(outcome[1], frozenset), outcome[1]
    return outcome[0]


@given(schedule=st.lists(st.integers(0, 1), max_size=60))
@settings(max_examples=60, deadline=None)
def test_no_interleaving_loses_what_was_committed(
    schedule: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("lake")
    plain = Lake.open(str(folder))
    manifest = make_manifest(plain, sequences=64)
    outcome = interleaved(folder, schedule, lambda lake: lake.datasets.commit("d", manifest))
    if isinstance(outcome, DatalakeError):
        assert isinstance(outcome, ManifestError | CollectionError)
        with pytest.raises(NotFoundError):
            plain.datasets.get("d")
        make_manifest(plain, sequences=64)  # as the job does that is run again
        plain.datasets.commit("d", manifest)
    assert verify_dataset(plain.store, plain.datasets.manifest("d@1")).ok
    assert notes(plain.store, CLAIMS) == notes(plain.store, COLLECTIONS) == []


@given(schedule=st.lists(st.integers(0, 1), max_size=60))
@settings(max_examples=30, deadline=None)
def test_no_interleaving_loses_a_published_model_or_a_checkpoint(
    schedule: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("lake")
    plain = Lake.open(str(folder))
    files = {"model.safetensors": b"weights"}
    run = plain.runs.start("r", "train", {}, {})
    prefix = run.checkpoint_prefix(1)
    digests = run.upload_checkpoint(prefix, {"model": b"m"})
    listed = {"model.safetensors": {"sha256": sha256_hex(b"weights"), "bytes": 7}}
    plain.models.put_file("m", listed, "model.safetensors", files["model.safetensors"])

    def name_both(lake: Lake) -> None:
        mine = lake.runs.start("r", "train", {}, {}, lease=run.lease)
        mine.name_checkpoint(1, prefix, digests)
        lake.models.add_version("m", listed, run="r")

    interleaved(folder, schedule, name_both)
    for checkpoint in plain.runs.get("r").checkpoints:
        assert dict(plain.runs.get("r").open_checkpoint(checkpoint)) == {"model": b"m"}
    for model in plain.models.list():
        assert plain.models.open_file(model, "model.safetensors") == b"weights"


def test_notes_that_the_killed_left_hold_the_others_off_until_they_are_forgotten(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    manifest = make_manifest(lake, sequences=64)
    old = later(LocalStore(tmp_path), Turns([]), 0)

    class Killed(BaseException):
        """Ends a process where it stands."""

    class Dying(LocalStore):
        def delete(self, key: str) -> None:
            raise Killed(key)

    with pytest.raises(Killed), claimed(Dying(tmp_path), lake.system, [manifest.shards[0].key], "commit of d"):
        pass
    [claim] = notes(lake.store, CLAIMS)
    assert claim.what == "commit of d"
    found = find_garbage(old)
    assert (found.objects, found.young, found.claims) == ((), 2, (claim,))
    forget(lake.store, claim.key)
    found = find_garbage(old)
    assert len(found.objects) == 2

    with pytest.raises(Killed):
        sweep(Lake(Dying(tmp_path), old.system), found)
    [collection] = notes(lake.store, COLLECTIONS)
    seconds = iter(range(0, 10_000, 20))
    hurried = Lake(lake.store, System(sleep=lambda _s: None, monotonic=lambda: float(next(seconds))))
    with pytest.raises(CollectionError, match=rf"--forget {collection.key}"):
        hurried.datasets.commit("d", manifest)
    assert notes(lake.store, CLAIMS) == []
    other = make_manifest(lake, sequences=64, seed=9)
    assert hurried.datasets.commit("d", other).version == 1, "what it does not collect from may be committed"
    with pytest.raises(NotFoundError, match="collections/"):
        forget(lake.store, "collections/unknown.json")
    forget(lake.store, collection.key)
    assert hurried.datasets.commit("d", manifest).version == 2
    with collecting(lake.store, lake.system, ["data/x"]) as held:
        assert held == frozenset()
