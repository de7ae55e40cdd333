"""Which files are meant, what is in them, and their tokens: the one door to all layouts that can be imported."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from datalake.errors import ImportRefusedError
from datalake.maintenance.export_layouts import LITDATA_INDEX, LLMC_KINDS
from datalake.maintenance.import_columns import arrow_pieces, parquet_pieces
from datalake.maintenance.import_litdata import litdata_pieces
from datalake.maintenance.import_options import ImportFormat, ImportOptions, Piece
from datalake.maintenance.import_streams import bin_pieces, llmc_pieces, megatron_pieces

_READERS: dict[ImportFormat, Callable[[Path, ImportOptions], Iterator[Piece]]] = {
    "parquet": parquet_pieces,
    "arrow": arrow_pieces,
    "bin": bin_pieces,
    "llmc": llmc_pieces,
    "megatron": megatron_pieces,
    "litdata": litdata_pieces,
}
_SAID = {
    "parquet": "Parquet",
    "arrow": "Arrow",
    "bin": "tokens",
    "llmc": "llm.c's file",
    "megatron": "Megatron's files",
    "litdata": "litdata's chunks",
}
_SUFFIXES: dict[str, ImportFormat] = {".parquet": "parquet", ".arrow": "arrow", ".idx": "megatron"}
_IN_FOLDERS = ("*.parquet", "*.arrow", "*.idx", "*.bin")


def files_of(paths: Sequence[Path], options: ImportOptions) -> list[Path]:
    """The files that ``paths`` mean, in order; Megatron's by their index. Raises ImportRefusedError."""
    return [file for path in paths for file in _files(path, options)]


def pieces(path: Path, options: ImportOptions) -> Iterator[Piece]:
    """The tokens of one file and where its documents end, piece after piece. Raises ImportRefusedError."""
    kind = options.format or _kind_of(path)
    if not path.is_file():  # opening a pipe would wait for what may never come
        raise ImportRefusedError(f"{path} is not a regular file: give files of tokens, or a folder of them")
    try:
        yield from _READERS[kind](path, options)
    except (pa.ArrowException, OSError, ValueError, struct.error, IndexError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ImportRefusedError(f"{path}: cannot be read as {_SAID[kind]} ({said})") from error


def _files(path: Path, options: ImportOptions) -> list[Path]:
    index = path.with_name(f"{path.name}.idx") if not path.is_dir() else path
    if not path.exists() and index.is_file():  # Megatron's own name of the two files
        return [index]
    beside = path.with_suffix(".idx")
    if path.suffix == ".bin" and options.format in (None, "megatron") and beside.is_file():
        return [beside]
    return _listed(path, options) if path.is_dir() else [path]


def _listed(folder: Path, options: ImportOptions) -> list[Path]:
    """A folder's files of one kind: in the order that Hugging Face's `state.json` gives, or that of their names."""
    if (splits := folder / "dataset_dict.json").is_file():
        names = _json_field(splits, "splits")
        raise ImportRefusedError(
            f"{folder} holds splits: give one, such as {folder / str(names[0] if names else 'train')}"
        )
    if (state := folder / "state.json").is_file():
        named = [
            entry.get("filename") if isinstance(entry, dict) else None for entry in _json_field(state, "_data_files")
        ]
        if not all(isinstance(name, str) and Path(name).name == name for name in named):
            raise ImportRefusedError(f"{state}: its files are to lie beside it: mend it, or give the files themselves")
        return [folder / str(name) for name in named]
    if (index := folder / LITDATA_INDEX).is_file():
        return [index]
    for pattern in _IN_FOLDERS:
        if found := sorted(folder.glob(pattern)):
            return [file for path in found for file in _files(path, options)]
    raise ImportRefusedError(
        f"{folder} holds no {', '.join((LITDATA_INDEX, *_IN_FOLDERS))}: give a folder that does, or files"
    )


def _json_field(path: Path, field: str) -> list[object]:
    try:
        found = json.loads(path.read_bytes())[field]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ImportRefusedError(
            f"{path}: cannot be read as what `save_to_disk` writes: give the files themselves"
        ) from error
    return found if isinstance(found, list) else []


def _kind_of(path: Path) -> ImportFormat:
    suffix = path.suffix.lower()
    if path.name == LITDATA_INDEX:
        return "litdata"
    if suffix == ".bin" and path.is_file():
        with path.open("rb") as file:
            head = file.read(8)
        if len(head) == 8 and struct.unpack("<2i", head) in LLMC_KINDS:
            return "llmc"
        raise ImportRefusedError(
            f"{path} has neither llm.c's header nor an index beside it: if it holds tokens alone, say format = bin"
        )
    return _SUFFIXES.get(suffix, "parquet")
