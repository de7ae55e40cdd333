"""The store's contract, the same on local disk and on S3."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import pytest

from datalake.errors import InvalidNameError, LakePathError, NotFoundError
from datalake.store.interface import ensure
from datalake.store.open import open_store


def test_first_put_wins_and_bytes_stay(lake_uri: str) -> None:
    store = open_store(lake_uri)
    assert store.put_if_absent("a/b.json", b"one") is True
    assert store.put_if_absent("a/b.json", b"two") is False
    assert store.get("a/b.json") == b"one"
    assert ensure(store, "a/b.json", b"one")
    assert not ensure(store, "a/b.json", b"two")


def test_reads(lake_uri: str) -> None:
    store = open_store(lake_uri)
    store.put_if_absent("x/blob", bytes(range(100)))
    store.put_if_absent("x/empty", b"")
    assert store.get_range("x/blob", 10, 5) == bytes(range(10, 15))
    assert store.get_range("x/blob", 95, 50) == bytes(range(95, 100))
    assert store.get_range("x/blob", 200, 5) == b""
    assert store.size("x/blob") == 100
    assert store.get("x/empty") == b""
    assert store.exists("x/blob")
    assert not store.exists("x/other")
    for read in (store.get, store.size, lambda key: store.get_range(key, 0, 1)):
        with pytest.raises(NotFoundError, match="x/other"):
            read("x/other")


def test_listing_is_sorted_by_whole_key(lake_uri: str) -> None:
    store = open_store(lake_uri)
    keys = ["l-x/1", "l.y/2", "l/1", "l/2", "l/sub/3", "m"]
    for key in reversed(keys):
        store.put_if_absent(key, b"")
    made = sorted([*keys, *store.list("probe/")])  # on S3 the first write notes what it found out about the store
    assert list(store.list()) == made
    assert list(store.list("l/")) == ["l/1", "l/2", "l/sub/3"]
    assert list(store.list("l")) == sorted(keys)[:-1]
    assert list(store.list("l/", start_after="l/1")) == ["l/2", "l/sub/3"]
    assert list(store.list("nothing/")) == []
    assert [name for name in store.children() if name != "probe"] == ["l", "l-x", "l.y"]
    assert list(store.children("l/")) == ["sub"]
    assert list(store.children("nothing/")) == []


def test_replace_and_delete(lake_uri: str) -> None:
    store = open_store(lake_uri)
    store.replace("k", b"1")
    store.replace("k", b"22")
    assert store.get("k") == b"22"
    store.delete("k")
    store.delete("k")
    assert not store.exists("k")
    assert store.put_if_absent("k", b"3")


def test_a_pickled_store_is_the_same_store_without_secrets(lake_uri: str) -> None:
    store = open_store(lake_uri)
    store.put_if_absent("k", b"v")
    data = pickle.dumps(store)
    assert pickle.loads(data).get("k") == b"v"  # noqa: S301 - our own bytes
    secret = os.environ.get("AWS_SECRET_ACCESS_KEY", "")
    assert not secret or (secret.encode() not in data and secret not in repr(store))


def test_threads_race_one_winner_per_key(lake_uri: str) -> None:
    store = open_store(lake_uri)
    for key in ("race/0", "race/1"):
        barrier = threading.Barrier(6)
        won: list[bytes] = []

        def put(body: bytes, key: str = key, barrier: threading.Barrier = barrier, won: list[bytes] = won) -> None:
            barrier.wait()
            if store.put_if_absent(key, body):
                won.append(body)

        threads = [threading.Thread(target=put, args=(f"writer {i}".encode(),)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [store.get(key)]


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", ".tmp/x", "a\nb", "a\0b", "a b", "ü", "x" * 701, "a\\b"]
)
def test_bad_keys_are_refused(tmp_path: Path, key: str) -> None:
    store = open_store(str(tmp_path))
    for call in (store.get, store.exists, store.size, store.delete, lambda k: store.put_if_absent(k, b"")):
        with pytest.raises(InvalidNameError):
            call(key)
    assert list(tmp_path.iterdir()) == []


def test_arrow_filesystem_sees_the_same_objects(lake_uri: str) -> None:
    store = open_store(lake_uri)
    store.put_if_absent("a/b", b"hello")
    filesystem, base = store.arrow_filesystem()
    with filesystem.open_input_file(f"{base}/a/b") as file:
        assert file.read() == b"hello"


def test_opening_a_folder_creates_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "new" / "lake"))
    assert list(store.list()) == []
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_are_gone_and_never_listed(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    (tmp_path / ".tmp").mkdir()
    (tmp_path / ".tmp" / "left-by-a-killed-writer").write_bytes(b"half")
    store.put_if_absent("a", b"1")
    store.put_if_absent("a", b"2")
    assert list(store.list()) == ["a"]
    assert os.listdir(tmp_path / ".tmp") == ["left-by-a-killed-writer"]


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(LakePathError, match="is a file"):
            open_store(str(path))


@pytest.mark.parametrize(
    "uri", ["", "gs://bucket/x", "http://host/x", "s3://", "s3:///prefix", "s3://key:secret@host/x"]
)
def test_addresses_that_are_none(uri: str) -> None:
    with pytest.raises(LakePathError) as caught:
        open_store(uri)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
