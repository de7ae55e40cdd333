"""Verification names what is wrong; the probe tells a store that conforms from one that does not."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from datalake.errors import ProbeError
from datalake.lake import Lake
from datalake.maintenance.verify import verify_dataset
from datalake.shards.manifest import Manifest
from datalake.store.conformance import ProbeReport, read_conformance, record_conformance
from datalake.store.local import LocalStore
from datalake.store.open import open_store
from datalake.store.probe import probe_store
from tests.datalake.helpers import make_manifest


def test_a_sound_dataset(lake_uri: str) -> None:
    lake = Lake.open(lake_uri)
    seen: list[tuple[int, int]] = []
    report = verify_dataset(lake.store, make_manifest(lake), lambda done, total: seen.append((done, total)))
    assert (report.ok, report.checked, report.problems) == (True, 4, ())
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_every_bad_shard_is_named(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    manifest = make_manifest(lake)
    keys = [ref.key for ref in manifest.shards]
    for key, position in ((keys[0], 700), (keys[3], -1)):
        data = bytearray((tmp_path / key).read_bytes())
        data[position] ^= 0x10
        (tmp_path / key).write_bytes(data)
    (tmp_path / keys[2]).unlink()
    report = verify_dataset(lake.store, manifest)
    assert not report.ok
    assert [(p.key, p.problem.split(":")[0]) for p in report.problems] == [
        (keys[0], "corrupt"),
        (keys[2], "missing"),
        (keys[3], "corrupt"),
    ]


def test_a_manifest_with_the_wrong_content_digest(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    wrong = Manifest.model_validate({**make_manifest(lake).model_dump(), "content_digest": "0" * 64})
    (problem,) = verify_dataset(lake.store, wrong).problems
    assert problem.key == wrong.key
    assert "content digest" in problem.problem


def test_probe_of_a_good_store(lake_uri: str) -> None:
    store = open_store(lake_uri)
    report = probe_store(store, writers=4, keys=2)
    assert (report.ok, report.violations, report.writers, report.keys) == (True, (), 4, 2)
    assert list(store.list()) == []


class OverwritingStore(LocalStore):
    """A server that does not know ``If-None-Match``: every write succeeds."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.replace(key, data)
        return True


class HidingStore(LocalStore):
    """A server whose listings lag behind."""

    def list(self, prefix: str = "", start_after: str = "", limit: int | None = None):
        return iter(list(super().list(prefix, start_after, limit))[:-1])


@pytest.mark.parametrize(
    ("kind", "says"), [(OverwritingStore, "were told that they created it"), (HidingStore, "listing")]
)
def test_probe_finds_out_bad_stores(tmp_path: Path, kind: type[LocalStore], says: str) -> None:
    report = probe_store(kind(tmp_path), writers=4, keys=3)
    assert not report.ok
    assert any(says in violation for violation in report.violations)


class ForgetfulCacheStore(LocalStore):
    """A server whose cache remembers that an object was not there."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.absent: set[str] = set()

    def exists(self, key: str) -> bool:
        if key in self.absent:
            return False
        if not super().exists(key):
            self.absent.add(key)
        return key not in self.absent

    def list(self, prefix: str = "", start_after: str = "", limit: int | None = None):
        return (key for key in super().list(prefix, start_after, limit) if key not in self.absent)


def test_probe_finds_out_a_cache_that_remembers_absence(tmp_path: Path) -> None:
    report = probe_store(ForgetfulCacheStore(tmp_path), writers=4, keys=3)
    assert any("right after the write" in violation for violation in report.violations)


def test_a_failed_probe_refuses_writes_and_a_good_one_clears_it(lake_uri: str) -> None:
    lake = Lake.open(lake_uri)
    manifest = make_manifest(lake)
    version = lake.datasets.commit("seen-before", manifest)
    assert getattr(read_conformance(lake.store), "found_by", None) == ("first write" if "s3:" in lake_uri else None)
    bad = ProbeReport(lake_uri, 32, 50, ("probe/x/0001: 2 of 32 writers were told that they created it",), 1.0)
    record_conformance(lake.store, bad, lake.system)

    other = Lake.open(lake_uri)
    for write in (
        lambda: other.params.put("code", {"family": "nca"}),
        lambda: other.datasets.commit("again", manifest),
        lambda: other.runs.start("r", "train", {}, {}),
        lambda: other.store.replace("data/x", b"x"),
    ):
        with pytest.raises(ProbeError, match="2 of 32 writers were told"):
            write()
    assert other.datasets.get("seen-before") == version
    assert verify_dataset(other.store, manifest).ok

    record_conformance(other.store, probe_store(other.store, writers=4, keys=2), other.system)
    assert other.params.put("code", {"family": "nca"}).version == 1
    assert read_conformance(other.store).ok
    assert pickle.loads(pickle.dumps(other)).params.get("code@1").version == 1  # noqa: S301 - our own bytes
