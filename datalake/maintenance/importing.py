"""Token files from elsewhere become a text dataset: rows of token ids in, shards and a manifest out.

Two passes keep memory at about one shard: the first digests the tokens, since their digest is the source's identity,
the second writes. The same tokens make the same dataset, whatever files they came in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datalake.canonical import digest_of
from datalake.errors import ImportRefusedError
from datalake.lake import Lake
from datalake.maintenance.import_ends import DocumentEnds
from datalake.maintenance.import_layouts import files_of, pieces
from datalake.maintenance.import_options import ImportOptions
from datalake.registry.datasets import DatasetVersion
from datalake.shards.content import combine, part_of
from datalake.shards.manifest import Manifest
from datalake.shards.shard_format import token_column
from datalake.shards.shards import write_shard
from datalake.shards.source import Source
from datalake.shards.tokens import NARROW, WIDE, token_dtype

_BATCH = 1024  # rows looked at together in the first pass


def import_files(
    lake: Lake,
    name: str,
    paths: Sequence[Path],
    options: ImportOptions,
    message: str = "",
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> DatasetVersion:
    """Import ``paths``, in this order, as the next version of dataset ``name``; the same tokens again change nothing.

    A path is a file, a folder of them or what the names of an index and its tokens begin with; ``options.format`` says
    what is in them. ``progress`` is told (rows written, rows in all). Raises ImportRefusedError.
    """
    lake.check_writable()
    paths = files_of(paths, options)
    ends = DocumentEnds(options.tokenizer.get("end_of_text"))
    seq_len, rows, largest, contents = _survey(paths, options, ends)
    vocab_size = options.vocab_size or largest + 1
    dtype = token_dtype(vocab_size)
    content = contents[dtype]
    if largest >= vocab_size:
        raise ImportRefusedError(
            f"{paths[0]} … has token {largest}, the vocabulary has {vocab_size}: give the vocabulary size of the "
            "tokenizer that made these files"
        )
    spec: dict[str, Any] = {
        "family": "imported",
        **options.tokenizer,
        "seq_len": seq_len,
        "vocab_size": vocab_size,
        "content": content,
    }
    # Only where it is so: imports of before keep their digest. Without seq_len rows are what they were.
    if options.seq_len is not None and ends.held_within:
        spec["special_tokens_in_text"] = True
    if options.seq_len is not None and ends.unmarked:
        spec["documents_unmarked"] = True
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


def _survey(
    paths: Sequence[Path], options: ImportOptions, ends: DocumentEnds
) -> tuple[int, int, int, dict[np.dtype, str]]:
    """Row length, rows, largest token, and digest of all tokens in either width (in the wide one alone if need be);
    ``ends`` sees every document."""
    if not paths:
        raise ImportRefusedError("no files given: name one or more")
    rows, largest, seq_len = 0, 0, 0
    # Which width it is follows from the vocabulary, and that perhaps from the last token only.
    dtypes = (NARROW, WIDE) if options.vocab_size is None else (token_dtype(options.vocab_size),)
    digests = {dtype: hashlib.sha256() for dtype in dtypes}
    for _, tokens_NT in _blocks(paths, options, _BATCH, ends):
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


def _blocks(
    paths: Sequence[Path], options: ImportOptions, size: int, watching: DocumentEnds | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """(index of the first row, uint32 [up to size, seq_len]), all full but the last."""
    waiting = np.empty(0, dtype=WIDE)
    seq_len, first = options.seq_len or 0, 0
    for path in paths:
        begun = 0  # tokens of the document that goes on
        for tokens, ends in pieces(path, options):
            if options.seq_len is None and len(ends):
                lengths = np.diff(ends, prepend=-begun)
                seq_len = seq_len or int(lengths[0])
                others = lengths[lengths != seq_len]
                if len(others) or not seq_len:
                    raise ImportRefusedError(
                        f"{path}: there are rows of {seq_len} and of {int(others[:1].sum())} tokens: give seq_len to "
                        "lay them end to end and cut them into rows of one length"
                    )
            begun = len(tokens) - int(ends[-1]) if len(ends) else begun + len(tokens)
            if options.end_of_text is not None and options.seq_len is not None:
                tokens = np.insert(tokens, ends, options.end_of_text)
                ends = ends + np.arange(1, len(ends) + 1)
            if watching is not None:
                watching.see(tokens, ends)
            waiting = np.concatenate([waiting, tokens])
            while seq_len and len(waiting) >= size * seq_len:
                block, waiting = np.split(waiting, [size * seq_len])
                yield first, block.reshape(-1, seq_len)
                first += size
    if seq_len and len(waiting) >= seq_len:
        yield first, waiting[: len(waiting) // seq_len * seq_len].reshape(-1, seq_len)
