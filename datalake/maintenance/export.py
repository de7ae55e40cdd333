"""A dataset version as plain files for other programs: in our format or in that of their own readers.

What a killed export had finished is kept: the same export to the same place goes on, to the same files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from datalake.canonical import canonical_json
from datalake.errors import LakePathError
from datalake.maintenance.export_formats import ExportFile, ExportRows, plan_files, write_file
from datalake.maintenance.export_targets import ExportTarget, FolderTarget
from datalake.shards.computed import RowGenerator
from datalake.shards.manifest import Manifest, Progress
from datalake.store.interface import Store

UNFINISHED = "unfinished-export.json"
"""Says of a place which export is being written to it; goes when that is whole."""

MANIFEST = "manifest.json"

Item = TypeVar("Item")
Result = TypeVar("Result")


class Mapper(Protocol):
    """``map``, or what does the same in several threads or processes, in any order."""

    def __call__(self, function: Callable[[Item], Result], items: Sequence[Item], /) -> Iterable[Result]: ...


@dataclass(frozen=True)
class ExportReport:
    """The names of the files written, in order, and their sizes together in bytes."""

    files: tuple[str, ...]
    bytes: int


@dataclass(frozen=True)
class WriteFile:
    """Writes one file of an export where it belongs; picklable if the generator is."""

    rows: ExportRows
    format: str
    target: ExportTarget

    def __call__(self, file: ExportFile) -> ExportFile:
        with self.target.writing(file.name) as out:
            write_file(self.rows, self.format, file, out)
        return file


def export_dataset(
    store: Store,
    manifest: Manifest,
    target: ExportTarget | Path,
    format: str,
    progress: Progress | None = None,
    *,
    generator: RowGenerator | None = None,
    beside: Mapping[str, bytes] | None = None,
    file_tokens: int | None = None,
    mapper: Mapper = map,
) -> ExportReport:
    """Write a dataset to ``target``: new, empty, or where the same export was interrupted. Every shard is verified on
    the way; those of a computed dataset come from ``generator``.

    ``parquet``: the shards as they are, ``00000.parquet`` …; ``huggingface``: a Parquet file for each shard with a list
    column ``input_ids`` (int32) and the others, as ``datasets.load_dataset`` takes a folder; ``jsonl``:
    ``sequences.jsonl``, one row a line, tokens as a list; ``bin``: ``tokens.bin``, all tokens in sequence order as
    little-endian uint16 (uint32 where the manifest's ``token_dtype`` is) without a header, which is what
    ``numpy.memmap(path, dtype="<u2")`` and nanoGPT-style trainers take; ``llmc``: such files behind a header of 256
    int32 (``llmc_header``), as llm.c and modded-nanogpt read them; ``megatron``: ``tokens.bin`` and the index
    ``tokens.idx`` of Megatron's indexed datasets, each sequence a document; ``litdata``: chunks and ``index.json`` as
    litdata's `StreamingDataset` reads them with a `TokensLoader`. More than ``file_tokens`` tokens are several files
    with numbers in their names (None: see ``export_formats``).

    ``manifest.json`` and the files ``beside`` (name to bytes) lie beside them. Files appear under their names when they
    are whole. ``mapper`` may write several at once; ``progress`` is told (shards done, all).

    Raises ExportRefusedError, LakePathError, MissingShardError or CorruptShardError, and what a store raises.
    """
    files = plan_files(manifest, format, file_tokens)
    place = FolderTarget(target) if isinstance(target, Path) else target
    progress = progress or (lambda _done, _all: None)
    found = _begin(place, {"manifest": manifest.digest, "format": format, "file_tokens": file_tokens})
    write = WriteFile(ExportRows(store, manifest, generator), format, place)
    shards = sum(_weight(file) for file in files)
    done = sum(_weight(file) for file in files if file.name in found)
    for file in mapper(write, [file for file in files if file.name not in found]):
        done += _weight(file)
        progress(done, shards)
    about = {MANIFEST: json.dumps(json.loads(manifest.canonical), indent=2).encode() + b"\n", **(beside or {})}
    for name, data in about.items():
        place.replace(name, data)
    found = place.found()
    names = (*(file.name for file in files), MANIFEST)
    if lost := [name for name in names if name not in found]:
        raise LakePathError(
            f"{place.address} has no {lost[0]}, though it was written: give a place that all machines of the job share"
        )
    place.end(UNFINISHED)
    return ExportReport(names, sum(found[name] for name in names))


def _weight(file: ExportFile) -> int:
    """How many shards are done with it."""
    return 0 if file.of else len(file.shards)


def _begin(target: ExportTarget, export: Mapping[str, object]) -> dict[str, int]:
    """Note at the place what is being written to it, or find that note from before. Returns what lies there."""
    found = target.found()
    if found and UNFINISHED not in found:
        raise LakePathError(
            f"{target.address} is not empty (it has {min(found)}): give a new or empty folder or prefix"
        )
    note = canonical_json(dict(export))
    target.create(UNFINISHED, note)
    if target.read(UNFINISHED) != note:
        raise LakePathError(
            f"{target.address} has an unfinished export of other data, in another format or of other files: finish "
            "that, or give a new or empty folder or prefix"
        )
    return found
