"""The formats of exports: which files each consists of, and how one file is written from the shards that go into it.

A file is a pure function of the manifest, the format and its size, so files may be written anywhere, in any order, and
again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datalake.errors import ExportRefusedError
from datalake.maintenance.export_layouts import (
    LITDATA_INDEX,
    LITDATA_MOST_BYTES,
    LLMC_HEADER_BYTES,
    LLMC_MOST_TOKENS,
    MOST_LLMC_VOCABULARY,
    litdata_head,
    litdata_head_bytes,
    litdata_index,
    llmc_header,
    megatron_index,
)
from datalake.reading.tables import all_tables, layout_of
from datalake.shards.computed import RowGenerator
from datalake.shards.manifest import Manifest
from datalake.shards.roles import COLUMN as ROLES
from datalake.shards.roles import roles_of
from datalake.shards.shard_format import encode_shard, token_bytes, tokens_of
from datalake.shards.shards import MOST_BYTES, fetch_shard
from datalake.store.interface import Store

Format = Literal["parquet", "huggingface", "jsonl", "bin", "llmc", "megatron", "litdata"]

# Tokens of a file, unless another number is asked for. None: a shard a file.
_FILE_TOKENS: dict[str, int | None] = {
    "parquet": None,
    "huggingface": None,
    "jsonl": 1 << 24,
    "bin": 100_000_000,  # what those who publish data for llm.c and modded-nanogpt put into a file
    "llmc": 100_000_000,
    "megatron": 100_000_000,
    "litdata": 1 << 25,  # 64 MiB, as litdata's own chunks have by default
}
_JSONL_TOKEN_BYTES = 11  # at most: ten digits and a comma


@dataclass(frozen=True)
class ExportFile:
    """A file of an export: the shards whose rows it holds, or the files that it is an index ``of``."""

    name: str
    shards: range
    of: tuple[ExportFile, ...] = ()


@dataclass(frozen=True)
class ExportRows:
    """What is exported: the rows of ``manifest``, fetched from ``store`` and verified, or made by ``generator``."""

    store: Store
    manifest: Manifest
    generator: RowGenerator | None

    def tables(self, shards: range) -> Iterator[pa.Table]:
        """The table of each of these shards, in order."""
        return all_tables(self.store, self.manifest, self.generator, shards.start, shards.stop)

    def count(self, shards: range) -> int:
        """Rows in these shards."""
        return sum(rows for _, rows in layout_of(self.manifest, shards.start, shards.stop))


def plan_files(manifest: Manifest, format: str, file_tokens: int | None = None) -> list[ExportFile]:
    """The files of an export, of up to ``file_tokens`` tokens but at least a shard each (None: as is usual).

    Raises ExportRefusedError if ``format`` is none, or cannot hold what the dataset has.
    """
    if format not in get_args(Format):
        raise ExportRefusedError(f"format = {format!r}: allowed are {', '.join(get_args(Format))}; choose one")
    if file_tokens is not None and format == "parquet":
        raise ExportRefusedError(
            f"file_tokens = {file_tokens}: files of format parquet are the shards as they are; leave file_tokens out, "
            "or choose huggingface"
        )
    if file_tokens is not None and file_tokens < 1:
        raise ExportRefusedError(f"file_tokens = {file_tokens}: allowed is 1 or more; leave it out for the usual size")
    if format == "llmc" and manifest.vocab_size > MOST_LLMC_VOCABULARY:
        raise ExportRefusedError(
            f"format = 'llmc': its tokens are uint16, and the vocabulary has {manifest.vocab_size:,}, more than "
            f"{MOST_LLMC_VOCABULARY:,}; export as bin, whose tokens are then uint32"
        )
    tokens = [rows * manifest.seq_len for _, rows in layout_of(manifest)]
    groups = shard_groups(tokens, file_tokens or _FILE_TOKENS[format] or 1)
    _check_sizes(manifest, format, [sum(tokens[group.start : group.stop]) for group in groups])
    return _NAMED[format](groups)


def shard_groups(shard_tokens: Sequence[int], most: int) -> list[range]:
    """Which shards go into each file: as many as stay within ``most`` tokens, and at least one."""
    files: list[range] = []
    start, tokens = 0, 0
    for number, count in enumerate(shard_tokens):
        if number > start and tokens + count > most:
            files.append(range(start, number))
            start, tokens = number, 0
        tokens += count
    return [*files, range(start, len(shard_tokens))]


def write_file(rows: ExportRows, format: str, file: ExportFile, out: IO[bytes]) -> None:
    """Write one file of an export. Raises MissingShardError or CorruptShardError, and what the generator raises."""
    if file.of:
        _INDICES[format](rows, file, out)
    else:
        _WRITERS[format](rows, file, out)


def _check_sizes(manifest: Manifest, format: str, file_tokens: Sequence[int]) -> None:
    """Raise ExportRefusedError for a file that its format, or one request to an object store, cannot hold."""
    tokens = max(file_tokens)
    width = {"jsonl": _JSONL_TOKEN_BYTES, "huggingface": 4}.get(format, manifest.token_dtype.itemsize)
    most = MOST_BYTES - LLMC_HEADER_BYTES
    if format == "litdata":
        most = min(most, LITDATA_MOST_BYTES - litdata_head_bytes(tokens // manifest.seq_len))
    allowed = min(most // width, LLMC_MOST_TOKENS if format == "llmc" else most)
    if format != "parquet" and tokens > allowed:  # shards are written already, or no larger than they may be
        raise ExportRefusedError(
            f"format = {format!r}: a file would have {tokens:,} tokens, and may have {allowed:,}; give a smaller "
            "file_tokens, or, where a shard alone has as many, export as parquet"
        )


def _named(stem: str, suffix: str, groups: Sequence[range]) -> list[ExportFile]:
    """One file under its plain name, or several with numbers that sort as they are."""
    if len(groups) == 1:
        return [ExportFile(f"{stem}{suffix}", groups[0])]
    return _of_all(f"{stem}-", suffix, groups)


def _of_all(stem: str, suffix: str, groups: Sequence[range]) -> list[ExportFile]:
    count, width = len(groups), _width(groups)
    return [ExportFile(f"{stem}{at:0{width}d}-of-{count:0{width}d}{suffix}", group) for at, group in enumerate(groups)]


def _numbered(stem: str, suffix: str, groups: Sequence[range], width: int) -> list[ExportFile]:
    return [ExportFile(f"{stem}{at:0{width}d}{suffix}", group) for at, group in enumerate(groups)]


def _width(groups: Sequence[range]) -> int:
    return max(5, len(str(len(groups))))


def _with_indices(files: list[ExportFile]) -> list[ExportFile]:
    return [
        each
        for file in files
        for each in (file, ExportFile(f"{file.name.removesuffix('.bin')}.idx", file.shards, (file,)))
    ]


def _with_index(files: list[ExportFile]) -> list[ExportFile]:
    return [*files, ExportFile(LITDATA_INDEX, range(files[-1].shards.stop), tuple(files))]


_NAMED: Mapping[str, Callable[[Sequence[range]], list[ExportFile]]] = {
    "parquet": lambda groups: _numbered("", ".parquet", groups, _width(groups)),
    "huggingface": lambda groups: _of_all("train-", ".parquet", groups),
    "jsonl": lambda groups: _named("sequences", ".jsonl", groups),
    "bin": lambda groups: _named("tokens", ".bin", groups),
    "llmc": lambda groups: _numbered("tokens_", ".bin", groups, max(6, _width(groups))),
    "megatron": lambda groups: _with_indices(_named("tokens", ".bin", groups)),
    "litdata": lambda groups: _with_index(_numbered("chunk-0-", ".bin", groups, 1)),
}


def _parquet(rows: ExportRows, file: ExportFile, out: IO[bytes]) -> None:
    """A shard's file: as it is stored, or as it would be."""
    manifest, shard = rows.manifest, file.shards.start
    if manifest.is_computed:
        (table,) = rows.tables(file.shards)
        out.write(encode_shard(manifest.source, table, shard * manifest.source.shard_sequences))
    else:
        out.write(fetch_shard(rows.store, manifest.shards[shard]))


def _huggingface(rows: ExportRows, file: ExportFile, out: IO[bytes]) -> None:
    writer = None
    for table in rows.tables(file.shards):
        tokens = tokens_of(table, rows.manifest.token_dtype).astype(np.int32)
        offsets = np.arange(len(tokens) + 1, dtype=np.int32) * rows.manifest.seq_len
        ids = pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens.ravel()))
        listed = (
            _listed_roles(table, rows.manifest.seq_len)
            .drop_columns(["tokens"])
            .append_column("input_ids", ids)
            .replace_schema_metadata(None)
        )
        if writer is None:
            writer = pq.ParquetWriter(out, listed.schema, compression="zstd", store_schema=False)
        writer.write_table(listed)
    if writer is not None:
        writer.close()


def _jsonl(rows: ExportRows, file: ExportFile, out: IO[bytes]) -> None:
    for table in rows.tables(file.shards):
        others = _listed_roles(table, rows.manifest.seq_len).drop_columns(["tokens"]).to_pylist()
        for row, tokens in zip(others, tokens_of(table, rows.manifest.token_dtype), strict=True):
            out.write(json.dumps({**row, "tokens": tokens.tolist()}, separators=(",", ":")).encode() + b"\n")


def _listed_roles(table: pa.Table, seq_len: int) -> pa.Table:
    """The table with its roles, where it has them, as lists of small integers in place of packed bits."""
    if ROLES not in table.column_names:
        return table
    offsets = np.arange(table.num_rows + 1, dtype=np.int32) * seq_len
    listed = pa.ListArray.from_arrays(pa.array(offsets), pa.array(roles_of(table, seq_len).ravel()))
    return table.set_column(table.column_names.index(ROLES), ROLES, listed)


def _tokens(rows: ExportRows, file: ExportFile, out: IO[bytes]) -> None:
    for table in rows.tables(file.shards):
        out.write(token_bytes(table))


def _llmc(rows: ExportRows, file: ExportFile, out: IO[bytes]) -> None:
    out.write(llmc_header(rows.count(file.shards) * rows.manifest.seq_len))
    _tokens(rows, file, out)


def _litdata(rows: ExportRows, file: ExportFile, out: IO[bytes]) -> None:
    out.write(litdata_head(rows.count(file.shards), rows.manifest.row_bytes))
    _tokens(rows, file, out)


_WRITERS: Mapping[str, Callable[[ExportRows, ExportFile, IO[bytes]], None]] = {
    "parquet": _parquet,
    "huggingface": _huggingface,
    "jsonl": _jsonl,
    "bin": _tokens,
    "llmc": _llmc,
    "megatron": _tokens,
    "litdata": _litdata,
}


def _megatron_index(rows: ExportRows, file: ExportFile, out: IO[bytes]) -> None:
    manifest = rows.manifest
    out.writelines(megatron_index(rows.count(file.shards), manifest.seq_len, manifest.token_dtype))


def _litdata_index(rows: ExportRows, file: ExportFile, out: IO[bytes]) -> None:
    manifest = rows.manifest
    chunks = {chunk.name: rows.count(chunk.shards) for chunk in file.of}
    out.write(litdata_index(chunks, manifest.seq_len, manifest.token_dtype, manifest.digest))


_INDICES: Mapping[str, Callable[[ExportRows, ExportFile, IO[bytes]], None]] = {
    "megatron": _megatron_index,
    "litdata": _litdata_index,
}
