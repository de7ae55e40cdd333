"""Text into the lake: documents → tokens → rows of one length in shards, the same bytes whoever adds them and whenever.

Two passes keep memory at about one shard: the first reads every file for its digest, the second for its tokens.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datalake import DatasetVersion, Lake, Manifest, ShardRef, Source, Store, check_name, digest_of, write_shard
from orchestration.corpus_files import SPLITS, Document, Survey, find_files, stdlib_files, survey_files
from orchestration.errors import CorpusError
from orchestration.tokens import BpeTokenizer, ByteTokenizer, TextTokenizer, parse_tokenizer, train_bpe

__all__ = ["CorpusResult", "add_corpus", "stdlib_files"]

_GROUP_BYTES = 4 << 20  # documents tokenised together: enough to keep the BPE's threads busy, little enough to hold

Progress = Callable[[str, int, int], None]
NumberedTable = tuple[int, pa.Table]
MapShards = Callable[[Callable[[NumberedTable], ShardRef], Iterable[NumberedTable]], Iterable[ShardRef]]


@dataclass(frozen=True)
class CorpusResult:
    """Both dataset versions and an account of every file: files + duplicates + undecodable + empty = found."""

    train: DatasetVersion
    heldout: DatasetVersion
    files: int
    bytes: int
    duplicates: list[str]
    undecodable: list[str]
    empty: list[str]
    tokens: dict[str, int]
    tokens_dropped: dict[str, int]
    vocab_size: int
    tokenizer_digest: str | None

    def notes(self) -> list[str]:
        """One sentence on each thing that was left out; empty if nothing was."""
        left_out = {
            "exact duplicates dropped": self.duplicates,
            "files skipped, not UTF-8 text": self.undecodable,
            "empty files skipped": self.empty,
        }
        said = [f"{len(paths)} {what} (first: {paths[0]})" for what, paths in left_out.items() if paths]
        said.extend(
            f"{dropped} tokens at the end of {split} dropped: they do not fill a row"
            for split, dropped in self.tokens_dropped.items()
            if dropped
        )
        return said


def add_corpus(
    lake: Lake,
    name: str,
    paths: Sequence[Path] | Path,
    *,
    root: Path | None = None,
    patterns: Sequence[str] = ("*",),
    tokenizer: str = "bytes",
    seq_len: int = 512,
    heldout_fraction: float = 0.05,
    shard_sequences: int = 512,
    message: str = "",
    progress: Progress | None = None,
    map_shards: MapShards = map,
) -> CorpusResult:
    """Tokenise text files into the datasets ``name`` and ``name``-heldout.

    Files are found and split as `corpus_files` says. A document is closed by an end-of-text token; documents are laid
    end to end in the order of their paths' SHA-256 and cut into rows of ``seq_len`` tokens.

    Columns: sequence_id int64, tokens fixed_size_binary(2·seq_len) little-endian uint16, target_bytes int32 (UTF-8
    bytes that tokens 1 to seq_len−1 stand for, the divisor of bits per byte).

    Adding the same files again returns the same versions. ``map_shards`` applies the shard writer to (first row, table)
    pairs and gives the results in order; pass one that uses a cluster to write in parallel. ``progress`` is told
    (stage, files done, files in all).

    Raises CorpusError (bad argument, nothing to read, too little text for one row, a file that changes meanwhile) and
    TokenizerError (unknown tokenizer, vocabulary over 65,536).
    """
    for dataset in (name, f"{name}-heldout"):
        check_name(dataset, "dataset")
    _check_sizes(seq_len, heldout_fraction, shard_sequences)
    vocabulary = parse_tokenizer(tokenizer)
    survey = survey_files(find_files(paths, patterns, root=root), heldout_fraction, progress)
    text: TextTokenizer = ByteTokenizer() if vocabulary is None else _trained(survey, vocabulary)

    rows = {split: Rows(survey.documents[split], text, seq_len) for split in SPLITS}
    tables = {split: _begun(split, rows[split], shard_sequences, progress) for split in SPLITS}
    if isinstance(text, BpeTokenizer):
        lake.store.put_if_absent(text.key, text.json_bytes)
    manifests = {}
    for split in SPLITS:
        source = _source(split, rows[split], heldout_fraction, shard_sequences)
        shards = list(map_shards(partial(_write_shard, lake.store, source), tables[split]))
        manifests[split] = _manifest(source, rows[split], shards)

    # Nothing is named before both splits are whole; held-out first, so that whoever sees train can evaluate on it.
    heldout = lake.datasets.commit(f"{name}-heldout", manifests["heldout"], message=message)
    train = lake.datasets.commit(name, manifests["train"], message=message)
    kept = [document for split in SPLITS for document in survey.documents[split]]
    return CorpusResult(
        train=train,
        heldout=heldout,
        files=len(kept),
        bytes=sum(document.size for document in kept),
        duplicates=survey.duplicates,
        undecodable=survey.undecodable,
        empty=survey.empty,
        tokens={split: rows[split].count * seq_len for split in SPLITS},
        tokens_dropped={split: rows[split].dropped for split in SPLITS},
        vocab_size=text.vocab_size,
        tokenizer_digest=text.describe().get("tokenizer_digest"),
    )


class Rows:
    """The rows of one split; ``tables`` makes them, and what it counted can be read once it is exhausted."""

    def __init__(self, documents: Sequence[Document], tokenizer: TextTokenizer, seq_len: int) -> None:
        self.documents = documents
        self.tokenizer = tokenizer
        self.seq_len = seq_len
        self.count = 0  # rows
        self.dropped = 0  # tokens at the end that fill no row
        self.text_bytes = 0  # sum of target_bytes
        self.content = hashlib.sha256()  # over the token bytes in sequence order

    def tables(
        self, shard_sequences: int, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[NumberedTable]:
        """(index of the first row, table of ``shard_sequences`` rows), the last table shorter."""
        waiting = np.empty(0, dtype=np.uint16)
        done = 0
        for group in _groups(self.documents):
            pieces = [waiting]
            for tokens in self.tokenizer.encode([document.read() for document in group]):
                pieces += [tokens, np.array([self.tokenizer.end_of_text], dtype=np.uint16)]
            waiting = np.concatenate(pieces)
            while len(waiting) >= shard_sequences * self.seq_len:
                shard, waiting = np.split(waiting, [shard_sequences * self.seq_len])
                yield self._table(shard)
            done += len(group)
            if progress:
                progress(done, len(self.documents))
        full, rest = np.split(waiting, [len(waiting) // self.seq_len * self.seq_len])
        self.dropped = len(rest)
        if len(full):
            yield self._table(full)

    def _table(self, tokens: NDArray[np.uint16]) -> NumberedTable:
        first = self.count
        tokens_NT = tokens.reshape(-1, self.seq_len)
        target_bytes_N = self.tokenizer.token_bytes[tokens_NT[:, 1:]].sum(axis=1, dtype=np.int32)
        token_bytes = tokens_NT.astype("<u2", copy=False).tobytes()
        self.count += len(tokens_NT)
        self.text_bytes += int(target_bytes_N.sum(dtype=np.int64))
        self.content.update(token_bytes)
        token_column = pa.Array.from_buffers(
            pa.binary(2 * self.seq_len), len(tokens_NT), [None, pa.py_buffer(token_bytes)]
        )
        fields = [
            pa.field("sequence_id", pa.int64(), nullable=False),
            pa.field("tokens", token_column.type, nullable=False),
            pa.field("target_bytes", pa.int32(), nullable=False),
        ]
        columns = [
            pa.array(np.arange(first, self.count, dtype=np.int64)),
            token_column,
            pa.array(target_bytes_N),
        ]
        return first, pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _groups(documents: Sequence[Document]) -> Iterator[list[Document]]:
    group: list[Document] = []
    size = 0
    for document in documents:
        group.append(document)
        size += document.size
        if size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _check_sizes(seq_len: int, heldout_fraction: float, shard_sequences: int) -> None:
    if seq_len < 2:
        raise CorpusError(f"seq_len: {seq_len} leaves nothing to predict; use 2 or more")
    if not 0 < heldout_fraction < 1:
        raise CorpusError(f"heldout_fraction: {heldout_fraction} is not between 0 and 1; 0.05 is usual")
    if shard_sequences < 1:
        raise CorpusError(f"shard_sequences: {shard_sequences} is no size; use 1 or more, 512 is usual")


def _trained(survey: Survey, vocabulary: int) -> BpeTokenizer:
    """A BPE trained on the train split alone."""
    return train_bpe((document.read() for document in survey.documents["train"]), vocabulary)


def _begun(split: str, rows: Rows, shard_sequences: int, progress: Progress | None) -> Iterator[NumberedTable]:
    """The split's tables, the first made already: text too short for a row is refused before anything is written."""
    tables = rows.tables(shard_sequences, partial(progress, split) if progress else None)
    first = next(tables, None)
    if first is None:
        raise CorpusError(
            f"paths: the {split} split has {rows.dropped} tokens, fewer than one row of {rows.seq_len}; "
            "give more text, a smaller seq_len or another heldout_fraction"
        )
    return chain([first], tables)


def _source(split: str, rows: Rows, heldout_fraction: float, shard_sequences: int) -> Source:
    """All that a split's rows depend on. Only its own documents count, so held-out stays put when train grows."""
    corpus = hashlib.sha256()
    for document in rows.documents:
        corpus.update(os.fsencode(document.relative) + b"\0" + document.sha256)
    spec: dict[str, Any] = {
        "family": "text",
        **rows.tokenizer.describe(),
        "seq_len": rows.seq_len,
        "split": {"part": split, "by": "sha256(relative path)", "heldout_fraction": heldout_fraction},
        "corpus_digest": corpus.hexdigest(),
    }
    return Source(
        kind="text",
        spec=spec,
        spec_digest=digest_of(spec),
        seed=None,
        generator=None,
        shard_sequences=shard_sequences,
    )


def _write_shard(store: Store, source: Source, shard: NumberedTable) -> ShardRef:
    first, table = shard
    return write_shard(store, source, table, first)


def _manifest(source: Source, rows: Rows, shards: Sequence[ShardRef]) -> Manifest:
    return Manifest(
        kind="text",
        source=source,
        seq_len=rows.seq_len,
        vocab_size=rows.tokenizer.vocab_size,
        sequences=rows.count,
        tokens=rows.count * rows.seq_len,
        text_bytes=rows.text_bytes,
        content_digest=rows.content.hexdigest(),
        shards=tuple(shards),
    )
