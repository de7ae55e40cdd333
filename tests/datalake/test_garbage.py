"""Garbage collection: all garbage goes, nothing that is named or young does, and a lake half-read is not swept."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from datalake.clock import System
from datalake.errors import CorruptObjectError, GraceError
from datalake.lake import Lake
from datalake.maintenance.garbage import find_garbage, sweep
from datalake.maintenance.verify import verify_dataset
from datalake.shards.shards import write_shard
from datalake.store.open import open_store
from tests.datalake.helpers import make_dataset, make_manifest, make_source, make_table

DAY = timedelta(days=1)


def lake_in(uri: str, days: float) -> Lake:
    """The lake as it will be found ``days`` from now."""
    return Lake(open_store(uri), System(clock=lambda: datetime.now(UTC) + days * DAY))


def fill(lake: Lake) -> list[str]:
    """Live objects of every kind, and garbage of every kind: returns the garbage's keys."""
    lake.params.put("code", {"family": "nca"})
    lake.params.put("code", {"family": "nca", "patch": 3})
    make_dataset(lake, "d", sequences=100)
    make_dataset(lake, "d", sequences=150)  # the short tail of version 1 stays: version 1 is there for good
    run = lake.runs.start("r", "train", {}, {"datasets": ["d@1"]})
    run.add_checkpoint(1, {"model": b"m1"}, metrics=b"{}\n")
    run.add_checkpoint(2, {"model": b"m2"})
    lake.models.publish("m", {"model.safetensors": b"weights"}, run="r", datasets=["d@2"])

    orphan = write_shard(lake.store, make_source(seed=99), make_table(99, 0, 32), 0).key
    uncommitted = make_manifest(lake, sequences=64, seed=8)
    others = [
        "manifests/" + "0" * 64 + ".json",
        "specs/" + "1" * 64 + ".json",
        "checkpoints/dead/00000001-x/model",
        "model-files/m/" + "2" * 64 + "/model.safetensors",
        "quarantine/abc/data/x.parquet",
        "probe/old/0001",
    ]
    for key in others:
        lake.store.put_if_absent(key, b"garbage")
    return sorted([orphan, *(ref.key for ref in uncommitted.shards), *others])


def test_all_garbage_goes_and_nothing_else(lake_uri: str) -> None:
    now = Lake.open(lake_uri)
    garbage = fill(now)
    before = {key: now.store.get(key) for key in now.store.list()}
    young = find_garbage(now)
    assert (young.objects, young.young) == ((), len(garbage))

    later = lake_in(lake_uri, 8)
    found = find_garbage(later)
    assert [info.key for info in found.objects] == garbage
    assert found.bytes == sum(len(before[key]) for key in garbage)
    assert list(now.store.list()) == sorted(before), "finding removes nothing"

    assert len(sweep(later, found)) == len(garbage)
    assert {key: now.store.get(key) for key in now.store.list()} == {
        key: data for key, data in before.items() if key not in garbage
    }
    assert verify_dataset(now.store, now.datasets.manifest("d@1")).ok
    assert verify_dataset(now.store, now.datasets.manifest("d@2")).ok
    assert now.models.open_file("m@1", "model.safetensors") == b"weights"
    assert now.runs.get("r").latest_valid_checkpoint()[0].step == 2


def test_what_lies_beside_something_young_stays(tmp_path: Path) -> None:
    """A job that resumes finds the shards of its first attempt and is about to name them."""
    lake = Lake.open(str(tmp_path))
    source = make_source()
    for first in (0, 32, 64):
        write_shard(lake.store, source, make_table(7, first, 32), first)
    month_ago = (datetime.now(UTC) - 30 * DAY).timestamp()
    keys = list(lake.store.list("data/"))
    for key in keys[:2]:
        os.utime(tmp_path / key, (month_ago, month_ago))
    assert (find_garbage(lake).objects, find_garbage(lake).young) == ((), 3)
    os.utime(tmp_path / keys[2], (month_ago, month_ago))
    assert [info.key for info in find_garbage(lake).objects] == keys


def test_what_is_named_meanwhile_is_spared(tmp_path: Path) -> None:
    lake = lake_in(str(tmp_path), 30)
    manifest = make_manifest(lake)
    found = find_garbage(lake)
    assert len(found.objects) == len(manifest.shards)
    lake.datasets.commit("d", manifest)
    assert not sweep(lake, found)
    assert verify_dataset(lake.store, manifest).ok


def test_leftovers_of_dead_writers(tmp_path: Path) -> None:
    lake = lake_in(str(tmp_path), 0)
    make_dataset(lake, "d")
    (tmp_path / ".tmp" / "dead").write_bytes(b"half")
    assert find_garbage(lake).leftovers == ()
    found = find_garbage(lake_in(str(tmp_path), 8))
    assert [(info.key, info.size) for info in found.leftovers] == [("dead", 4)]
    assert len(sweep(lake, found)) == 1
    assert list((tmp_path / ".tmp").iterdir()) == []


def test_a_lake_that_cannot_be_read_is_not_swept(tmp_path: Path) -> None:
    lake = lake_in(str(tmp_path), 30)
    make_dataset(lake, "d")
    make_manifest(lake, seed=8)
    (tmp_path / "datasets" / "d" / "00000001.json").write_text("{")
    with pytest.raises(CorruptObjectError, match="datasets/d"):
        find_garbage(lake)
    with pytest.raises(GraceError, match="give 1:00:00 or more"):
        find_garbage(lake, timedelta(minutes=5))
