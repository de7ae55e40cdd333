"""Lists that grow in a log: every item at its place for few reads, marks, and logs that held such lists whole."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake.canonical import canonical_json
from datalake.clock import System
from datalake.errors import CorruptObjectError
from datalake.lake import Lake
from datalake.log.growing import GrowingList
from datalake.log.ranges import add_numbers, is_in, numbers_outside, size
from datalake.log.version_log import VersionLog
from datalake.log.versions import BLOCK
from datalake.registry.access import TokenLog
from datalake.store.open import open_store


@given(numbers=st.sets(st.integers(0, 60)), more=st.sets(st.integers(0, 60)))
def test_ranges_are_sets(numbers: set[int], more: set[int]) -> None:
    ranges = add_numbers(add_numbers([], numbers), more)
    both = numbers | more
    assert [number for number in range(62) if is_in(ranges, number)] == sorted(both)
    assert size(ranges) == len(both)
    assert list(numbers_outside(ranges, 3, 50)) == [n for n in range(50, 2, -1) if n not in both]
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(ranges))


@given(before=st.integers(0, 40), count=st.integers(1, 40 * BLOCK), data=st.data())
@settings(max_examples=25, deadline=None)
def test_every_item_is_found_in_few_reads(before: int, count: int, data: st.DataObject) -> None:
    """Against a plain list; entries that do not touch the list come in between, and some items are marked."""
    listed = [{"n": n} for n in range(before)]
    entries: dict[int, Any] = {1: listed}
    reads: list[int] = []

    def load(entry: int) -> Any:
        reads.append(entry)
        return entries[entry]

    number, marked = 1, set()
    mark_every = data.draw(st.sampled_from([0, 7, 33]))
    for n in range(before, before + count):
        number += 1 + (n % 5 == 0)
        if number - 1 not in entries:
            entries[number - 1] = entries[max(entries)]
        now = GrowingList(entries[number - 1], number - 1, load)
        entries[number] = now.with_item({"n": n})
        if mark_every and n % mark_every == 0:
            number += 1
            entries[number] = GrowingList(entries[number - 1], number - 1, load).with_marks([n // 2, n])
            marked |= {n // 2, n}
    assert max(len(value["newest"]) for value in entries.values() if isinstance(value, dict)) <= BLOCK
    total = before + count
    places = [*data.draw(st.lists(st.integers(0, total - 1), max_size=20)), 0, total - 1]
    for place in places:
        reads.clear()
        assert GrowingList(entries[number], number, load).item(place) == {"n": place}
        assert len(reads) <= 3
    reads.clear()
    found = GrowingList(entries[number], number, load)
    assert [item["n"] for item in found] == list(range(total))
    assert found.newest(3) == [{"n": n} for n in range(max(0, total - 3), total)]
    assert len(reads) <= count // BLOCK + 3
    assert list(found.unmarked_places()) == [n for n in range(total - 1, -1, -1) if n not in marked]
    assert found.unmarked == total - len(marked)


def test_a_run_goes_on_from_a_log_that_held_everything(tmp_path: Path) -> None:
    """What format 1 wrote, checkpoints dropped among it, is still there after 50 more; entries no longer hold it."""
    lake = Lake.open(str(tmp_path))
    about = {"kind": "train", "config": {}, "config_digest": "d", "inputs": {}, "status": "running", "lease": "mine"}
    state = about | {
        "attempts": 1,
        "result": None,
        "error": None,
        "repairs": [{"key": f"old-{n}"} for n in range(50)],
        "checkpoints": [
            {"step": n, "key_prefix": f"checkpoints/r/{n}", "files": {}, "dropped": n < 7, "metrics": None}
            | {"parent": f"checkpoints/r/{n - 1}" if n else None, "time": ""}
            for n in range(10)
        ],
    }
    VersionLog(lake.store, "runs", "r", lake.system).append(state, expected_head=0)
    run = lake.runs.get("r")
    assert [each.step for each in run.checkpoints] == [7, 8, 9]
    assert (run.checkpoint_count, run.newest_checkpoint.step, run.listed("repairs").count) == (3, 9, 50)
    assert "checkpoints" not in run.state
    mine = another(lake, "r", "mine")
    mine.append(note=1)
    assert b"old-3" not in lake.store.get("runs/r/00000002.json"), "also where the list itself did not change"
    mine.drop_checkpoints(mine.checkpoints[:1])
    for n in range(10, 60):
        mine.add_checkpoint(n, {"model": b"x"}, metrics=canonical_json({"step": n}))
        mine.add_repair({"key": f"new-{n}"})
    mine.drop_checkpoints([each for each in mine.checkpoints if each.step % 2])
    assert [each.step for each in another(lake, "r").checkpoints] == [8, *range(10, 60, 2)]
    recorded = lake.runs.get("r").recorded_checkpoints()
    assert [each.step for each in recorded] == list(range(60))
    assert all(each.dropped == (each.step < 8 or each.step % 2 == 1) for each in recorded)
    assert all(bool(each.files) == (each.step >= 10 and not each.dropped) for each in recorded)
    keys = [repair["key"] for repair in lake.runs.get("r").listed("repairs")]
    assert keys == [f"old-{n}" for n in range(50)] + [f"new-{n}" for n in range(10, 60)]
    assert [row["step"] for row in lake.runs.get("r").metric_records()] == list(range(10, 60))


def another(lake: Lake, run: str, lease: str | None = None) -> Any:
    """The run as another process has it: nothing remembered."""
    from datalake.runs.run import Run

    log = VersionLog(lake.store, "runs", run, lake.system, 2)
    return Run(lake.store, lake.system, log, log.head(), lease)


def test_a_sample_of_a_long_curve_leaves_out_what_was_run_and_lost(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    run = lake.runs.start("r", "train", {}, {})
    for step in (1, 2, 3):
        run.add_checkpoint(step, {}, canonical_json({"step": step, "loss": 1.0}))
    lake.store.delete(f"{run.checkpoints[-1].key_prefix}/metrics.jsonl")  # so that the run goes on from step 2
    again = lake.runs.start("r", "train", {}, {})
    assert again.latest_valid_checkpoint()[0].step == 2
    for step in (3, 4, 5):
        again.add_checkpoint(step, {}, canonical_json({"step": step, "loss": 2.0}))
    whole = [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]
    assert [(row["step"], row["loss"]) for row in again.metric_records()] == whole
    records, count = again.metrics_sample(6)
    assert ([(row["step"], row["loss"]) for row in records], count) == (whole, 6)
    records, _ = again.metrics_sample(2)
    assert [row["step"] for row in records] == [1, 5]
    lake.store.delete("runs/r/00000002.json")  # nothing reads it: what it held is in entries after it
    assert len(another(lake, "r").metric_records()) == 5


def test_a_chain_with_a_hole_is_named(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    run = lake.runs.start("r", "train", {}, {})
    run._parent = "checkpoints/r/gone"
    run.add_checkpoint(1, {"model": b"x"})
    with pytest.raises(CorruptObjectError, match="goes on from checkpoint checkpoints/r/gone, which its log does not"):
        run.metric_records()


def test_tokens_are_what_was_made_and_ended(tmp_path: Path) -> None:
    """Many of them, seen by one who follows and by one who comes anew; the log's entries stay small."""
    store = open_store(str(tmp_path))
    made = TokenLog(store, System(author="ops"))
    follower = TokenLog(store, System())
    ids = []
    for n in range(BLOCK + 5):
        ids.append(made.create(f"t{n}", "reader")[0].id)
        if n % 3 == 0:
            TokenLog(store, System()).revoke(ids[-1])
        assert follower.list() == made.list()
    for seen in (made.list(), TokenLog(store, System()).list()):
        assert [token.id for token in seen] == ids
        assert [token.revoked is not None for token in seen] == [n % 3 == 0 for n in range(len(ids))]
    assert made.revoke(ids[0]).revoked == follower.list()[0].revoked, "a second time changes nothing"
    assert max(len(store.get(key)) for key in store.list("access/")) < 20_000
