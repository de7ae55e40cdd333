"""A dataset version as plain files for other programs: in our format or in that of their own readers.

What a killed export had finished is kept: the same export into the same folder goes on, to the same files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datalake.errors import CorruptObjectError, ExportRefusedError, LakePathError
from datalake.maintenance.export_layouts import (
    LLMC_MOST_TOKENS,
    MOST_LLMC_VOCABULARY,
    llmc_files,
    llmc_header,
    megatron_index,
)
from datalake.reading.tables import all_tables, layout_of
from datalake.shards.computed import RowGenerator
from datalake.shards.content import digest_like
from datalake.shards.manifest import Manifest, Progress
from datalake.shards.shard_format import encode_shard, token_bytes, tokens_of
from datalake.shards.shards import fetch_shard
from datalake.store.interface import Store

Format = Literal["parquet", "huggingface", "jsonl", "bin", "llmc", "megatron"]

UNFINISHED = ".unfinished-export.json"
"""Says of a folder which export is being written to it; goes when that is whole."""

_HASH_BYTES = 1 << 24


@dataclass(frozen=True)
class ExportReport:
    """The files written, in order, and their sizes together in bytes."""

    files: tuple[Path, ...]
    bytes: int


def export_dataset(
    store: Store,
    manifest: Manifest,
    folder: Path,
    format: Format,
    progress: Progress | None = None,
    *,
    generator: RowGenerator | None = None,
    beside: Mapping[str, bytes] | None = None,
) -> ExportReport:
    """Write a dataset into ``folder``: new, empty, or where the same export was interrupted. Every shard is verified on
    the way; those of a computed dataset come from ``generator``.

    ``parquet``: the shards as they are, ``00000.parquet`` …; ``huggingface``: a Parquet file for each shard with a list
    column ``input_ids`` (int32) and the others, as ``datasets.load_dataset`` takes a folder; ``jsonl``:
    ``sequences.jsonl``, one row a line, tokens as a list; ``bin``: ``tokens.bin``, all tokens in sequence order as
    little-endian uint16 (uint32 where the manifest's ``token_dtype`` is) without a header, which is what
    ``numpy.memmap(path, dtype="<u2")`` and nanoGPT-style trainers take; ``llmc``: such files behind a header of 256
    int32 (``llmc_header``), as llm.c and modded-nanogpt read them; ``megatron``: ``tokens.bin`` and the index
    ``tokens.idx`` of Megatron's indexed datasets, each sequence a document.

    ``manifest.json`` and the files ``beside`` (name to bytes) lie beside them. Files appear under their names when they
    are whole. Raises ExportRefusedError, LakePathError, MissingShardError or CorruptShardError.
    """
    check_format(manifest, format)
    _begin(folder, {"manifest": manifest.digest, "format": format})
    rows = _Rows(store, manifest, generator, progress or (lambda _done, _all: None))
    files = _WRITERS[format](rows, folder)
    about = {
        "manifest.json": json.dumps(json.loads(manifest.canonical), indent=2).encode() + b"\n",
        **(beside or {}),
    }
    for name, data in about.items():
        with _finished(folder / name) as file:
            file.write(data)
    files.append(folder / "manifest.json")
    (folder / UNFINISHED).unlink()
    return ExportReport(tuple(files), sum(path.stat().st_size for path in files))


def check_format(manifest: Manifest, format: str) -> None:
    """Raise ExportRefusedError if ``format`` is none, or cannot hold what the dataset has."""
    if format not in get_args(Format):
        raise ExportRefusedError(f"format = {format!r}: allowed are {', '.join(get_args(Format))}; choose one")
    if format != "llmc":
        return
    if manifest.vocab_size > MOST_LLMC_VOCABULARY:
        raise ExportRefusedError(
            f"format = 'llmc': its tokens are uint16, and the vocabulary has {manifest.vocab_size:,}, more than "
            f"{MOST_LLMC_VOCABULARY:,}; export as bin, whose tokens are then uint32"
        )
    if manifest.seq_len * min(manifest.sequences, manifest.source.shard_sequences) > LLMC_MOST_TOKENS:
        raise ExportRefusedError(
            f"format = 'llmc': a shard has more than {LLMC_MOST_TOKENS:,} tokens, which is what its header can count; "
            "export as bin"
        )


@dataclass(frozen=True)
class _Rows:
    """What is exported, shard by shard, and who is told how far that is."""

    store: Store
    manifest: Manifest
    generator: RowGenerator | None
    progress: Progress
    layout: list[tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", layout_of(self.manifest))

    def tables(self, start: int = 0, stop: int | None = None) -> Iterator[pa.Table]:
        """The tables of shards ``start`` … ``stop - 1``."""
        numbers = range(start, len(self.layout) if stop is None else stop)
        tables = all_tables(self.store, self.manifest, self.generator, start, numbers.stop)
        for number, table in zip(numbers, tables, strict=True):
            yield table
            self.progress(number + 1, len(self.layout))

    def file(self, number: int) -> bytes:
        """A shard's Parquet file: as it is stored, or as it would be."""
        if self.manifest.is_computed:
            (table,) = self.tables(number, number + 1)
            return encode_shard(self.manifest.source, table, self.layout[number][0])
        self.progress(number + 1, len(self.layout))
        return fetch_shard(self.store, self.manifest.shards[number])


def _parquet(rows: _Rows, folder: Path) -> list[Path]:
    paths = [folder / f"{number:05d}.parquet" for number in range(len(rows.layout))]
    for number, path in _missing(paths):
        with _finished(path) as file:
            file.write(rows.file(number))
    return paths


def _huggingface(rows: _Rows, folder: Path) -> list[Path]:
    count = len(rows.layout)
    paths = [folder / f"train-{number:05d}-of-{count:05d}.parquet" for number in range(count)]
    for number, path in _missing(paths):
        (table,) = rows.tables(number, number + 1)
        tokens = tokens_of(table, rows.manifest.token_dtype).astype(np.int32)
        offsets = np.arange(len(tokens) + 1, dtype=np.int32) * rows.manifest.seq_len
        ids = pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens.ravel()))
        listed = table.drop_columns(["tokens"]).append_column("input_ids", ids).replace_schema_metadata(None)
        with _finished(path) as file:
            pq.write_table(listed, file, compression="zstd", store_schema=False)
    return paths


def _jsonl(rows: _Rows, folder: Path) -> list[Path]:
    path = folder / "sequences.jsonl"
    with _finished(path) as file:
        for table in rows.tables():
            others = table.drop_columns(["tokens"]).to_pylist()
            for row, tokens in zip(others, tokens_of(table, rows.manifest.token_dtype), strict=True):
                file.write(json.dumps({**row, "tokens": tokens.tolist()}, separators=(",", ":")).encode() + b"\n")
    return [path]


def _bin(rows: _Rows, folder: Path) -> list[Path]:
    path = folder / "tokens.bin"
    if not path.exists():
        _write_tokens(rows, path)
    return [path]


def _megatron(rows: _Rows, folder: Path) -> list[Path]:
    (tokens,) = _bin(rows, folder)
    index = folder / "tokens.idx"
    with _finished(index) as file:
        file.writelines(megatron_index(rows.manifest.sequences, rows.manifest.seq_len, rows.manifest.token_dtype))
    return [tokens, index]


def _llmc(rows: _Rows, folder: Path) -> list[Path]:
    groups = llmc_files([count * rows.manifest.seq_len for _, count in rows.layout])
    paths = [folder / f"tokens_{number:06d}.bin" for number in range(len(groups))]
    for number, path in _missing(paths):
        shards = groups[number]
        with _finished(path) as file:
            file.write(llmc_header(sum(rows.layout[shard][1] for shard in shards) * rows.manifest.seq_len))
            for table in rows.tables(shards.start, shards.stop):
                file.write(token_bytes(table))
    return paths


_WRITERS: dict[str, Callable[[_Rows, Path], list[Path]]] = {
    "parquet": _parquet,
    "huggingface": _huggingface,
    "jsonl": _jsonl,
    "bin": _bin,
    "llmc": _llmc,
    "megatron": _megatron,
}


def _write_tokens(rows: _Rows, path: Path) -> None:
    """All tokens as one file; goes on after the whole shards that an interrupted export has written of it.

    Raises CorruptObjectError if they are not what the manifest says, which also removes what there is.
    """
    manifest, part = rows.manifest, _part(path)
    ends = np.cumsum([count for _, count in rows.layout]) * manifest.row_bytes
    done = int(np.searchsorted(ends, part.stat().st_size if part.exists() else 0, side="right"))
    digest = digest_like(manifest.content_digest, manifest.row_bytes)
    with part.open("r+b" if part.exists() else "w+b") as file:
        file.truncate(int(ends[done - 1]) if done else 0)
        while data := file.read(max(1, _HASH_BYTES // manifest.row_bytes) * manifest.row_bytes):
            digest.update(data)
        for table in rows.tables(done):
            tokens = token_bytes(table)
            digest.update(tokens)
            file.write(tokens)
    if manifest.content_digest is not None and (found := digest.value()) != manifest.content_digest:
        part.unlink()
        raise CorruptObjectError(
            f"manifest {manifest.key}: the tokens of its shards have digest {found}, it says "
            f"{manifest.content_digest}: export again; if that fails, too, the manifest is wrong: make the data again"
        )
    part.replace(path)


def _missing(paths: list[Path]) -> list[tuple[int, Path]]:
    """The files that are still to be written, with their numbers."""
    return [(number, path) for number, path in enumerate(paths) if not path.exists()]


def _begin(folder: Path, export: dict[str, Any]) -> None:
    """Make the folder and note in it what is being written, or find that note from before."""
    mark = folder / UNFINISHED
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = sorted(path.name for path in folder.iterdir())
        found = json.loads(mark.read_bytes()) if mark.exists() else None
    except OSError as error:
        raise LakePathError(f"export folder {folder}: {error.strerror}: give a folder that you may write") from error
    except ValueError:
        found = "unreadable"
    if found is None and names:
        raise LakePathError(f"export folder {folder} is not empty (it has {names[0]}): give a new or empty folder")
    if found not in (None, export):
        raise LakePathError(
            f"export folder {folder} has an unfinished export of other data or in another format: finish that, or give "
            "a new or empty folder"
        )
    if found is None:
        with _finished(mark) as file:
            file.write(json.dumps(export).encode())


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


@contextmanager
def _finished(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name when it is whole, and leaves nothing if it fails."""
    part = _part(path)
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
