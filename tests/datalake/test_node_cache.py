"""The node's cache: one fetch per shard for all processes, bounded, never wrong, and no reason for a job to fail."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from datalake.errors import LakePathError, StoreUnavailableError
from datalake.lake import Lake
from datalake.maintenance.damage_policy import Repairer
from datalake.reading import node_cache
from datalake.reading.node_cache import NodeCache, check_cache_settings, default_cache
from datalake.reading.reader import DatasetReader
from datalake.shards.manifest import Manifest, load_manifest
from datalake.shards.shards import ShardRef
from datalake.store.local import LocalStore
from datalake.store.open import open_store
from datalake.store.ranges import get_in_parts
from datalake.store.retry import RetryBudget
from datalake.store.s3 import S3Store
from orchestration.training.local import train_here
from tests.datalake.helpers import SEQ_LEN, make_manifest, make_tokens
from tests.other_user import as_nobody, on_a_tiny_disk, open_folder, without_call
from trainer import TrainConfig, TrainJob

ROW = 2 * SEQ_LEN
FILE = 32 * ROW + 32  # a full shard's rows and the trailer


class LoggingStore(LocalStore):
    """Notes every read of a shard in a file that all processes append to."""

    def get(self, key: str) -> bytes:
        if key.startswith("data/"):
            with (self.root / "reads").open("a") as file:
                file.write(f"{key}\n")
        return super().get(key)


def read_all(root: Path, cache: Path, digest: str, threads: int) -> None:
    """Several threads of one process, each reading everything in its own order through the node's cache."""
    store = LoggingStore(root)
    reader = DatasetReader(store, load_manifest(store, digest), node_cache=NodeCache(cache, 1 << 30))
    everything = make_tokens(7, 0, 100)
    orders = [np.random.default_rng([os.getpid(), thread]).permutation(100) for thread in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        for order, rows in zip(orders, pool.map(reader.rows, orders), strict=True):
            assert np.array_equal(rows, everything[order])


def committed(tmp_path: Path) -> Manifest:
    lake = Lake.open(str(tmp_path / "lake"))
    manifest = make_manifest(lake)
    lake.datasets.commit("d", manifest)
    return manifest


def check_each_shard_was_read_once(tmp_path: Path, manifest: Manifest) -> None:
    reads = (tmp_path / "lake" / "reads").read_text().split()
    assert sorted(reads) == sorted(ref.key for ref in manifest.shards)


def test_sixty_four_threads_fetch_each_shard_once(tmp_path: Path) -> None:
    manifest = committed(tmp_path)
    read_all(tmp_path / "lake", tmp_path / "cache", manifest.digest, threads=64)
    check_each_shard_was_read_once(tmp_path, manifest)


@pytest.mark.soak
def test_sixty_four_readers_of_eight_processes_fetch_each_shard_once(tmp_path: Path) -> None:
    manifest = committed(tmp_path)
    spawn = multiprocessing.get_context("spawn")
    arguments = (tmp_path / "lake", tmp_path / "cache", manifest.digest, 8)
    started = [spawn.Process(target=read_all, args=arguments) for _ in range(8)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 8
    check_each_shard_was_read_once(tmp_path, manifest)


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Lake, Manifest]:
    lake = Lake.open(str(tmp_path / "lake"))
    return lake, make_manifest(lake)


def reader_on(dataset: tuple[Lake, Manifest], folder: Path, max_bytes: int = 1 << 30) -> DatasetReader:
    return DatasetReader(dataset[0].store, dataset[1], node_cache=NodeCache(folder, max_bytes))


def test_rows_are_the_same_through_the_cache(dataset: tuple[Lake, Manifest], tmp_path: Path) -> None:
    everything = make_tokens(7, 0, 100)
    reader = reader_on(dataset, tmp_path / "cache")
    for seed in range(4):
        indices = np.random.default_rng(seed).integers(0, 100, 70)
        assert np.array_equal(reader.rows(indices), everything[indices])
        out = np.full((70, SEQ_LEN), -1, dtype=np.int64)
        assert reader.rows(indices, out) is out
        assert np.array_equal(out, everything[indices])
    for first, last in ((0, 100), (5, 6), (31, 33), (20, 97), (99, 100)):
        assert np.array_equal(reader.rows(np.arange(first, last)), everything[first:last])
    assert np.array_equal(reader.rows(np.array([3, 3, 2, 99])), everything[[3, 3, 2, 99]])
    assert reader.column("score", np.array([64, 2])).tolist() == [0.064, 0.002]
    with pytest.raises(ValueError, match="read-only"):
        reader._load_tokens(0)[0, 0] = 1
    warm = reader_on(dataset, tmp_path / "cache")
    for key in dataset[0].store.list("data/"):
        dataset[0].store.delete(key)
    assert np.array_equal(warm.rows(np.arange(100)), everything), "a warm cache needs no store"


def test_it_is_bounded_and_drops_the_longest_unused(dataset: tuple[Lake, Manifest], tmp_path: Path) -> None:
    everything = make_tokens(7, 0, 100)
    reader = reader_on(dataset, tmp_path / "cache", max_bytes=2 * FILE)
    mapped = [reader.rows(np.array([first])) for first in (0, 32)]
    kept = tmp_path / "cache" / f"{dataset[1].shards[0].sha256}.u16"
    os.utime(tmp_path / "cache" / f"{dataset[1].shards[1].sha256}.u16", (1, 1))
    assert np.array_equal(reader.rows(np.array([64])), everything[[64]])
    names = {path.name for path in (tmp_path / "cache").glob("*.u16")}
    assert names == {kept.name, f"{dataset[1].shards[2].sha256}.u16"}
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.u16")) == 2 * FILE
    assert np.array_equal(reader.rows(np.array([40])), everything[[40]]), "what is mapped stays readable"
    assert np.array_equal(mapped[1], everything[[32]])
    tiny = reader_on(dataset, tmp_path / "tiny", max_bytes=1)
    assert np.array_equal(tiny.rows(np.arange(100)), everything)


@pytest.mark.parametrize("spoil", ["flip", "cut", "magic", "other rows"])
def test_a_file_that_a_power_cut_left_is_checked_and_made_again(
    dataset: tuple[Lake, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    reader_on(dataset, tmp_path / "cache").rows(np.arange(100))
    path = tmp_path / "cache" / f"{dataset[1].shards[1].sha256}.u16"
    data = bytearray(path.read_bytes())
    if spoil == "flip":
        data[100] ^= 1
    elif spoil == "cut":
        del data[500:]
    else:
        data[-32 if spoil == "magic" else -20] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(node_cache, "this_boot", lambda: b"another boot....")
    assert np.array_equal(reader_on(dataset, tmp_path / "cache").rows(np.arange(100)), make_tokens(7, 0, 100))
    stamps = {file.read_bytes()[-16:] for file in (tmp_path / "cache").glob("*.u16")}
    assert stamps == {b"another boot...."}, "good files are stamped, bad ones written anew"


def read_through(dataset: tuple[Lake, Manifest], folder: Path, *, between: Callable[[], None] = lambda: None) -> Any:
    """Read everything twice, in two orders, with ``between`` after the first shard; (all rows right, failures told)."""
    told: list[str] = []
    cache = NodeCache(folder, 1 << 30, told.append)
    reader = DatasetReader(dataset[0].store, dataset[1], 2, node_cache=cache)
    everything = make_tokens(7, 0, 100)
    right = np.array_equal(reader.rows(np.array([3, 4])), everything[3:5])
    between()
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(100)
        right &= np.array_equal(reader.rows(order), everything[order])
    if not cache.fills:
        assert len(reader._tokens._values) <= reader._tokens.capacity == 2, "what is not mapped is not kept in memory"
    return right, told


def only_costs_speed(outcome: Any, reason: str) -> None:
    right, told = outcome
    assert right
    assert len(told) == 1, told
    assert reason in told[0]
    assert "MORPHOGEN_CACHE" in told[0]


def test_a_full_disk_costs_speed_only(dataset: tuple[Lake, Manifest], tmp_path: Path) -> None:
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    for size in (4096, 2 * 4096):  # pages: room for one shard, for two
        only_costs_speed(on_a_tiny_disk(tiny, size, lambda: read_through(dataset, tiny / "cache")), "speed only")


def test_a_folder_that_is_removed_while_a_job_runs_costs_speed_only(
    dataset: tuple[Lake, Manifest], tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    only_costs_speed(read_through(dataset, folder, between=lambda: shutil.rmtree(folder)), "No such file")
    assert read_through(dataset, folder) == (True, []), "the next process makes it again"
    locks, shard = folder / "locks", folder / f"{dataset[1].shards[2].sha256}.u16"
    shutil.rmtree(locks)
    locks.write_text("a file")
    only_costs_speed(read_through(dataset, folder), "exists")
    shutil.rmtree(folder)
    assert read_through(dataset, folder) == (True, [])
    shard.unlink()
    shard.mkdir()
    only_costs_speed(read_through(dataset, folder), "directory")


def test_folders_of_others_cost_speed_only(dataset: tuple[Lake, Manifest]) -> None:
    """As another user's, in four states: closed, to be read only, full of files to be read only, and not to be made."""
    with open_folder() as root:
        copy = Lake.open(str(root / "lake"))
        ours = copy, make_manifest(copy)
        assert dataset[1].digest == ours[1].digest
        folder = root / "cache"
        for mode in (0o000, 0o555):
            folder.mkdir()
            folder.chmod(mode)
            only_costs_speed(as_nobody(lambda: read_through(ours, folder)), "Permission denied")
            folder.chmod(0o755)
            folder.rmdir()
        root.chmod(0o555)
        only_costs_speed(as_nobody(lambda: read_through(ours, folder)), "Permission denied")
        root.chmod(0o755)
        assert read_through(ours, folder) == (True, [])
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        only_costs_speed(as_nobody(lambda: read_through(ours, folder)), "Permission denied")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


@pytest.mark.parametrize(
    ("call", "code"), [("flock", errno.ENOLCK), ("flock", errno.EOPNOTSUPP), ("mmap", errno.ENODEV)]
)
def test_a_file_system_without_locks_or_maps_costs_speed_only(
    dataset: tuple[Lake, Manifest], tmp_path: Path, call: Literal["flock", "mmap"], code: int
) -> None:
    outcome = without_call(call, code, lambda: read_through(dataset, tmp_path / "cache"))
    only_costs_speed(outcome, os.strerror(code))


def test_a_cache_goes_to_a_node_where_its_folder_cannot_be(dataset: tuple[Lake, Manifest], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    reader = reader_on(dataset, tmp_path / "file" / "cache")
    moved = pickle.loads(pickle.dumps(reader))  # noqa: S301 - our own bytes
    for one in (reader, moved):
        assert np.array_equal(one.rows(np.arange(100)), make_tokens(7, 0, 100))
    only_costs_speed(read_through(dataset, tmp_path / "file"), "Not a directory")


def test_a_job_says_once_that_it_reads_without_the_cache(
    s3_lake_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.open(s3_lake_uri)
    manifest = make_manifest(lake)
    (tmp_path / "file").write_text("")
    for folder, size in ((tmp_path / "file", "1"), (tmp_path, "20G")):
        monkeypatch.setenv("MORPHOGEN_CACHE", str(folder))
        monkeypatch.setenv("MORPHOGEN_CACHE_GB", size)
        events: list[dict[str, Any]] = []
        repairer = Repairer(log_event=events.append)
        for _ in range(2):  # as for two datasets
            assert np.array_equal(repairer.reader(lake.store, manifest).rows(np.arange(100)), make_tokens(7, 0, 100))
        (event,) = events
        assert event["event"] == "cache_off"
        assert "MORPHOGEN_CACHE" in event["reason"]
        with pytest.raises(LakePathError, match="MORPHOGEN_CACHE"):
            check_cache_settings(lake.store)


def test_a_training_refuses_settings_that_mean_nothing_before_it_begins(
    s3_lake_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.open(s3_lake_uri)
    lake.datasets.commit("d", make_manifest(lake))
    config = TrainConfig.model_validate(
        {"steps": 1, "batch_sequences": 1, "data": [{"dataset": "d@1"}], "model": {"depth": 1}}
    )
    for name, value in (("MORPHOGEN_CACHE", "/proc/none"), ("MORPHOGEN_CACHE_GB", "20G")):
        with monkeypatch.context() as environment:
            environment.delenv("MORPHOGEN_CACHE", raising=False)
            environment.setenv(name, value)
            with pytest.raises(LakePathError, match=f"{name} = '{value}'"):
                train_here(TrainJob(config, lake, "r"))
    assert lake.runs.list() == []


def test_parts_make_the_whole(s3_lake_uri: str) -> None:
    store = open_store(s3_lake_uri)
    for size in (1, 99, 100, 101, 1000, 1001):
        data = np.random.default_rng(size).bytes(size)
        store.put_if_absent(f"parts/{size}", data)
        assert get_in_parts(store, f"parts/{size}", size, part_bytes=100) == data
        assert get_in_parts(store, f"parts/{size}", max(1, size - 1), part_bytes=100) == data, "too long is noticed"
        assert get_in_parts(store, f"parts/{size}", size + 150, part_bytes=100) == data


def test_a_retry_budget_runs_dry_and_fills_again() -> None:
    budget = RetryBudget(capacity=2, earned=0.5)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    budget.succeeded()
    assert not budget.take()
    budget.succeeded()
    assert [budget.take(), budget.take()] == [True, False]


def test_a_fetch_that_fails_is_raised_and_tried_again(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, 1 << 20)
    ref = ShardRef(key="data/x", first=0, rows=1, bytes=1, sha256="0" * 64)

    def fail() -> np.ndarray:
        raise StoreUnavailableError("away")

    with pytest.raises(StoreUnavailableError):
        cache.rows(ref, 4, fail)
    assert cache.rows(ref, 4, lambda: np.ones((1, 4), dtype=np.uint16)).tolist() == [[1, 1, 1, 1]]
    assert cache.rows(ref, 4, fail).tolist() == [[1, 1, 1, 1]]


def test_the_default_cache_is_for_stores_on_the_network_and_where_the_node_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far, told = S3Store("s3://bucket/prefix"), []
    monkeypatch.setenv("MORPHOGEN_CACHE", "off")
    assert default_cache(far) is None
    monkeypatch.setenv("MORPHOGEN_CACHE", str(tmp_path / "named"))
    monkeypatch.setenv("MORPHOGEN_CACHE_GB", "0.5")
    found = default_cache(far)
    assert found is not None
    assert (found.folder, found.max_bytes) == (tmp_path / "named", 500_000_000)
    assert default_cache(LocalStore(tmp_path / "lake")) is None
    check_cache_settings(far)
    assert (tmp_path / "named").is_dir()
    for bad in ("much", "20G", "nan", "inf"):
        monkeypatch.setenv("MORPHOGEN_CACHE_GB", bad)
        with pytest.raises(LakePathError, match=f"MORPHOGEN_CACHE_GB = '{bad}'"):
            check_cache_settings(far)
        assert default_cache(far, told.append) is None
        assert bad in told.pop()

    monkeypatch.delenv("MORPHOGEN_CACHE_GB")
    (tmp_path / "file").touch()
    for nowhere in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        monkeypatch.setenv("MORPHOGEN_CACHE", str(nowhere))
        with pytest.raises(LakePathError, match=r"MORPHOGEN_CACHE = .* or set it to off"):
            check_cache_settings(far)
    monkeypatch.delenv("MORPHOGEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    check_cache_settings(far)  # nobody named a folder: without a home that can be written there is no cache
