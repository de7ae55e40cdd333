"""A dataset version as plain files for other programs: its shards, JSON lines, or one memory-mappable token file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from datalake.errors import CorruptObjectError, LakePathError
from datalake.shards.manifest import Manifest, Progress, read_shards
from datalake.shards.shard_format import token_bytes, tokens_of
from datalake.shards.shards import fetch_shard
from datalake.store.interface import Store

Format = Literal["parquet", "jsonl", "bin"]


@dataclass(frozen=True)
class ExportReport:
    """The files written, in order, and their sizes together in bytes."""

    files: tuple[Path, ...]
    bytes: int


def export_dataset(
    store: Store, manifest: Manifest, folder: Path, format: Format, progress: Progress | None = None
) -> ExportReport:
    """Write a dataset into ``folder``, which must be new or empty. Every shard is verified on the way.

    ``parquet``: the shards as they are, ``00000.parquet`` …; ``jsonl``: ``sequences.jsonl``, one row a line, tokens as
    a list; ``bin``: ``tokens.bin``, all tokens in sequence order as little-endian uint16 (uint32 where the
    manifest's ``token_dtype`` is) without a header, which is what ``numpy.memmap(path, dtype="<u2")`` and
    nanoGPT-style trainers take. ``manifest.json`` lies beside them.
    Files appear under their names when they are whole. Raises LakePathError, MissingShardError or CorruptShardError.
    """
    _make_folder(folder)
    write = {"parquet": _parquet, "jsonl": _jsonl, "bin": _bin}[format]
    files = write(store, manifest, folder, progress or (lambda _done, _all: None))
    with _finished(folder / "manifest.json") as file:
        file.write(json.dumps(json.loads(manifest.canonical), indent=2).encode() + b"\n")
    files.append(folder / "manifest.json")
    return ExportReport(tuple(files), sum(path.stat().st_size for path in files))


def _parquet(store: Store, manifest: Manifest, folder: Path, progress: Callable[[int, int], None]) -> list[Path]:
    files = []
    for number, ref in enumerate(manifest.shards):
        files.append(folder / f"{number:05d}.parquet")
        with _finished(files[-1]) as file:
            file.write(fetch_shard(store, ref))
        progress(number + 1, len(manifest.shards))
    return files


def _jsonl(store: Store, manifest: Manifest, folder: Path, progress: Callable[[int, int], None]) -> list[Path]:
    path = folder / "sequences.jsonl"
    with _finished(path) as file:
        for done, (_, table) in enumerate(read_shards(store, manifest.shards), start=1):
            others = table.drop_columns(["tokens"]).to_pylist()
            for row, tokens in zip(others, tokens_of(table, manifest.token_dtype), strict=True):
                file.write(json.dumps({**row, "tokens": tokens.tolist()}, separators=(",", ":")).encode() + b"\n")
            progress(done, len(manifest.shards))
    return [path]


def _bin(store: Store, manifest: Manifest, folder: Path, progress: Callable[[int, int], None]) -> list[Path]:
    path = folder / "tokens.bin"
    digest = hashlib.sha256()
    with _finished(path) as file:
        for done, (_, table) in enumerate(read_shards(store, manifest.shards), start=1):
            tokens = token_bytes(table)
            digest.update(tokens)
            file.write(tokens)
            progress(done, len(manifest.shards))
        if digest.hexdigest() != manifest.content_digest:
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
