"""The version log against its model, under lost responses, and under races of real processes."""

from __future__ import annotations

import multiprocessing
import random
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from datalake.clock import System
from datalake.errors import Conflict, CorruptObjectError, InvalidNameError, NotFoundError
from datalake.log.version_log import VersionLog
from datalake.store.interface import Store
from datalake.store.local import LocalStore
from datalake.store.open import open_store


def make_log(store: Store, name: str = "x") -> VersionLog:
    return VersionLog(store, "params", name, System())


def test_entries_carry_who_when_why(lake_uri: str) -> None:
    clock = datetime(2026, 11, 22, 3, 4, 5, 678_000, tzinfo=UTC)
    log = VersionLog(open_store(lake_uri), "params", "x", System(clock=lambda: clock, author="ada@lab"))
    assert log.head() is None
    first = log.append({"n": 1}, expected_head=0, message="begin")
    log.append({"n": 2}, expected_head=1)
    assert (first.number, first.author, first.message) == (1, "ada@lab", "begin")
    assert first.time == "2026-11-22T03:04:05.678Z"
    assert [entry.state for entry in make_log(open_store(lake_uri)).entries()] == [{"n": 1}, {"n": 2}]
    assert list(open_store(lake_uri).list("params/")) == ["params/x/00000001.json", "params/x/00000002.json"]


def test_conflict_names_both_heads(lake_uri: str) -> None:
    store = open_store(lake_uri)
    mine, theirs = make_log(store), make_log(store)
    theirs.append({"n": 1}, expected_head=0)
    theirs.append({"n": 2}, expected_head=1)
    for expected in (0, 1, 3):
        with pytest.raises(Conflict) as caught:
            mine.append({"n": 99}, expected_head=expected)
        assert (caught.value.expected, caught.value.found) == (expected, 2)
    assert mine.append({"n": 3}, expected_head=2).number == 3


def test_update_gives_the_change_its_own_copy(tmp_path) -> None:
    log = make_log(open_store(str(tmp_path)))
    log.append({"items": [1]}, expected_head=0)

    def spoil(state):
        state["items"].append(2)

    assert log.update(spoil).state == {"items": [1]}
    assert log.head().state == {"items": [1]}
    with pytest.raises(NotFoundError):
        make_log(open_store(str(tmp_path)), "y").update(lambda _: None)


def test_damaged_entries_are_named_and_foreign_files_passed_over(tmp_path) -> None:
    log = make_log(open_store(str(tmp_path)))
    log.append({}, expected_head=0)
    path = tmp_path / "params" / "x"
    (path / "00000002.json").write_text('{"format": 1, "entry"')
    with pytest.raises(CorruptObjectError, match=r"params/x/00000002\.json"):
        log.head()
    (path / "00000002.json").write_text('{"format": 1, "entry": 7}')
    with pytest.raises(CorruptObjectError, match=r"params/x/00000002\.json"):
        log.head()
    (path / "00000002.json").rename(path / "notes.txt")
    assert log.head().number == 1
    with pytest.raises(InvalidNameError):
        make_log(open_store(str(tmp_path)), "../x")


class ForgetfulStore(LocalStore):
    """A store on which some writes happen although the writer is told that its key was taken.

    That is what a retry after a lost response sees: its own object.
    """

    def __init__(self, root, seed: int) -> None:
        super().__init__(root)
        self.random = random.Random(seed)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return super().put_if_absent(key, data) and self.random.random() < 0.5


def test_a_lost_response_is_neither_a_conflict_nor_a_second_entry(tmp_path) -> None:
    store = ForgetfulStore(tmp_path, seed=1)
    log = make_log(store)
    for n in range(40):
        log.update(lambda state, n=n: {"seen": [*(state or {"seen": []})["seen"], n]})
    assert log.head().number == 40
    assert log.head().state == {"seen": list(range(40))}


class LogMachine(RuleBasedStateMachine):
    """Several handles on one log, each with its own memory of the head, against a plain list."""

    handles = Bundle("handles")

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.model: list[dict] = []

    @rule(target=handles, name=st.just("x"))
    def open(self, name: str) -> VersionLog:
        return make_log(open_store(self.folder.name), name)

    @rule(log=handles, value=st.integers(), behind=st.integers(0, 3))
    def append(self, log: VersionLog, value: int, behind: int) -> None:
        expected = max(0, len(self.model) - behind)
        if expected == len(self.model):
            assert log.append({"v": value}, expected_head=expected).number == expected + 1
            self.model.append({"v": value})
        else:
            with pytest.raises(Conflict) as caught:
                log.append({"v": value}, expected_head=expected)
            assert (caught.value.expected, caught.value.found) == (expected, len(self.model))

    @rule(log=handles, value=st.integers())
    def append_after_a_head_that_is_not_yet(self, log: VersionLog, value: int) -> None:
        with pytest.raises(Conflict):
            log.append({"v": value}, expected_head=len(self.model) + 1)

    @rule(log=handles, value=st.integers())
    def update(self, log: VersionLog, value: int) -> None:
        before = self.model[-1] if self.model else None

        def change(state):
            assert state == before
            return {"v": value}

        assert log.update(change).number == len(self.model) + 1
        self.model.append({"v": value})

    @rule(log=handles)
    def read(self, log: VersionLog) -> None:
        head = log.head()
        assert (head.number, head.state) == (len(self.model), self.model[-1]) if self.model else head is None

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "model"):
            assert [entry.state for entry in make_log(open_store(self.folder.name)).entries()] == self.model

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def _add_numbers(uri: str, worker: int, count: int) -> None:
    log = make_log(open_store(uri), "shared")
    for n in range(count):
        log.update(lambda state, n=n: {"seen": [*(state or {"seen": []})["seen"], [worker, n]]})


def test_processes_lose_and_repeat_nothing(tmp_path) -> None:
    check_race(str(tmp_path / "lake"), workers=3, count=12)


@pytest.mark.soak
def test_sixteen_processes_lose_and_repeat_nothing(lake_uri: str) -> None:
    check_race(lake_uri, workers=16, count=6)


def check_race(uri: str, workers: int, count: int) -> None:
    """Each worker's appends are there once, in its order, and every entry extends the one before by one."""
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_add_numbers, args=(uri, worker, count)) for worker in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * workers
    states = [entry.state["seen"] for entry in make_log(open_store(uri), "shared").entries()]
    assert [len(state) for state in states] == list(range(1, workers * count + 1))
    assert all(later[:-1] == earlier for earlier, later in pairwise(states))
    for worker in range(workers):
        assert [n for who, n in states[-1] if who == worker] == list(range(count))
