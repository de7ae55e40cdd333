"""Retiring: refused while something depends on it, undone until something is gone, swept after a grace, and told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from datalake.clock import System
from datalake.errors import InUseError, InvalidNameError, NotFoundError, RetiredError, RunFencedError, RunHeldError
from datalake.lake import Lake
from datalake.maintenance.garbage import find_garbage, sweep
from datalake.maintenance.lineage import lineage
from datalake.maintenance.retire import Kind, restore_version, retire_run, retire_version
from datalake.maintenance.verify import verify_dataset
from datalake.store.open import open_store
from tests.datalake.helpers import make_dataset

SPEC = {"family": "nca"}


def lake_in(uri: str, days: float) -> Lake:
    """The lake as it will be found ``days`` from now."""
    return Lake(open_store(uri), System(clock=lambda: datetime.now(UTC) + timedelta(days=days)))


def fill(lake: Lake) -> None:
    """p@1 made d@1, which run r read; its model m@1 is a parent of n@1 of run s, which is stopped in the middle."""
    lake.params.put("p", SPEC)
    make_dataset(lake, "d", params="p@1")
    run = lake.runs.start("r", "train", {}, {"datasets": ["d@1"], "params": ["p@1"]})
    run.add_checkpoint(1, {"state": b"1"}, metrics=b'{"step": 1}\n')
    lake.models.publish("m", {"w": b"weights"}, run="r", datasets=["d@1"], params=["p@1"])
    run.finish()
    lake.models.publish("n", {"w": b"others"}, run="s", parents=["m@1"])
    stopped = lake.runs.start("s", "train", {}, {"datasets": [], "eval": ["d@1"], "models": ["m@1"]})
    stopped.add_checkpoint(1, {"state": b"2"})
    stopped.stop("by hand")


def retire_it(lake: Lake, name: str, **how: Any) -> None:
    retire_run(lake, name, over=lake.runs.get(name).state["lease"], **how)


@pytest.mark.parametrize(
    ("kind", "ref", "needed_by"),
    [
        ("params", "p@1", "dataset d@1, model m@1"),
        ("datasets", "d@1", "model m@1, run s"),
        ("models", "m@1", "model n@1, run s"),
        ("run", "r", "model m@1"),
    ],
)
def test_what_something_depends_on_is_refused_unless_forced_by_name(
    tmp_path: Path, kind: Any, ref: str, needed_by: str
) -> None:
    lake = Lake.open(str(tmp_path))
    fill(lake)

    def retire(**how: Any) -> None:
        if kind == "run":
            retire_it(lake, ref, **how)
        else:
            retire_version(lake, kind, ref, **how)

    before = list(lake.store.list())
    with pytest.raises(InUseError) as refused:
        retire()
    assert f"{ref} is needed by {needed_by}: retire these first" in str(refused.value)
    assert f"(--force {ref})" in str(refused.value)
    with pytest.raises(InvalidNameError, match=f"repeat {ref}"):
        retire(force="yes")
    assert list(lake.store.list()) == before
    retire(force=ref)
    retire()
    found = (
        lake.runs.get(ref)
        if kind == "run"
        else {"params": lake.params, "datasets": lake.datasets}.get(kind, lake.models).get(ref)
    )
    assert found.retired


def test_from_the_top_everything_is_retired_without_force_and_stays_in_the_lineage(lake_uri: str) -> None:
    lake = Lake.open(lake_uri)
    fill(lake)
    whole = lineage(lake, "n@1")
    retire_version(lake, "models", "n@1", "no use")
    retire_it(lake, "s")
    retire_version(lake, "models", "m@1")
    retire_it(lake, "r")
    retire_version(lake, "datasets", "d@1")
    retire_version(lake, "params", "p@1")
    data = {key for key in lake.store.list() if key.startswith(("data/", "model-files/", "checkpoints/"))}
    curve = {key for key in data if key.endswith("metrics.jsonl")}

    assert find_garbage(lake_in(lake_uri, 6.9)).objects == (), "the grace begins with the mark"
    later = lake_in(lake_uri, 7.1)
    garbage = find_garbage(later)
    assert {info.key for info in garbage.objects} == data - curve
    assert set(sweep(later, garbage)) == data - curve

    again = lineage(lake, "n@1")
    assert again["model"]["retired"]
    assert again["run"]["retired"]
    (parent,) = again["parents"]
    assert parent["datasets"][0]["retired"]
    assert parent["params"][0]["retired"]
    assert unmarked(again) == unmarked(whole)
    assert lake.runs.get("r").metric_records() == [{"step": 1}], "the curve is evidence"
    with pytest.raises(RetiredError, match=r"model m@1 is retired.*use another version"):
        lake.models.open_file("m@1", "w")
    with pytest.raises(RetiredError, match=r"d@1 cannot be restored: \d of its \d objects have been removed"):
        restore_version(lake, "datasets", "d@1")
    with pytest.raises(RetiredError, match="run it again under another name"):
        lake.runs.restore("r")
    assert restore_version(lake, "params", "p@1").retired is False, "specs are never removed"
    assert make_dataset(lake, "d", params="p@1").ref == "d@2", "the same data is made anew"
    assert lake.datasets.get("d").version == 2


def unmarked(tree: Any) -> Any:
    """A lineage without its marks."""
    if isinstance(tree, dict):
        return {field: unmarked(value) for field, value in tree.items() if field != "retired"}
    return [unmarked(value) for value in tree] if isinstance(tree, list) else tree


def test_undo_works_until_something_is_gone_and_is_told(lake_uri: str) -> None:
    lake = Lake.open(lake_uri)
    fill(lake)
    make_dataset(lake, "d", sequences=150)
    lake.datasets.tag("d", "good", 1)
    with pytest.raises(InUseError, match=r"alias good.*--force d@1"):
        lake.datasets.retire("d", 1)
    retire_version(lake, "datasets", "d@1", force="d@1")
    retire_it(lake, "s", force="s")
    with pytest.raises(RetiredError, match="--undo"):
        lake.datasets.usable("d@1")
    with pytest.raises(RetiredError, match="runs delete s --undo"):
        lake.runs.start("s", "train", {}, {"datasets": [], "eval": ["d@1"], "models": ["m@1"]})
    assert restore_version(lake, "datasets", "d@1").retired is False
    assert lake.datasets.aliases("d") == {}, "aliases are not put back"
    assert lake.runs.restore("s").status == "stopped"
    assert lake.runs.start("s", "train", {}, {"datasets": [], "eval": ["d@1"], "models": ["m@1"]}).status == "running"
    later = lake_in(lake_uri, 8)
    assert find_garbage(later).objects == ()
    for version in lake.datasets.history("d"):
        assert verify_dataset(lake.store, lake.datasets.manifest(version)).ok
    looks = iter([False])
    lake.params.retire("p", 1)
    lake.params.restore("p", 1, "was needed")
    told = [(change.what, change.message) for change in lake.params.watch("p", 0, 0.0, lambda: next(looks, True))]
    assert told[1:] == [("retired", "retire version 1"), ("restored", "was needed")]


def test_only_a_number_names_what_is_retired(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    fill(lake)
    for ref in ("d", "d@good", "d@latest"):
        with pytest.raises(InvalidNameError, match="name it by number"):
            retire_version(lake, "datasets", ref)
    for ref in ("d@2", "other@1"):
        with pytest.raises(NotFoundError):
            retire_version(lake, "datasets", ref)


def test_whoever_still_believes_to_hold_a_retired_run_is_fenced_off(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    ghost = lake.runs.start("g", "train", {}, {})
    seen = lake.runs.get("g").state["lease"]
    taken = lake.runs.start("g", "train", {}, {})
    with pytest.raises(RunHeldError):
        retire_run(lake, "g", over=seen)
    retire_it(lake, "g")
    for late in (ghost, taken):
        with pytest.raises(RunFencedError):
            late.append(note=1)
    assert lake.runs.get("g").status == "stopped"


def test_who_begins_to_depend_meanwhile_is_seen_or_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is recorded between the look for dependents and the mark: the mark goes again, and the run goes on."""
    lake = Lake.open(str(tmp_path))
    make_dataset(lake, "d")
    mark = type(lake.datasets).retire_once

    def begin_first(repository: Any, *arguments: Any, **how: Any) -> Any:
        Lake.open(str(tmp_path)).runs.start("late", "train", {}, {"datasets": ["d@1"]})
        return mark(repository, *arguments, **how)

    monkeypatch.setattr(type(lake.datasets), "retire_once", begin_first)
    with pytest.raises(InUseError, match="run late"):
        retire_version(lake, "datasets", "d@1")
    assert not lake.datasets.get("d@1").retired


def test_retired_ranges_split_and_join(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    for number in range(1, 8):
        lake.params.put("x", {"n": number})
    retired: set[int] = set()
    for version, what in ((3, "retire"), (5, "retire"), (4, "retire"), (4, "restore"), (7, "retire"), (3, "restore")):
        (retired.add if what == "retire" else retired.discard)(version)
        getattr(lake.params, what)("x", version)
        assert {each.version for each in lake.params.history("x") if each.retired} == retired
    assert lake.params.get("x").version == 6
    lake.params.put("x", {"n": 9}, expect_version=6)
    for version in retired:
        lake.params.restore("x", version)
    assert "retired" not in lake.params.versioned.versions("x").entry.state


KINDS: tuple[Kind, ...] = ("params", "datasets", "models")


class Retiring(RuleBasedStateMachine):
    """Whatever is made, retired, restored and swept, what is in use is whole, and lineage is never lost."""

    @initialize()
    def open(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.days = 0.0
        self.lake = self.now()

    def now(self) -> Lake:
        return lake_in(self.folder.name, self.days)

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(n=st.integers(1, 2))
    def put(self, n: int) -> None:
        self.lake.params.put("p", {"n": n})

    @rule(seed=st.integers(1, 3), rows=st.sampled_from([8, 40]))
    def commit(self, seed: int, rows: int) -> None:
        params = next((version for version in self.lake.params.list() if not version.retired), None)
        make_dataset(self.lake, "d", rows, seed, params.ref if params else None)

    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        datasets = self.usable("datasets")
        models = self.usable("models")
        if datasets:
            dataset = data.draw(st.sampled_from(datasets))
            parents = data.draw(st.sampled_from([[], *([model] for model in models)]))
            self.lake.models.publish("m", {"w": dataset.encode()}, run="r", datasets=[dataset], parents=parents)

    @rule(data=st.data(), kind=st.sampled_from(KINDS), force=st.booleans(), undo=st.booleans())
    def retire(self, data: st.DataObject, kind: Kind, force: bool, undo: bool) -> None:
        known = self.every(kind)
        if not known:
            return
        ref = data.draw(st.sampled_from(known)).ref
        try:
            if undo:
                restore_version(self.lake, kind, ref)
            else:
                retire_version(self.lake, kind, ref, force=ref if force else None)
        except InUseError:
            assert not force
        except RetiredError:
            assert undo

    @rule(days=st.sampled_from([1.0, 8.0]))
    def collect(self, days: float) -> None:
        self.days += days
        self.lake = self.now()
        sweep(self.lake, find_garbage(self.lake))

    def every(self, kind: Kind) -> list[Any]:
        repository = {"params": self.lake.params, "datasets": self.lake.datasets, "models": self.lake.models}[kind]
        return [version for name in repository.names() for version in repository.history(name)]

    def usable(self, kind: Kind) -> list[str]:
        return [version.ref for version in self.every(kind) if not version.retired]

    @invariant()
    def what_is_in_use_is_whole(self) -> None:
        if not hasattr(self, "folder"):
            return
        for ref in self.usable("datasets"):
            assert verify_dataset(self.lake.store, self.lake.datasets.manifest(ref)).ok
        for ref in self.usable("models"):
            assert self.lake.models.open_file(ref, "w")
        for model in self.every("models"):
            assert lineage(self.lake, model.ref)["model"]["retired"] == model.retired


TestRetiring = Retiring.TestCase
TestRetiring.settings = settings(max_examples=12, stateful_step_count=12, deadline=None, derandomize=True)
