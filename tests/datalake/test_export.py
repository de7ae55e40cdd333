"""Exports: what other libraries read equals our rows, a killed export goes on to the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import litdata
import numpy as np
import pyarrow.parquet as pq
import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset

from datalake import Lake, Manifest, open_store
from datalake.errors import ExportRefusedError, LakePathError
from datalake.maintenance import export_layouts
from datalake.maintenance.export import UNFINISHED, export_dataset
from datalake.maintenance.export_formats import plan_files, shard_groups
from datalake.maintenance.export_targets import ExportTarget, FolderTarget, S3Target, open_target
from tests.datalake.helpers import SEQ_LEN, make_manifest, make_tokens

FORMATS = ("parquet", "huggingface", "jsonl", "bin", "llmc", "megatron", "litdata")
ROWS = 100  # 3 shards of 32 and a short one
TWO_SHARDS = 64 * SEQ_LEN


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


@pytest.fixture
def manifest(lake: Lake) -> Manifest:
    return make_manifest(lake, ROWS)


def read_parquet(folder: Path) -> np.ndarray:
    files = sorted(folder.glob("*.parquet"))
    return np.concatenate([np.frombuffer(b"".join(pq.read_table(f)["tokens"].to_pylist()), "<u2") for f in files])


def read_huggingface(folder: Path) -> np.ndarray:
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(folder.parent / "hf-cache"))
    assert set(rows.column_names) == {"sequence_id", "attempt", "score", "input_ids"}
    return np.array(rows["input_ids"][:])


def read_jsonl(folder: Path) -> np.ndarray:
    paths, cache = sorted(map(str, folder.glob("*.jsonl"))), str(folder.parent / "hf-cache")
    return np.array(datasets.load_dataset("json", data_files=paths, split="train", cache_dir=cache)["tokens"][:])


def read_bin(folder: Path) -> np.ndarray:
    return np.concatenate([np.memmap(path, dtype=np.uint16, mode="r") for path in sorted(folder.glob("*.bin"))])


def read_llmc(folder: Path) -> np.ndarray:
    """As the loaders of llm.c and modded-nanogpt go about it."""
    parts = []
    for path in sorted(folder.glob("tokens_*.bin")):
        header = np.fromfile(path, dtype=np.int32, count=256)
        assert (header[0], header[1]) == (20240520, 1)
        tokens = np.fromfile(path, dtype=np.uint16, offset=1024)
        assert len(tokens) == header[2]
        parts.append(tokens)
    return np.concatenate(parts)


def read_megatron(folder: Path) -> np.ndarray:
    parts = [IndexedDataset(str(path.with_suffix(""))) for path in sorted(folder.glob("*.idx"))]
    assert all(part.document_indices.tolist() == list(range(len(part) + 1)) for part in parts)
    return np.stack([part[row] for part in parts for row in range(len(part))])


def read_litdata(folder: Path) -> np.ndarray:
    rows = litdata.StreamingDataset(str(folder), item_loader=litdata.TokensLoader(SEQ_LEN))
    return np.stack([rows[row] for row in range(len(rows))])


READERS: dict[str, Any] = {
    "parquet": read_parquet,
    "huggingface": read_huggingface,
    "jsonl": read_jsonl,
    "bin": read_bin,
    "llmc": read_llmc,
    "megatron": read_megatron,
    "litdata": read_litdata,
}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def objects_of(target: ExportTarget) -> dict[str, bytes]:
    return {name: target.read(name) for name in target.found()}


class Killed(BaseException):
    """Ends an export as nothing it catches could."""


@pytest.mark.parametrize("format", FORMATS)
def test_rows_are_ours_and_a_killed_export_goes_on_to_the_same_bytes(
    lake: Lake, manifest: Manifest, tmp_path: Path, format: str
) -> None:
    size = None if format == "parquet" else TWO_SHARDS
    export_dataset(lake.store, manifest, tmp_path / "one", format, beside={"README.md": b"card"})
    assert np.array_equal(READERS[format](tmp_path / "one").reshape(-1, SEQ_LEN), make_tokens(7, 0, ROWS))
    whole = tmp_path / "whole"
    report = export_dataset(lake.store, manifest, whole, format, beside={"README.md": b"card"}, file_tokens=size)
    assert np.array_equal(READERS[format](whole).reshape(-1, SEQ_LEN), make_tokens(7, 0, ROWS))
    assert set(report.files) | {"README.md"} == set(files_of(whole))
    assert report.bytes == sum(len(data) for name, data in files_of(whole).items() if name != "README.md")

    def kill(done: int, _all: int) -> None:
        if done >= 2:
            raise Killed

    killed = tmp_path / "killed"
    with pytest.raises(Killed):
        export_dataset(lake.store, manifest, killed, format, kill, beside={"README.md": b"card"}, file_tokens=size)
    assert (killed / UNFINISHED).exists()
    before = {path.name: path.stat().st_mtime_ns for path in killed.iterdir() if path.name != UNFINISHED}
    assert before
    (killed / ".tokens.bin.0123.part").write_bytes(b"what a write that was killed leaves")
    steps: list[int] = []
    export_dataset(
        lake.store,
        manifest,
        killed,
        format,
        lambda done, _all: steps.append(done),
        beside={"README.md": b"card"},
        file_tokens=size,
    )
    assert files_of(killed) == files_of(whole)
    assert {name: (killed / name).stat().st_mtime_ns for name in before} == before, "whole files stay"
    assert steps[0] > 2 or format == "megatron", "what was finished is not written again"
    with pytest.raises(LakePathError, match="is not empty"):
        export_dataset(lake.store, manifest, killed, format)


KILLED_PROCESS = """
import os, signal, sys
from datalake import Lake
from datalake.maintenance.export import export_dataset
from datalake.maintenance.export_targets import open_target
from datalake.shards.manifest import load_manifest

lake, digest, target, size = sys.argv[1:]
store = Lake.open(lake).store
export_dataset(store, load_manifest(store, digest), open_target(target), "litdata",
               lambda *_: os.kill(os.getpid(), signal.SIGKILL), file_tokens=int(size))
"""


def test_an_export_to_a_bucket_has_the_same_bytes_also_after_a_kill(
    lake: Lake, manifest: Manifest, tmp_path: Path, s3_lake_uri: str
) -> None:
    lake.datasets.commit("d", manifest)
    about = {"README.md": b"card"}
    export_dataset(lake.store, manifest, tmp_path / "out", "litdata", beside=about, file_tokens=TWO_SHARDS)
    arguments = (lake.uri, manifest.digest, s3_lake_uri, str(TWO_SHARDS))
    assert subprocess.run([sys.executable, "-c", KILLED_PROCESS, *arguments], timeout=280).returncode == -9
    target = open_target(s3_lake_uri)
    assert isinstance(target, S3Target)
    assert set(target.found()) == {UNFINISHED, "chunk-0-0.bin"}
    for other, kind in ((manifest, "jsonl"), (make_manifest(lake, 64), "litdata")):
        with pytest.raises(LakePathError, match="unfinished export of other data"):
            export_dataset(lake.store, other, target, kind, file_tokens=TWO_SHARDS)
    steps: list[int] = []
    report = export_dataset(
        lake.store,
        manifest,
        target,
        "litdata",
        lambda done, _all: steps.append(done),
        beside=about,
        file_tokens=TWO_SHARDS,
    )
    assert objects_of(target) == files_of(tmp_path / "out")
    assert steps[0] == 4, "what was finished is not written again"
    assert report.bytes == sum(size for name, size in target.found().items() if name != "README.md")
    with pytest.raises(LakePathError, match=f"{s3_lake_uri} is not empty"):
        export_dataset(lake.store, manifest, target, "litdata")


def test_a_bucket_that_holds_something_else_is_refused_and_left_alone(
    lake: Lake, manifest: Manifest, s3_lake_uri: str
) -> None:
    client = open_store(s3_lake_uri)._client()  # a name that no object of a lake has
    bucket, prefix = s3_lake_uri.removeprefix("s3://").split("/")
    client.put_object(Bucket=bucket, Key=f"{prefix}/ my notes!", Body=b"mine")
    target = open_target(s3_lake_uri)
    with pytest.raises(LakePathError, match=r"is not empty \(it has  my notes!\)"):
        export_dataset(lake.store, manifest, target, "bin")
    assert set(target.found()) == {" my notes!"}
    # What somebody else put there meanwhile is not passed off as ours.
    inner = open_target(f"{s3_lake_uri}/inner")
    client.put_object(Bucket=bucket, Key=f"{prefix}/inner/tokens.bin", Body=b"theirs")
    with pytest.raises(ExportRefusedError, match="holds other bytes"), inner.writing("tokens.bin") as file:
        file.write(b"ours")
    with inner.writing("tokens.bin") as file:
        file.write(b"theirs")


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(
    lake: Lake, manifest: Manifest, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "notes").write_text("mine")
    with pytest.raises(LakePathError, match="has notes"):
        export_dataset(lake.store, manifest, folder, "bin")
    assert files_of(folder) == {"notes": b"mine"}
    with pytest.raises(LakePathError, match="give a folder"):
        export_dataset(lake.store, manifest, folder / "notes", "bin")

    def kill(_done: int, _all: int) -> None:
        raise Killed

    begun = tmp_path / "begun"
    with pytest.raises(Killed):
        export_dataset(lake.store, manifest, begun, "bin", kill)
    for other, format in ((manifest, "jsonl"), (make_manifest(lake, 64), "bin")):
        with pytest.raises(LakePathError, match="unfinished export of other data, in another format"):
            export_dataset(lake.store, other, begun, format)
    with pytest.raises(LakePathError, match="or of other files"):
        export_dataset(lake.store, manifest, begun, "bin", file_tokens=TWO_SHARDS)
    (begun / UNFINISHED).write_bytes(b"\xff")
    with pytest.raises(LakePathError, match="unfinished export of other data"):
        export_dataset(lake.store, manifest, begun, "bin")


def test_a_vocabulary_too_large_for_a_format_is_refused_before_any_work(
    lake: Lake, manifest: Manifest, tmp_path: Path
) -> None:
    large = manifest.model_copy(update={"vocab_size": 65_537})
    with pytest.raises(ExportRefusedError, match=r"vocabulary has 65,537, more than 65,536; export as bin"):
        export_dataset(lake.store, large, tmp_path / "out", "llmc")
    huge = manifest.model_copy(update={"seq_len": 1 << 27})
    with pytest.raises(ExportRefusedError, match="a file would have 4,294,967,296 tokens, and may have 2,147,483,136"):
        export_dataset(lake.store, huge, tmp_path / "out", "llmc")
    unknown: Any = "pickle"
    with pytest.raises(ExportRefusedError, match="allowed are parquet, huggingface"):
        export_dataset(lake.store, manifest, tmp_path / "out", unknown)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("format", "size", "says"),
    [
        ("parquet", 100, "files of format parquet are the shards"),
        ("bin", 0, "file_tokens = 0: allowed is 1 or more"),
        ("litdata", 1 << 34, r"would have 17,179,869,184 tokens, and may have 2,1\d\d,\d{3},\d{3}; give a smaller"),
        ("jsonl", 1 << 34, "and may have 390,4"),
        ("bin", 1 << 34, "and may have 2,147,483,136;"),
    ],
)
def test_a_size_of_files_that_cannot_be_is_refused_before_any_work(
    lake: Lake, manifest: Manifest, tmp_path: Path, format: str, size: int, says: str
) -> None:
    many = manifest.model_copy(update={"seq_len": 1 << 29})
    with pytest.raises(ExportRefusedError, match=says):
        export_dataset(lake.store, many, tmp_path / "out", format, file_tokens=size)
    assert not (tmp_path / "out").exists()


def test_files_are_as_full_as_they_may_be() -> None:
    assert shard_groups([5, 5, 5, 5], most=10) == [range(2), range(2, 4)]
    assert shard_groups([15, 1, 9, 2], most=10) == [range(1), range(1, 3), range(3, 4)]
    assert shard_groups([3], most=1) == [range(1)]


def test_names_sort_as_the_rows_do_however_many_files_there_are(manifest: Manifest) -> None:
    shards = manifest.shards
    many = manifest.model_construct(**{**manifest.__dict__, "shards": (*shards, *shards[:1] * 100_000)})
    for format in ("parquet", "jsonl"):
        names = [file.name for file in plan_files(many, format, None if format == "parquet" else 1)]
        assert len(names) == 100_000 + len(shards)
        assert sorted(names) == names


def test_wide_tokens_are_read_back(tmp_path: Path) -> None:
    tokens = np.arange(3 * SEQ_LEN, dtype="<u4").reshape(3, SEQ_LEN) + 100_000
    (tmp_path / "tokens.bin").write_bytes(tokens.tobytes())
    (tmp_path / "tokens.idx").write_bytes(b"".join(export_layouts.megatron_index(3, SEQ_LEN, tokens.dtype)))
    assert np.array_equal(read_megatron(tmp_path), tokens)
    chunks = tmp_path / "chunks"
    chunks.mkdir()
    (chunks / "chunk-0-0.bin").write_bytes(export_layouts.litdata_head(3, 4 * SEQ_LEN) + tokens.tobytes())
    (chunks / "index.json").write_bytes(export_layouts.litdata_index({"chunk-0-0.bin": 3}, SEQ_LEN, tokens.dtype, "x"))
    assert np.array_equal(read_litdata(chunks), tokens)
    assert json.loads((chunks / "index.json").read_text())["config"]["data_format"] == ["no_header_numpy:2"]


def test_a_file_that_another_machine_wrote_to_its_own_disk_is_missed(
    lake: Lake, manifest: Manifest, tmp_path: Path
) -> None:
    def elsewhere(_function: Any, items: Any) -> Any:
        return iter(items)

    with pytest.raises(
        LakePathError, match=r"has no tokens.bin, though it was written: .* all machines of the job share"
    ):
        export_dataset(lake.store, manifest, FolderTarget(tmp_path / "out"), "bin", mapper=elsewhere)
    assert (tmp_path / "out" / UNFINISHED).exists()
