"""Tokenised Parquet from elsewhere becomes a text dataset: rows of token ids in, shards and a manifest out.

Two passes keep memory at about one shard: the first digests the tokens, since their digest is the source's identity,
the second writes. The same tokens make the same dataset, whatever files they came in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datalake.canonical import digest_of
from datalake.errors import ImportRefusedError
from datalake.lake import Lake
from datalake.registry.datasets import DatasetVersion
from datalake.shards.content import combine, part_of
from datalake.shards.manifest import Manifest
from datalake.shards.parquet_pages import MAX_PAGE, largest_page, too_many_rows
from datalake.shards.shard_format import token_column
from datalake.shards.shards import write_shard
from datalake.shards.source import Source
from datalake.shards.tokens import MAX_VOCABULARY, NARROW, WIDE, token_dtype

_BATCH = 1024  # rows read at once


@dataclass(frozen=True)
class ImportOptions:
    """How to read the files.

    ``column`` holds the tokens: lists of integers, or little-endian binary of ``binary_bits`` a token (by default what
    the footer of an exported shard says, else what ``vocab_size`` needs, else 16). Without ``seq_len`` every row must
    have the same length and stays a row; with it, rows are documents, laid end to end (``end_of_text``, if given, after
    each) and cut into rows of that many tokens, an incomplete last one left out. ``vocab_size`` defaults to the
    largest token plus one. ``token_bytes`` int [vocab_size] gives each token's UTF-8 bytes; without it bits per byte
    cannot be computed on this dataset. ``tokenizer`` holds the fields by which the dataset's spec remembers what
    made the tokens, as for text that was tokenised here.
    """

    column: str = "tokens"
    binary_bits: Literal[16, 32] | None = None
    seq_len: int | None = None
    end_of_text: int | None = None
    vocab_size: int | None = None
    shard_sequences: int = 512
    token_bytes: np.ndarray | None = None
    tokenizer: Mapping[str, Any] = field(default_factory=dict)


def import_parquet(
    lake: Lake,
    name: str,
    paths: Sequence[Path],
    options: ImportOptions,
    message: str = "",
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> DatasetVersion:
    """Import ``paths``, in this order, as the next version of dataset ``name``; the same tokens again change nothing.

    ``progress`` is told (rows written, rows in all). Raises ImportRefusedError.
    """
    lake.check_writable()
    seq_len, rows, largest, contents = _survey(paths, options)
    vocab_size = options.vocab_size or largest + 1
    dtype = token_dtype(vocab_size)
    content = contents[dtype]
    if largest >= vocab_size:
        raise ImportRefusedError(
            f"column {options.column!r} has token {largest}, the vocabulary has {vocab_size}: give the vocabulary size "
            f"of the tokenizer that made these files"
        )
    spec: dict[str, Any] = {
        "family": "imported",
        **options.tokenizer,
        "seq_len": seq_len,
        "vocab_size": vocab_size,
        "content": content,
    }
    if options.token_bytes is not None:
        lengths = np.asarray(options.token_bytes, dtype=np.int64)
        if len(lengths) < vocab_size:
            raise ImportRefusedError(
                f"token_bytes has {len(lengths)} entries, the vocabulary has {vocab_size}: give one for every token"
            )
        spec["token_bytes"] = hashlib.sha256(lengths.astype("<i8").tobytes()).hexdigest()
    fixed = {"spec": spec, "spec_digest": digest_of(spec), "shard_sequences": options.shard_sequences}
    source = Source(kind="text", format=2, **fixed)
    shards, parts, again, text_bytes = [], [], hashlib.sha256(), 0
    for first, wide_NT in _blocks(paths, options, options.shard_sequences):
        tokens_NT = wide_NT.astype(dtype)
        again.update(tokens_NT.tobytes())
        table, represented = _table(first, tokens_NT, options.token_bytes)
        text_bytes += represented
        shards.append(write_shard(lake.store, source, table, first))
        parts.append(part_of(table, first))
        progress(first + len(tokens_NT), rows)
    if again.hexdigest() != content:
        raise ImportRefusedError(f"{paths[0]} … {paths[-1]}: the files changed while they were read: import them again")
    manifest = Manifest.build(
        source,
        shards,
        seq_len=seq_len,
        vocab_size=vocab_size,
        content_digest=combine(parts),
        text_bytes=None if options.token_bytes is None else text_bytes,
    )
    return lake.datasets.commit(name, manifest, message=message)


def _survey(paths: Sequence[Path], options: ImportOptions) -> tuple[int, int, int, dict[np.dtype, str]]:
    """Row length, rows, largest token, and digest of all tokens in either width (in the wide one alone if need be)."""
    if not paths:
        raise ImportRefusedError("no files given: name one or more Parquet files")
    rows, largest, seq_len = 0, 0, 0
    # Which width it is follows from the vocabulary, and that perhaps from the last token only.
    dtypes = (NARROW, WIDE) if options.vocab_size is None else (token_dtype(options.vocab_size),)
    digests = {dtype: hashlib.sha256() for dtype in dtypes}
    for _, tokens_NT in _blocks(paths, options, _BATCH):
        rows, seq_len = rows + len(tokens_NT), tokens_NT.shape[1]
        largest = max(largest, int(tokens_NT.max()))
        for dtype, digest in digests.items():
            digest.update(tokens_NT.astype(dtype).tobytes())
    if not rows:
        raise ImportRefusedError(
            f"{paths[0]} … {paths[-1]}: there are no tokens for even one row: give more files or a smaller seq_len"
        )
    return seq_len, rows, largest, {dtype: digest.hexdigest() for dtype, digest in digests.items()}


def _table(first: int, tokens_NT: np.ndarray, token_bytes: np.ndarray | None) -> tuple[pa.Table, int]:
    """A shard's table, and the UTF-8 bytes that its tokens 1 … stand for."""
    count = len(tokens_NT)
    columns = {
        "sequence_id": pa.array(np.arange(first, first + count, dtype=np.int64)),
        "tokens": token_column(tokens_NT),
    }
    if token_bytes is None:
        return pa.table(columns), 0
    represented = np.asarray(token_bytes)[tokens_NT[:, 1:]].sum(axis=1, dtype=np.int32)
    return pa.table({**columns, "target_bytes": pa.array(represented)}), int(represented.sum(dtype=np.int64))


def _blocks(paths: Sequence[Path], options: ImportOptions, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """(index of the first row, uint32 [up to size, seq_len]), all full but the last."""
    waiting = np.empty(0, dtype=WIDE)
    seq_len, first = options.seq_len or 0, 0
    for path in paths:
        for tokens, lengths in _documents(path, options):
            if options.seq_len is None:
                seq_len = seq_len or int(lengths[0])
                others = lengths[lengths != seq_len]
                if len(others) or not seq_len:
                    raise ImportRefusedError(
                        f"{path}: rows of column {options.column!r} have {seq_len} and {int(others[:1].sum())} "
                        f"tokens: give seq_len to lay them end to end and cut them into rows of one length"
                    )
            elif options.end_of_text is not None:
                tokens = np.insert(tokens, np.cumsum(lengths), options.end_of_text)
            waiting = np.concatenate([waiting, tokens])
            while len(waiting) >= size * seq_len:
                block, waiting = np.split(waiting, [size * seq_len])
                yield first, block.reshape(-1, seq_len)
                first += size
    if seq_len and len(waiting) >= seq_len:
        yield first, waiting[: len(waiting) // seq_len * seq_len].reshape(-1, seq_len)


def _documents(path: Path, options: ImportOptions) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(tokens of some rows end to end as uint32, their lengths), batch after batch. Raises ImportRefusedError."""
    column = options.column
    if not path.is_file():  # opening a pipe would wait for what may never come
        raise ImportRefusedError(f"{path} is not a regular file: give Parquet files")
    try:
        # What is said of the size is looked at before it is decoded: 2 kB can stand for gigabytes.
        with path.open("rb") as source, pq.ParquetFile(source, pre_buffer=False) as file:
            binary = _binary_dtype(file, options)
            if column not in file.schema_arrow.names:
                raise ImportRefusedError(
                    f"{path} has no column {column!r}: it has {', '.join(file.schema_arrow.names)}; name the one that "
                    f"holds the tokens"
                )
            for group in range(file.num_row_groups):
                rows = _rows_at_once(path, source, file, group, column)
                for batch in file.iter_batches(rows, [group], [column], use_threads=False):
                    if batch.num_rows:
                        yield _flattened(path, column, batch.column(0), binary)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ImportRefusedError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split())})") from error


def _binary_dtype(file: pq.ParquetFile, options: ImportOptions) -> np.dtype:
    """What a binary column of the file holds a token as."""
    if options.binary_bits is not None:
        return WIDE if options.binary_bits == 32 else NARROW
    said = (file.metadata.metadata or {}).get(b"morphogen.token_bits")
    return WIDE if said == b"32" else NARROW if said is not None else token_dtype(options.vocab_size or 1)


def _rows_at_once(path: Path, source: BinaryIO, file: pq.ParquetFile, group: int, column: str) -> int:
    """How many rows may be decoded at once. Raises ImportRefusedError for a file that claims more than it can hold."""
    size = path.stat().st_size
    row_group = file.metadata.row_group(group)
    chunks = [row_group.column(index) for index in range(row_group.num_columns)]
    chunks = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] == column]
    claimed = max([file.metadata.num_rows, *(chunk.num_values for chunk in chunks)])
    if too_many_rows(claimed, size):
        raise ImportRefusedError(
            f"{path} claims {claimed:,} values in {size:,} bytes, which cannot hold as many: leave it out"
        )
    pages = [largest_page(source, chunk) for chunk in chunks]
    largest = max(pages, default=1) or 1
    if largest > MAX_PAGE:
        raise ImportRefusedError(
            f"{path} holds a page of {largest >> 20} MiB, {MAX_PAGE >> 20} are the limit: write it with smaller pages"
        )
    return max(1, min(_BATCH, MAX_PAGE // largest))


def _flattened(path: Path, column: str, rows: pa.Array, binary: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    def refuse(problem: str) -> ImportRefusedError:
        return ImportRefusedError(
            f"{path}: column {column!r} {problem}: give lists of integers from 0 to {MAX_VOCABULARY - 1}, or "
            f"little-endian uint16 or uint32 as binary (binary_bits says which; read as {8 * binary.itemsize} bits)"
        )

    if rows.null_count:
        raise refuse("has nulls")
    kind = rows.type
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        pieces = rows.to_pylist()
        sizes = np.array([len(piece) for piece in pieces], dtype=np.int64)
        if np.any(uneven := sizes % binary.itemsize != 0):
            raise refuse(f"has a row of {int(sizes[uneven][0])} bytes")
        tokens = np.frombuffer(b"".join(pieces), dtype=binary)
        if len(tokens) and int(tokens.max()) >= MAX_VOCABULARY:
            raise refuse(f"has values up to {tokens.max()}")
        return tokens.astype(WIDE), sizes // binary.itemsize
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not lists or not pa.types.is_integer(kind.value_type):
        raise refuse(f"is {kind}")
    values = rows.flatten()
    if values.null_count:
        raise refuse("has nulls within a row")
    numbers = values.to_numpy(zero_copy_only=False)
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < MAX_VOCABULARY:
        raise refuse(f"has values from {numbers.min()} to {numbers.max()}")
    if pa.types.is_fixed_size_list(kind):
        return numbers.astype(WIDE), np.full(len(rows), kind.list_size, dtype=np.int64)
    return numbers.astype(WIDE), rows.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
