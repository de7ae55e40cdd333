"""Exports: what other libraries read equals our rows, a killed export goes on to the same bytes."""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest

from datalake import Lake, Manifest
from datalake.errors import CorruptObjectError, ExportRefusedError, LakePathError
from datalake.maintenance import export, export_layouts
from datalake.maintenance.export import UNFINISHED, Format, export_dataset
from tests.datalake.helpers import SEQ_LEN, make_manifest, make_tokens

FORMATS = ("parquet", "huggingface", "jsonl", "bin", "llmc", "megatron")
ROWS = 100  # 4 shards of 32 and a short one


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
    path, cache = str(folder / "sequences.jsonl"), str(folder.parent / "hf-cache")
    return np.array(datasets.load_dataset("json", data_files=path, split="train", cache_dir=cache)["tokens"][:])


def read_bin(folder: Path) -> np.ndarray:
    return np.memmap(folder / "tokens.bin", dtype=np.uint16, mode="r")


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


def read_megatron(folder: Path, code: int = 8, kind: str = "<u2") -> np.ndarray:
    """As Megatron's IndexedDataset goes about it."""
    data = (folder / "tokens.idx").read_bytes()
    assert data[:9] == b"MMIDIDX\x00\x00"
    version, found, sequences, documents = struct.unpack_from("<QBQQ", data, 9)
    assert (version, found, documents) == (1, code, sequences + 1)
    at = 9 + struct.calcsize("<QBQQ")
    lengths = np.frombuffer(data, np.int32, sequences, at)
    pointers = np.frombuffer(data, np.int64, sequences, at + lengths.nbytes)
    bounds = np.frombuffer(data, np.int64, documents, at + lengths.nbytes + pointers.nbytes)
    assert len(data) == at + lengths.nbytes + pointers.nbytes + bounds.nbytes
    assert bounds.tolist() == list(range(sequences + 1))
    tokens = (folder / "tokens.bin").read_bytes()
    return np.stack([np.frombuffer(tokens, kind, n, at) for n, at in zip(lengths, pointers, strict=True)])


READERS: dict[str, Any] = {
    "parquet": read_parquet,
    "huggingface": read_huggingface,
    "jsonl": read_jsonl,
    "bin": read_bin,
    "llmc": read_llmc,
    "megatron": read_megatron,
}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Killed(BaseException):
    """Ends an export as nothing it catches could."""


@pytest.mark.parametrize("format", FORMATS)
def test_rows_are_ours_and_a_killed_export_goes_on_to_the_same_bytes(
    lake: Lake, manifest: Manifest, tmp_path: Path, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "llmc_files", partial(export_layouts.llmc_files, most=64 * SEQ_LEN))
    export_dataset(lake.store, manifest, tmp_path / "whole", format, beside={"README.md": b"card"})
    found = READERS[format](tmp_path / "whole")
    assert np.array_equal(found.reshape(-1, SEQ_LEN), make_tokens(7, 0, ROWS))

    def kill(done: int, _all: int) -> None:
        if done == 3:
            raise Killed

    killed = tmp_path / "killed"
    with pytest.raises(Killed):
        export_dataset(lake.store, manifest, killed, format, kill, beside={"README.md": b"card"})
    assert (killed / UNFINISHED).exists()
    before = {path.name: path.stat().st_mtime_ns for path in killed.iterdir() if path.suffix in (".parquet", ".bin")}
    if format in ("bin", "megatron"):  # killed in the middle of a write
        with (killed / "tokens.bin.part").open("ab") as file:
            file.write(b"\x01\x02\x03")
    steps: list[int] = []
    export_dataset(
        lake.store, manifest, killed, format, lambda done, _all: steps.append(done), beside={"README.md": b"card"}
    )
    assert files_of(killed) == files_of(tmp_path / "whole")
    assert {name: (killed / name).stat().st_mtime_ns for name in before} == before  # whole files stay
    assert steps[0] == {"jsonl": 1, "bin": 4, "megatron": 4}.get(format, 3), "what was finished is not written again"
    with pytest.raises(LakePathError, match="is not empty"):
        export_dataset(lake.store, manifest, killed, format)


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
        with pytest.raises(LakePathError, match="unfinished export of other data or in another format"):
            export_dataset(lake.store, other, begun, format)
    (begun / UNFINISHED).write_bytes(b"\xff")
    with pytest.raises(LakePathError, match="unfinished export of other data"):
        export_dataset(lake.store, manifest, begun, "bin")


def test_tokens_that_another_hand_has_written_are_not_passed_on(lake: Lake, manifest: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "out"

    def kill(done: int, _all: int) -> None:
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        export_dataset(lake.store, manifest, folder, "bin", kill)
    with (folder / "tokens.bin.part").open("r+b") as file:
        file.write(b"\x01\x02\x03")
    with pytest.raises(CorruptObjectError, match="export again"):
        export_dataset(lake.store, manifest, folder, "bin")
    export_dataset(lake.store, manifest, folder, "bin")
    assert np.array_equal(read_bin(folder).reshape(-1, SEQ_LEN), make_tokens(7, 0, ROWS))


def test_a_vocabulary_too_large_for_a_format_is_refused_before_any_work(
    lake: Lake, manifest: Manifest, tmp_path: Path
) -> None:
    large = manifest.model_copy(update={"vocab_size": 65_537})
    with pytest.raises(ExportRefusedError, match=r"vocabulary has 65,537, more than 65,536; export as bin"):
        export_dataset(lake.store, large, tmp_path / "out", "llmc")
    huge = manifest.model_copy(update={"seq_len": 1 << 27})
    with pytest.raises(ExportRefusedError, match="more than 2,147,483,647 tokens"):
        export_dataset(lake.store, huge, tmp_path / "out", "llmc")
    unknown: Any = "pickle"
    with pytest.raises(ExportRefusedError, match="allowed are parquet, huggingface"):
        export_dataset(lake.store, manifest, tmp_path / "out", unknown)
    assert not (tmp_path / "out").exists()


def test_files_of_llmc_are_as_full_as_their_header_can_count() -> None:
    assert export_layouts.llmc_files([5, 5, 5, 5], most=10) == [range(2), range(2, 4)]
    assert export_layouts.llmc_files([15, 1, 9, 2], most=10) == [range(1), range(1, 3), range(3, 4)]
    assert export_layouts.llmc_files([3], most=1) == [range(1)]


def test_an_index_for_wide_tokens(tmp_path: Path) -> None:
    tokens = np.arange(12, dtype="<u4").reshape(3, 4) + 100_000
    (tmp_path / "tokens.bin").write_bytes(tokens.tobytes())
    (tmp_path / "tokens.idx").write_bytes(b"".join(export_layouts.megatron_index(3, 4, tokens.dtype)))
    assert np.array_equal(read_megatron(tmp_path, 4, "<i4"), tokens)
