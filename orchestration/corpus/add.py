"""Text into the lake: documents → tokens → rows of one length in shards, the same bytes whoever adds them and whenever.

Two passes keep memory at about one shard: the first reads every file for its digest, the second for its tokens.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, get_args

from datalake import DatasetVersion, Lake, Manifest, ShardRef, Source, Store, check_name, digest_of, write_shard
from orchestration.corpus.files import SPLITS, Mapper, Survey, find_files, stdlib_files, survey_files
from orchestration.corpus.packing import Packing
from orchestration.corpus.rows import NumberedTable, Rows, texts_of
from orchestration.corpus.tokenizer_files import read_tokenizer
from orchestration.corpus.tokenizers import BpeTokenizer, ByteTokenizer, TextTokenizer, parse_tokenizer, train_bpe
from orchestration.errors import CorpusError

__all__ = ["CorpusResult", "add_corpus", "stdlib_files"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CorpusResult:
    """Both versions and an account of every document: documents + duplicates + undecodable + empty = found.

    ``files`` counts those that gave a document, ``bytes`` is the documents' UTF-8 text.
    """

    train: DatasetVersion
    heldout: DatasetVersion
    files: int
    documents: int
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
            "empty documents skipped": self.empty,
        }
        said = [f"{len(paths)} {what} (first: {paths[0]})" for what, paths in left_out.items() if paths]
        for split, dropped in self.tokens_dropped.items():
            if dropped:
                share = dropped / (dropped + self.tokens[split])
                said.append(f"{dropped:,} tokens of {split} ({share:.2%}) lost: they do not fit the rows")
        return said


def add_corpus(
    lake: Lake,
    name: str,
    paths: Sequence[Path] | Path,
    *,
    root: Path | None = None,
    patterns: Sequence[str] = ("*",),
    text_column: str = "text",
    tokenizer: str = "bytes",
    end_of_text: str | None = None,
    seq_len: int = 512,
    packing: Packing = "concat",
    heldout_fraction: float = 0.05,
    shard_sequences: int = 512,
    message: str = "",
    progress: Progress | None = None,
    mapper: Mapper = map,
) -> CorpusResult:
    """Tokenise documents into the datasets ``name`` and ``name``-heldout.

    Files are found and split as `corpus_files` says; ``*.jsonl`` and ``*.parquet`` hold a document in the field
    ``text_column`` of each record, any other file is one document. ``tokenizer`` is ``bytes``, ``bpe:N`` (trained here,
    on the train split) or a file that `tokenizer_files` reads, whose token ``end_of_text`` ends a document. Each
    document is closed by an end-of-text token and laid into rows of ``seq_len`` tokens as ``packing`` says.

    Columns: sequence_id int64, tokens fixed_size_binary(2·seq_len) little-endian uint16, target_bytes int32 (UTF-8
    bytes that tokens 1 to seq_len−1 stand for, the divisor of bits per byte).

    Adding the same files again returns the same versions. ``mapper`` applies the three costly functions (survey a file,
    tokenise a group of documents, write a shard) and gives results in order; pass one that uses a cluster to do it
    there, with the same bytes. ``progress`` is told (stage, done, all): of files in the survey, then of documents.

    Raises CorpusError (bad argument, nothing to read, too little text for one row, a file that is broken or changes
    meanwhile) and TokenizerError (unknown or unusable tokenizer, vocabulary over 65,536).
    """
    for dataset in (name, f"{name}-heldout"):
        check_name(dataset, "dataset")
    _check_sizes(seq_len, heldout_fraction, shard_sequences, packing)
    lake.check_writable()
    given = read_tokenizer(Path(tokenizer), end_of_text) if _names_a_file(tokenizer) else None
    vocabulary = None if given else parse_tokenizer(tokenizer)
    found = find_files(paths, patterns, root=root)
    survey = survey_files(found, heldout_fraction, progress, column=text_column, mapper=mapper)
    text: TextTokenizer = given or (
        ByteTokenizer() if vocabulary is None else _trained(survey, vocabulary, text_column)
    )

    rows = {split: Rows(survey.documents[split], text_column, text, packing, seq_len) for split in SPLITS}
    tables = {split: _begun(split, rows[split], shard_sequences, progress, mapper) for split in SPLITS}
    if isinstance(text, BpeTokenizer):
        lake.store.put_if_absent(text.key, text.json_bytes)
    manifests = {}
    for split in SPLITS:
        source = _source(split, rows[split], heldout_fraction, shard_sequences)
        shards = list(mapper(partial(_write_shard, lake.store, source), tables[split]))
        manifests[split] = _manifest(source, rows[split], shards)

    # Nothing is named before both splits are whole; held-out first, so that whoever sees train can evaluate on it.
    heldout = lake.datasets.commit(f"{name}-heldout", manifests["heldout"], message=message)
    train = lake.datasets.commit(name, manifests["train"], message=message)
    kept = [document for split in SPLITS for document in survey.documents[split]]
    return CorpusResult(
        train=train,
        heldout=heldout,
        files=len({document.file for document in kept}),
        documents=len(kept),
        bytes=sum(document.size for document in kept),
        duplicates=survey.duplicates,
        undecodable=survey.undecodable,
        empty=survey.empty,
        tokens={split: rows[split].count * seq_len for split in SPLITS},
        tokens_dropped={split: rows[split].lost for split in SPLITS},
        vocab_size=text.vocab_size,
        tokenizer_digest=text.describe().get("tokenizer_digest"),
    )


def _names_a_file(tokenizer: str) -> bool:
    return tokenizer.endswith((".json", ".tiktoken"))


def _check_sizes(seq_len: int, heldout_fraction: float, shard_sequences: int, packing: str) -> None:
    if seq_len < 2:
        raise CorpusError(f"seq_len: {seq_len} leaves nothing to predict; use 2 or more")
    if not 0 < heldout_fraction < 1:
        raise CorpusError(f"heldout_fraction: {heldout_fraction} is not between 0 and 1; 0.05 is usual")
    if shard_sequences < 1:
        raise CorpusError(f"shard_sequences: {shard_sequences} is no size; use 1 or more, 512 is usual")
    if packing not in get_args(Packing):
        raise CorpusError(f"packing: {packing!r} is unknown; use {' or '.join(map(repr, get_args(Packing)))}")


def _trained(survey: Survey, vocabulary: int, column: str) -> BpeTokenizer:
    """A BPE trained on the train split alone."""
    return train_bpe(texts_of(survey.documents["train"], column), vocabulary)


def _begun(
    split: str, rows: Rows, shard_sequences: int, progress: Progress | None, mapper: Mapper
) -> Iterator[NumberedTable]:
    """The split's tables, the first made already: text too short for a row is refused before anything is written."""
    tables = rows.tables(shard_sequences, mapper, partial(progress, split) if progress else None)
    first = next(tables, None)
    if first is None:
        raise CorpusError(
            f"paths: the {split} split has {rows.lost} tokens, fewer than one row of {rows.seq_len}; "
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
    if rows.packing != "concat":  # how rows were cut before there was a choice; those datasets keep their digest
        spec["packing"] = rows.packing
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
