"""A dataset version as plain files for other programs: its shards, JSON lines, or one memory-mappable token file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from pyarrow import Table

from datalake.errors import CorruptObjectError, LakePathError
from datalake.reading.tables import all_tables, layout_of
from datalake.shards.computed import RowGenerator
from datalake.shards.manifest import Manifest, Progress
from datalake.shards.shard_format import encode_shard, token_bytes, tokens_of
from datalake.shards.shards import fetch_shard
from datalake.store.interface import Store

Format = Literal["parquet", "jsonl", "bin"]


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
) -> ExportReport:
    """Write a dataset into ``folder``, which must be new or empty. Every shard is verified on the way; those of a
    computed dataset come from ``generator``.

    ``parquet``: the shards as they are, ``00000.parquet`` …; ``jsonl``: ``sequences.jsonl``, one row a line, tokens as
    a list; ``bin``: ``tokens.bin``, all tokens in sequence order as little-endian uint16 (uint32 where the
    manifest's ``token_dtype`` is) without a header, which is what ``numpy.memmap(path, dtype="<u2")`` and
    nanoGPT-style trainers take. ``manifest.json`` lies beside them.
    Files appear under their names when they are whole. Raises LakePathError, MissingShardError or CorruptShardError.
    """
    _make_folder(folder)
    write = {"parquet": _parquet, "jsonl": _jsonl, "bin": _bin}[format]
    source = _Rows(store, manifest, generator, progress or (lambda _done, _all: None))
    files = write(source, folder)
    with _finished(folder / "manifest.json") as file:
        file.write(json.dumps(json.loads(manifest.canonical), indent=2).encode() + b"\n")
    files.append(folder / "manifest.json")
    return ExportReport(tuple(files), sum(path.stat().st_size for path in files))


@dataclass(frozen=True)
class _Rows:
    """What is exported, shard by shard, and who is told how far that is."""

    store: Store
    manifest: Manifest
    generator: RowGenerator | None
    progress: Progress

    def tables(self) -> Iterator[Table]:
        total = len(layout_of(self.manifest))
        for done, table in enumerate(all_tables(self.store, self.manifest, self.generator), start=1):
            yield table
            self.progress(done, total)

    def shards(self) -> Iterator[bytes]:
        """The shards' files: as they are stored, or as they would be."""
        if self.manifest.is_computed:
            firsts = (first for first, _ in layout_of(self.manifest))
            for first, table in zip(firsts, self.tables(), strict=True):
                yield encode_shard(self.manifest.source, table, first)
            return
        for done, ref in enumerate(self.manifest.shards, start=1):
            yield fetch_shard(self.store, ref)
            self.progress(done, len(self.manifest.shards))


def _parquet(source: _Rows, folder: Path) -> list[Path]:
    files = []
    for number, data in enumerate(source.shards()):
        files.append(folder / f"{number:05d}.parquet")
        with _finished(files[-1]) as file:
            file.write(data)
    return files


def _jsonl(source: _Rows, folder: Path) -> list[Path]:
    path = folder / "sequences.jsonl"
    with _finished(path) as file:
        for table in source.tables():
            others = table.drop_columns(["tokens"]).to_pylist()
            for row, tokens in zip(others, tokens_of(table, source.manifest.token_dtype), strict=True):
                file.write(json.dumps({**row, "tokens": tokens.tolist()}, separators=(",", ":")).encode() + b"\n")
    return [path]


def _bin(source: _Rows, folder: Path) -> list[Path]:
    path, manifest = folder / "tokens.bin", source.manifest
    digest = hashlib.sha256()
    with _finished(path) as file:
        for table in source.tables():
            tokens = token_bytes(table)
            digest.update(tokens)
            file.write(tokens)
        if manifest.content_digest is not None and digest.hexdigest() != manifest.content_digest:
            raise CorruptObjectError(
                f"manifest {manifest.key}: the tokens of its shards have digest {digest.hexdigest()}, it says "
                f"{manifest.content_digest}: the manifest is wrong; make the dataset again"
            )
    return [path]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = next(folder.iterdir(), None)
    except OSError as error:
        raise LakePathError(f"export folder {folder}: {error.strerror}: give a folder that you may write") from error
    if taken is not None:
        raise LakePathError(f"export folder {folder} is not empty (it has {taken.name}): give a new or empty folder")


@contextmanager
def _finished(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name when it is whole, and leaves nothing if it fails."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
