"""Names with many versions: every version is found at its place, and a request is done once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake.clock import System
from datalake.errors import InUseError, KeyReusedError, NotFoundError, RetiredError
from datalake.lake import Lake
from datalake.log.version_log import ChangeRequest, VersionLog
from datalake.log.versions import BLOCK, Levels, Versions, grown, located
from datalake.store.open import open_store
from tests.datalake.helpers import make_manifest
from tests.datalake.test_log_costs import CountingStore, cost


@given(count=st.integers(1, 3 * BLOCK * BLOCK), data=st.data())
@settings(max_examples=25, deadline=None)
def test_the_entry_of_every_version_is_found_in_few_reads(count: int, data: st.DataObject) -> None:
    """Against a plain list; entry numbers grow by any step, since aliases move in between."""
    step = data.draw(st.integers(1, 5))
    entries: list[int] = []
    levels: Levels = []
    by_entry: dict[int, Levels] = {}
    for place in range(count):
        entries.append(1 + place * step + place % 3 * (step > 3))
        levels = grown(levels, place, entries[-1])
        by_entry[entries[-1]] = levels
        assert all(len(level) <= BLOCK for level in levels)
    reads: list[int] = []

    def load(entry: int) -> Levels:
        reads.append(entry)
        return by_entry[entry]

    for place in [*data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=20)), 0, count - 1]:
        reads.clear()
        assert located(levels, count - 1, place, load) == entries[place]
        assert len(reads) <= 2


def test_a_lost_or_false_hint_is_found_out(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    log = VersionLog(store, "params", "x", System())
    for number in range(150):
        log.append({"n": number}, expected_head=number)
    hint = "heads/params/x.json"
    assert store.get(hint) == b'{"entry":128}'
    for data in (b'{"entry":64}', b'{"entry":9999}', b'{"entry":"x"}', b"[]", b"{", b'{"entry":-5}'):
        store.replace(hint, data)
        assert VersionLog(store, "params", "x", System()).head().number == 150
    store.delete(hint)
    assert VersionLog(store, "params", "x", System()).head().number == 150


def test_advance_sees_what_head_sees_by_one_request(tmp_path: Path) -> None:
    store = CountingStore(tmp_path)
    mine, theirs = (VersionLog(store, "runs", "x", System()) for _ in range(2))
    assert mine.advance() is None
    theirs.append({"n": 1}, expected_head=0)
    assert mine.advance().number == 1
    assert cost(store, mine.advance)[0] == 1
    theirs.append({"n": 2}, expected_head=1)
    theirs.append({"n": 3}, expected_head=2)
    assert (mine.advance().state, mine.advance().number) == ({"n": 3}, 3)


def test_a_request_is_done_once_and_answered_alike(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    log = VersionLog(store, "params", "x", System())
    first = log.update(lambda _: {"n": 1}, request=ChangeRequest("one", "f"))
    assert (first.number, first.changed, first.replayed) == (1, True, False)
    assert log.update(lambda _: {"n": 2}).changed
    for handle in (log, VersionLog(store, "params", "x", System())):
        again = handle.update(lambda _: {"n": 9}, request=ChangeRequest("one", "f"))
        assert (again, again.replayed) == (first, True)
    with pytest.raises(KeyReusedError):
        log.update(lambda _: {"n": 9}, request=ChangeRequest("one", "g"))
    idle = log.update(lambda _: None, request=ChangeRequest("two", "f"))
    assert (idle.number, idle.state, idle.changed) == (3, {"n": 2}, False)
    replayed = log.update(lambda _: {"n": 9}, request=ChangeRequest("two", "f"))
    assert (replayed.number, replayed.changed, replayed.replayed) == (3, False, True)
    for number in range(127):
        log.update(lambda _, n=number: {"n": n}, request=ChangeRequest(f"more {number:016}", "f"))
    assert log.update(lambda _: {"n": 9}, request=ChangeRequest("two", "f")).replayed, "the newest 128 are kept"
    assert not log.update(lambda _: {"n": 9}, request=ChangeRequest("one", "f")).replayed
    assert len(log.head().requests) == 128


def test_a_commit_of_known_data_finds_its_version_however_old(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    old = make_manifest(lake, sequences=32, seed=1)
    first = lake.datasets.commit("d", old)
    others = [make_manifest(lake, sequences=32, seed=seed) for seed in range(2, 6)]
    for manifest in others:
        lake.datasets.commit("d", manifest)
    assert lake.datasets.commit("d", old) == first
    assert lake.datasets.commit("d", others[1]).version == 3
    assert [version.version for version in lake.datasets.history("d")] == [1, 2, 3, 4, 5]


def test_a_mark_of_an_append_that_lost_its_race_misleads_nobody(tmp_path: Path) -> None:
    """A mark is left before the entry is tried: where another writer got that entry, it says nothing."""
    lake = Lake.open(str(tmp_path))
    mine, theirs = (make_manifest(lake, sequences=32, seed=seed) for seed in (1, 2))
    versioned = lake.datasets.versioned
    versioned.mark("d", Versions(None, versioned.log("d").entry), mine.digest)
    assert lake.datasets.commit("d", theirs).version == 1
    assert lake.datasets.commit("d", mine).version == 2
    assert lake.datasets.commit("d", mine).version == 2


def test_retired_versions_stay_on_record_and_out_of_the_way(lake_uri: str) -> None:
    lake = Lake.open(lake_uri)
    for number in range(1, 5):
        lake.params.put("x", {"n": number})
    lake.params.tag("x", "stable", 2)
    with pytest.raises(InUseError, match="stable"):
        lake.params.retire("x", 2)
    with pytest.raises(NotFoundError):
        lake.params.retire("x", 7)
    with pytest.raises(NotFoundError):
        lake.params.retire("y", 1)
    assert lake.params.retire("x", 4, "a mistake").retired
    assert lake.params.retire("x", 4).retired, "twice changes nothing"
    assert lake.params.get("x").version == 3
    assert lake.params.get("x@4").spec == {"n": 4}
    lake.params.retire("x", 2, force=True)
    assert lake.params.aliases("x") == {}
    assert [version.retired for version in lake.params.history("x")] == [False, True, False, True]
    with pytest.raises(RetiredError, match=r"x@4 is retired, .*: use another version"):
        lake.params.tag("x", "stable", 4)
    with pytest.raises(RetiredError, match="--undo"):
        lake.params.usable("x@4")
    assert lake.params.usable("x").version == 3
    assert lake.params.put("x", {"n": 4}).version == 5, "what was retired is made anew"
    looks = iter([False])
    told = list(lake.params.watch("x", 0, interval=0.0, stop=lambda: next(looks, True)))
    assert [(change.what, change.version) for change in told if change.what == "retired"] == [
        *[("retired", 4), ("retired", 2)]
    ]
    assert told[5].message == "a mistake"


def test_who_looks_at_a_run_every_second_asks_for_one_object(tmp_path: Path) -> None:
    """However long the run's log is; another process's request to stop is seen all the same."""
    store = CountingStore(tmp_path)
    lake = Lake(store, System())
    run = lake.runs.start("r", "train", {}, {})
    for number in range(100):
        run.append(note=number)
    watcher = run.for_another_thread()
    watcher.poll()
    assert cost(store, watcher.poll)[0] == 1
    assert "stop" not in watcher.state
    lake.runs.ask_stop("r", "lunch")
    assert watcher.poll().state["stop"]["reason"] == "lunch"
