"""Differences field by field, changes as they happen, and versions that no call can change."""

from __future__ import annotations

import tempfile
from itertools import islice

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from datalake.clock import System
from datalake.errors import Conflict, NotFoundError
from datalake.lake import Lake
from datalake.log.changes import FieldChange, diff_specs
from datalake.store.open import open_store


def test_fields_that_differ() -> None:
    old = {"family": "nca", "grid": [12, 12], "band": {"low": 0.5, "high": 1.0}, "patch": 2, "gone": None}
    new = {"family": "nca", "grid": [8, 8], "band": {"low": 0.5, "high": 0.9, "score": "gzip"}, "patch": 2.0}
    assert diff_specs(old, new) == [
        FieldChange("band.high", 1.0, 0.9),
        FieldChange("band.score", None, "gzip", added=True),
        FieldChange("gone", None, None, removed=True),
        FieldChange("grid", [12, 12], [8, 8]),
        FieldChange("patch", 2, 2.0),
    ]
    assert diff_specs(old, old) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["a", "b"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=6,
)
specs = st.dictionaries(st.sampled_from("abc"), json_values, max_size=3)


@settings(max_examples=100, deadline=None)
@example({"a": [False]}, {"a": [0]})
@given(specs, specs)
def test_a_diff_is_empty_for_equal_specs_only_and_reads_both_ways(old, new) -> None:
    forth, back = diff_specs(old, new), diff_specs(new, old)
    assert (not forth) == (repr(sorted_deep(old)) == repr(sorted_deep(new)))
    assert [(c.path, c.old, c.new, c.added) for c in forth] == [(c.path, c.new, c.old, c.removed) for c in back]


def sorted_deep(value):
    if isinstance(value, dict):
        return {name: sorted_deep(value[name]) for name in sorted(value)}
    return [sorted_deep(item) for item in value] if isinstance(value, list) else value


def test_diff_of_two_versions(lake_uri: str) -> None:
    params = Lake.open(lake_uri).params
    params.put("code", {"family": "nca", "patch": 2})
    params.put("code", {"family": "nca", "patch": 3})
    params.tag("code", "stable", 1)
    assert params.diff("code@stable", "code") == [FieldChange("patch", 2, 3)]
    with pytest.raises(NotFoundError):
        params.diff("code@1", "code@3")


def test_a_watcher_is_told_everything_in_order(lake_uri: str) -> None:
    writer = Lake.open(lake_uri)
    deeds = [
        lambda: writer.params.put("code", {"n": 1}, message="begin"),
        lambda: [writer.params.put("code", {"n": n}) for n in (2, 3)],
        lambda: None,
        lambda: [writer.params.tag("code", "stable", 2), writer.params.tag("code", "stable", 3)],
    ]
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        deeds.pop(0)()

    watcher = Lake(open_store(lake_uri), System(sleep=sleep))
    seen = list(islice(watcher.params.watch("code", interval=7.5), 5))
    assert [(change.what, change.version, change.alias, change.entry) for change in seen] == [
        ("version", 1, None, 1),
        ("version", 2, None, 2),
        ("version", 3, None, 3),
        ("alias", 2, "stable", 4),
        ("alias", 3, "stable", 5),
    ]
    assert seen[0].message == "begin"
    assert waits == [7.5] * 4
    late = watcher.params.watch("code", after=3, stop=lambda: False)
    assert [change.entry for change in islice(late, 2)] == [4, 5]
    assert list(watcher.params.watch("code", after=0, stop=lambda: True)) == []


class FrozenMachine(RuleBasedStateMachine):
    """Whatever is called, versions that exist keep their number, digest, spec, author, time and message."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.lake = Lake.open(self.folder.name)
        self.versions: list = []
        self.objects: dict[str, bytes] = {}

    @rule(n=st.integers(0, 3), force=st.booleans(), expect=st.none() | st.integers(0, 4), message=st.text(max_size=3))
    def put(self, n: int, force: bool, expect: int | None, message: str) -> None:
        try:
            stored = self.lake.params.put("code", {"n": n}, message, expect, force)
        except Conflict:
            assert expect != len(self.versions)
            return
        assert expect in (None, len(self.versions))
        if stored.version > len(self.versions):
            self.versions.append(stored)
        assert stored == self.versions[stored.version - 1]

    @rule(alias=st.sampled_from(["stable", "beta"]), version=st.integers(1, 5), expect=st.none() | st.integers(0, 4))
    def tag(self, alias: str, version: int, expect: int | None) -> None:
        try:
            self.lake.params.tag("code", alias, version, expect)
        except NotFoundError:
            assert version > len(self.versions)
        except Conflict:
            assert expect not in (None, self.lake.params.aliases("code").get(alias, 0))

    @rule()
    def spoil_what_was_returned(self) -> None:
        for version in self.lake.params.history("code") if self.versions else []:
            version.spec["n"] = "spoiled"
            version.spec["more"] = True

    @invariant()
    def nothing_that_was_has_changed(self) -> None:
        if not hasattr(self, "lake") or not self.versions:
            return
        assert list(Lake.open(self.folder.name).params.history("code")) == self.versions
        now = {key: self.lake.store.get(key) for key in self.lake.store.list()}
        assert self.objects.items() <= now.items()
        self.objects = now

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestFrozenMachine = FrozenMachine.TestCase
TestFrozenMachine.settings = settings(max_examples=12, stateful_step_count=12, deadline=None)
