"""Text into the lake: documents → tokens → rows of one length in shards, the same bytes whoever adds them and whenever.

Two passes keep memory at about one shard: the first reads every file for its digest, the second for its tokens.
"""

from __future__ import annotations

import codecs
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from datalake import Lake, Manifest, Source, check_name, digest_of
from datalake.shards.content import combine
from datalake.shards.roles import SPEC_FIELD, VERSION
from orchestration.corpus.documents import DUPLICATE, EMPTY, NOT_TEXT, Document, close_files, path_hash
from orchestration.corpus.encodings import guessed_encoding
from orchestration.corpus.files import SPLITS, SplitBy, Survey, find_files, split_tries, stdlib_files, survey_files
from orchestration.corpus.held import Cluster
from orchestration.corpus.options import FORMATS, ReadOptions
from orchestration.corpus.packing import Packing
from orchestration.corpus.pair_rows import TOO_LONG, packing_of
from orchestration.corpus.places import LeftOut, Place, compression_of
from orchestration.corpus.result import CorpusResult
from orchestration.corpus.rows import PositionSplit, Rows, WrittenRows, texts_of, write_held, write_rows
from orchestration.corpus.screening import ScreenOptions, open_screen
from orchestration.corpus.tokenizer_files import chat_template, is_tokenizer_path, made_tokenizer, open_tokenizer
from orchestration.corpus.tokenizers import (
    BpeTokenizer,
    ByteTokenizer,
    TextTokenizer,
    parse_tokenizer,
    tokenizer_of,
    train_bpe,
)
from orchestration.errors import CorpusError, TooLittleText

__all__ = ["CorpusResult", "add_corpus", "stdlib_files"]

Progress = Callable[[str, int, int], None]

# What is left out of every corpus without a loss: nothing, or what is there already.
_NO_LOSS = {EMPTY, DUPLICATE}


def add_corpus(
    lake: Lake,
    name: str,
    paths: Sequence[Place] | Place,
    *,
    root: Path | None = None,
    patterns: Sequence[str] = ("*",),
    where: Sequence[str] = (),
    follow_links: Path | None = None,
    options: ReadOptions | None = None,
    text_column: str = "text",
    messages: bool = False,
    template: Path | None = None,
    tokenizer: str = "bytes",
    end_of_text: str | None = None,
    split_pattern: str | None = None,
    lossy: bool = False,
    seq_len: int = 512,
    packing: Packing = "concat",
    heldout_fraction: float = 0.05,
    heldout_paths: Sequence[Place] = (),
    split_by: SplitBy = "name",
    screening: ScreenOptions = ScreenOptions(),
    shard_sequences: int = 512,
    message: str = "",
    progress: Progress | None = None,
    cluster: Cluster | None = None,
) -> CorpusResult:
    """Tokenise documents into the datasets ``name`` and ``name``-heldout.

    Files (or URLs) are found as `corpus_places` says and read as ``options`` say; the field ``text_column`` of each
    record holds a document, or with ``messages`` a conversation that ``template``, or the tokenizer's own, renders.
    ``tokenizer`` is ``bytes``, ``bpe:N`` (trained here, on the train split), that of a dataset of the lake
    ("NAME@VERSION"), or a file or folder that `tokenizer_files` reads, whose token ``end_of_text`` ends a document.
    Each document is closed by an end-of-text token and laid into rows of ``seq_len`` tokens as ``packing`` says. With
    ``options.pairs`` (prompts and answers) rows hold whole pairs and padding, and a column ``roles`` that says which
    tokens are answers (`datalake.shards.roles`); ``template`` then renders prompt and answer as a conversation.

    ``heldout_fraction`` of the documents are held out, by their names or their content (``split_by``); where they are
    too few for that, the last share of each, by position. With ``heldout_paths`` those files are held out, and with a
    fraction of 0 nothing is. ``screening`` leaves out near-duplicates and what shares text with an evaluation set.

    Columns: sequence_id int64, tokens a fixed-size binary of seq_len little-endian uint16 (uint32 where the vocabulary
    has more than 65,536 tokens), target_bytes int32 (UTF-8 bytes that tokens 1 to seq_len−1 stand for, the divisor of
    bits per byte).

    Adding the same files again returns the same versions. With a ``cluster`` all that is costly is done there, with the
    same bytes: its nodes read the files, keep the tokens and write the shards, and none of that passes through here.
    ``progress`` is told (stage, bytes done, bytes in all).

    Raises CorpusError (bad argument, nothing to read, too little text for one row, a file that is broken or changes
    meanwhile) and TokenizerError (unknown or unusable tokenizer, vocabulary over 2**31).
    """
    for dataset in (name, f"{name}-heldout"):
        check_name(dataset, "dataset")
    reading = replace(options or ReadOptions(), column=text_column)
    packing = packing_of(reading.pairs, packing, split_by)
    _check_arguments(reading, seq_len, heldout_fraction, shard_sequences, packing, split_by)
    lake.check_writable()
    files = open_tokenizer(Path(tokenizer), split_pattern) if is_tokenizer_path(tokenizer) else None
    given = made_tokenizer(files, end_of_text, lossy=lossy) if files else tokenizer_of(lake, tokenizer)
    vocabulary = None if given else parse_tokenizer(tokenizer)
    if messages or (reading.pairs and template):
        special = given if isinstance(given, BpeTokenizer) else None
        reading = replace(reading, chat=chat_template(template, files, special))
        given = special.for_templates() if special else given
    if reading.ids:
        if vocabulary is not None:
            raise CorpusError(f"ids: {tokenizer} is trained on text, and token ids are none; give their tokenizer")
        reading = replace(reading, end_of_text=(given or ByteTokenizer()).end_of_text)
    screen = open_screen(screening, reading)
    found = find_files(paths, patterns, root=root, follow_links=follow_links, where=where)
    heldout_files = find_files(heldout_paths, follow_links=follow_links) if heldout_paths else None
    survey = survey_files(
        found,
        heldout_fraction,
        progress,
        options=reading,
        split_by=split_by,
        heldout=heldout_files,
        screen=screen if screen.wanted else None,
        near_duplicates=screening.near_duplicates,
        mapper=cluster or map,
    )
    _name_encodings(survey, {**found, **(heldout_files or {})}, reading)
    if given is None and vocabulary is None:
        given_text: TextTokenizer | None = ByteTokenizer()
    else:
        given_text = given
    settings = _Settings(reading, heldout_fraction, packing, seq_len, lossy, shard_sequences)
    split: SplitBy = "given" if heldout_paths else split_by
    tries = split_tries(survey, split, heldout_fraction, whole=packing == "whole")
    for split, near in tries:
        try:
            begun = _begun(survey, settings, split, near, given_text, vocabulary, progress, cluster)
            break
        except TooLittleText:
            if (split, near) == tries[-1]:
                raise
    text, rows = begun.text, begun.rows
    if isinstance(text, BpeTokenizer):
        lake.store.put_if_absent(text.key, text.json_bytes)
    manifests = {}
    for part, tables in begun.tables.items():
        source = _source(part, rows[part], settings, split)
        if cluster:
            write: Any = partial(write_held, lake.store, source, text)
            shards = list(cluster.with_held(write, tables))
        else:
            shards = [write_rows(lake.store, source, table) for table in tables]
        if rows[part].too_long:
            survey.left.add(TOO_LONG, f"of {part}", rows[part].too_long)
        manifests[part] = _manifest(source, rows[part], shards, survey.left)
    close_files()

    # Nothing is named before both splits are whole; held-out first, so that whoever sees train can evaluate on it.
    held = manifests.get("heldout")
    heldout = lake.datasets.commit(f"{name}-heldout", held, message=message) if held else None
    train = lake.datasets.commit(name, manifests["train"], message=message)
    counts = survey.left.counts
    kept = list(survey.documents.values())
    return CorpusResult(
        train=train,
        heldout=heldout,
        files=len(set().union(*(documents.files for documents in kept))),
        documents=sum(map(len, kept)),
        bytes=sum(documents.bytes for documents in kept),
        duplicates=counts.get(DUPLICATE, 0),
        undecodable=counts.get(NOT_TEXT, 0),
        empty=counts.get(EMPTY, 0),
        left_out=counts,
        first_left_out=survey.left.first,
        split=split,
        records_as_text=survey.records_as_text,
        compressed=dict(Counter(PurePosixPath(name).suffix for name in found if compression_of(name))),
        tokens={split: made.count * seq_len for split, made in rows.items()},
        tokens_dropped={split: made.lost for split, made in rows.items()},
        vocab_size=text.vocab_size,
        tokenizer_digest=text.describe().get("tokenizer_digest"),
        evaluation_too_short=screen.too_short,
        texts_beside_records=tuple(survey.texts) if survey.record_files else (),
        answers={split: made.answers for split, made in rows.items()} if reading.pairs else {},
        padding={split: made.padding for split, made in rows.items()} if reading.pairs else {},
    )


def _check_arguments(
    options: ReadOptions,
    seq_len: int,
    heldout_fraction: float,
    shard_sequences: int,
    packing: str,
    split_by: str,
) -> None:
    if not options.column:
        raise CorpusError("text_column: '' names no field; give the one that holds the text")
    if seq_len < 2:
        raise CorpusError(f"seq_len: {seq_len} leaves nothing to predict; use 2 or more")
    if not 0 <= heldout_fraction < 1:
        raise CorpusError(f"heldout_fraction: {heldout_fraction} is not between 0 and 1; 0.05 is usual")
    if shard_sequences < 1:
        raise CorpusError(f"shard_sequences: {shard_sequences} is no size; use 1 or more, 512 is usual")
    if packing not in get_args(Packing):
        raise CorpusError(f"packing: {packing!r} is unknown; use {' or '.join(map(repr, get_args(Packing)))}")
    if split_by not in ("name", "content", "position"):
        raise CorpusError(f"split_by: {split_by!r} is unknown; use 'name', 'content' or 'position'")
    if options.format not in FORMATS:
        raise CorpusError(f"format: {options.format!r} is unknown; use one of {', '.join(FORMATS)}")
    if options.on_bad_record not in ("fail", "skip"):
        raise CorpusError(f"on_bad_record: {options.on_bad_record!r} is unknown; use 'fail' or 'skip'")
    if options.encoding is not None:
        try:
            "".encode(options.encoding)
            codecs.getincrementaldecoder(options.encoding)
        except (LookupError, UnicodeError) as error:
            raise CorpusError(f"encoding: {options.encoding!r} is unknown; use for example 'cp1252'") from error


def _name_encodings(survey: Survey, found: Mapping[str, Place], options: ReadOptions) -> None:
    """Say of the first files that are not in the encoding which one they seem to be in."""
    names = survey.left.first.get(NOT_TEXT, [])
    if not names:
        return
    guesses = {name: guessed_encoding(found[name]) for name in names[:3] if name in found}
    survey.left.first[NOT_TEXT] = [f"{name}, {guesses[name]}" if guesses.get(name) else name for name in names]
    if not any(survey.documents.values()):
        raise CorpusError(
            f"encoding: {survey.left.counts[NOT_TEXT]:,} files are not {options.encoding or 'UTF-8'} "
            f"(first: {survey.left.first[NOT_TEXT][0]}) and nothing else is there; give their encoding"
        )


@dataclass(frozen=True)
class _Settings:
    options: ReadOptions
    heldout_fraction: float
    packing: Packing
    seq_len: int
    lossy: bool
    shard_sequences: int


@dataclass(frozen=True)
class _Begun:
    """The rows of each split, their first table made already: text too short for a row is refused before anything is
    written."""

    text: TextTokenizer
    rows: dict[str, Rows]
    tables: dict[str, Iterator[Any]]


def _begun(
    survey: Survey,
    settings: _Settings,
    split: SplitBy,
    near: int,
    given: TextTokenizer | None,
    vocabulary: int | None,
    progress: Progress | None,
    cluster: Cluster | None,
) -> _Begun:
    documents: Mapping[str, Sequence[Document]] = survey.documents
    sides: dict[str, PositionSplit | None] = dict.fromkeys(SPLITS)
    if split == "position":
        whole = sorted(
            chain(*documents.values()), key=lambda d: (path_hash(d.file), os.fsencode(d.file), d.record or 0)
        )
        documents = dict.fromkeys(SPLITS, whole)
        # At least about a row: a token of a vocabulary stands for a few bytes.
        least = settings.seq_len * (1 if isinstance(given, ByteTokenizer) else 6) // max(1, len(whole))
        sides = {part: PositionSplit(settings.heldout_fraction, least, part == "heldout", near) for part in SPLITS}
    wanted = [part for part in SPLITS if part == "train" or settings.heldout_fraction or split == "given"]
    train = partial(_trained, settings.options, sides["train"], vocabulary or 0)
    text = given or (cluster.alone(train, documents["train"]) if cluster else train(documents["train"]))
    rows = {
        part: Rows(
            documents[part],
            settings.options,
            text,
            settings.packing,
            settings.seq_len,
            position=sides[part],
            lossy=settings.lossy,
        )
        for part in wanted
    }
    tables: dict[str, Iterator[Any]] = {}
    for part in wanted:
        size, advance = settings.shard_sequences, partial(progress, part) if progress else None
        made: Iterator[Any] = rows[part].shards(cluster, size, advance) if cluster else rows[part].tables(size, advance)
        first = next(made, None)
        if first is None:
            left = "".join(f"; {count:,} {reason}" for reason, count in survey.left.counts.items())
            raise TooLittleText(
                f"paths: the {part} split has {rows[part].lost} tokens, fewer than one row of {settings.seq_len}{left}"
                "; give more text, a smaller seq_len or another heldout_fraction"
            )
        tables[part] = chain([first], made)
    return _Begun(text, rows, tables)


def _trained(
    options: ReadOptions, side: PositionSplit | None, vocabulary: int, documents: Sequence[Document]
) -> BpeTokenizer:
    try:
        return train_bpe(texts_of(documents, options, side), vocabulary)
    finally:
        close_files()


_SPLIT_NAMES = {
    "name": "sha256(relative path)",
    "content": "sha256(text)",
    "position": "position",
    "given": "given files",
}


def _source(part: str, rows: Rows, settings: _Settings, split: SplitBy) -> Source:
    """All that a split's rows depend on. Only its own documents count, so held-out stays put when train grows."""
    corpus = hashlib.sha256()
    for document in rows.documents:
        # What is split by its content is the same corpus whatever the files are called.
        name = b"" if split == "content" else os.fsencode(document.relative)
        corpus.update(name + b"\0" + document.sha256)
    by: dict[str, Any] = {"part": part, "by": _SPLIT_NAMES[split]}
    if split != "given":
        by["heldout_fraction"] = settings.heldout_fraction
    spec: dict[str, Any] = {
        "family": "text",
        **rows.tokenizer.describe(),
        "seq_len": rows.seq_len,
        "split": by,
        "corpus_digest": corpus.hexdigest(),
    }
    # Only what is not as it was before there was a choice: those datasets keep their digest.
    if rows.packing != "concat":
        spec["packing"] = rows.packing
    if settings.options.pairs is not None:
        spec[SPEC_FIELD] = VERSION
    if settings.lossy:
        spec["lossy"] = True
    if settings.options.chat is not None or any(document.survey.ends_within for document in rows.documents):
        spec["special_tokens_in_text"] = True
    return Source(
        kind="text",
        spec=spec,
        spec_digest=digest_of(spec),
        seed=None,
        generator=None,
        shard_sequences=settings.shard_sequences,
        format=2,
    )


def _manifest(source: Source, rows: Rows, shards: Sequence[WrittenRows], left: LeftOut) -> Manifest:
    lost = {reason: count for reason, count in left.counts.items() if reason not in _NO_LOSS}
    return Manifest(
        kind="text",
        source=source,
        seq_len=rows.seq_len,
        vocab_size=rows.tokenizer.vocab_size,
        sequences=rows.count,
        tokens=rows.count * rows.seq_len,
        text_bytes=sum(each.text_bytes for each in shards),
        content_digest=combine(each.content for each in shards),
        shards=tuple(each.ref for each in shards),
        left_out=left.counts if lost else None,
    )
