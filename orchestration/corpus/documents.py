"""The documents inside a file: a text file is one, a JSON-lines, JSON, CSV or Parquet file has one in each record.

A file is read twice, first for its documents' digests, then for their text; neither reading holds more than one record
or a few rows. What is kept of a document between the two is some sixty bytes.
"""

from __future__ import annotations

import hashlib
import os
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from orchestration.console.foreign import shown
from orchestration.corpus.options import Kind, ReadOptions
from orchestration.corpus.pairs import plain
from orchestration.corpus.places import BadRecord, LeftOut, Place, bare_name, named
from orchestration.corpus.records import is_archive, kind_of, records, text_of
from orchestration.corpus.screening import CONTAMINATED, Screen
from orchestration.errors import CorpusError

EMPTY = "empty documents skipped"
NOT_TEXT = "files skipped, not UTF-8 text"
BAD_RECORD = "records skipped, unusable"
NO_RECORDS = "files skipped, they hold no records"
ARCHIVE = "archives skipped (unpack them)"
DUPLICATE = "exact duplicates dropped"

Ending = Literal["closed", "open", "cut"]

NEAR = 4096  # bytes that the edge between two splits may move to where a line begins

_DIGEST = 32


@dataclass
class FileSurvey:
    """What the first reading of a file found: its documents' SHA-256s (32 bytes each), sizes in UTF-8 bytes and, where
    the file holds several, their numbers; of a text file, which is one document, its pieces' SHA-256s and sizes."""

    file: str
    place: Place
    kind: Kind
    digests: bytes = b""
    sizes: array[int] = field(default_factory=lambda: array("q"))
    records: array[int] = field(default_factory=lambda: array("q"))
    piece_digests: bytes = b""
    piece_sizes: array[int] = field(default_factory=lambda: array("q"))
    left: LeftOut = field(default_factory=LeftOut)
    records_as_text: bool = False
    signatures: bytes = b""  # of each document, where near-duplicates are looked for
    ends_within: bool = False  # token ids of a document hold the one that ends a document before its end

    @property
    def single(self) -> bool:
        return self.kind == "text"

    def document(self, row: int) -> Document:
        record = None if self.single else self.records[row]
        digest = self.digests[_DIGEST * row : _DIGEST * (row + 1)]
        return Document(self, row, record, digest, self.sizes[row])


@dataclass(frozen=True, slots=True)
class Document:
    """One document: the survey of its file and its place in it, its record (None where the file is the document), its
    text's SHA-256 and size in UTF-8 bytes."""

    survey: FileSurvey
    row: int
    record: int | None
    sha256: bytes
    size: int

    @property
    def file(self) -> str:
        return self.survey.file

    @property
    def relative(self) -> str:
        """The document's name within the corpus: the file's path, with ``#record`` where it holds several."""
        return self.file if self.record is None else f"{self.file}#{self.record}"

    def parts(self) -> list[Part]:
        """What is read and tokenised at once: the document, or the pieces of a long text."""
        survey = self.survey
        if self.record is not None:
            return [Part(survey.place, survey.kind, self.record, self.sha256, self.size)]
        last = len(survey.piece_sizes) - 1
        return [
            Part(
                survey.place,
                survey.kind,
                number,
                survey.piece_digests[_DIGEST * number : _DIGEST * (number + 1)],
                size,
                begins=number == 0,
                ending="closed" if number == last else "open",
            )
            for number, size in enumerate(survey.piece_sizes)
        ]


@dataclass(frozen=True, slots=True)
class Part:
    """A document, or a piece of one: where it lies, its SHA-256 and size, and how it lies in the document.

    ``begins`` says that a text begins with it, ``ending`` that the document ends ("closed"), goes on ("open"), or that
    its rest belongs to the other split ("cut"). ``cut`` and ``tail`` take one side of the part: what lies before (or
    from) that byte, or the line that begins within ``near`` bytes after it.
    """

    place: Place
    kind: Kind
    number: int
    sha256: bytes
    size: int
    begins: bool = True
    ending: Ending = "closed"
    cut: int | None = None
    tail: bool = False
    near: int = NEAR

    def side(self, text: bytes, ids: bool = False) -> bytes:
        """The side of the text that is asked for; the cut is where a line begins, or a character if none is near. Token
        ids (``ids``) are cut between two of them."""
        if self.cut is None:
            return text
        if ids:
            at = self.cut - self.cut % 4
            return text[at:] if self.tail else text[:at]
        at = text.find(b"\n", self.cut, self.cut + self.near) + 1
        if not 0 < at < len(text):
            at = self.cut
            while at < len(text) and text[at] & 0xC0 == 0x80:
                at += 1
        return text[at:] if self.tail else text[:at]


def survey_file(item: tuple[str, Place], options: ReadOptions, screen: Screen | None = None) -> FileSurvey:
    """The documents of one (path within the corpus, place), in the file's order.

    Raises CorpusError for a file that cannot be read, a broken record, or one without a text column, unless
    ``options`` say that such are skipped.
    """
    file, place = item
    if is_archive(place):
        survey = FileSurvey(file, place, "text")
        survey.left.add(ARCHIVE, shown(file))
        return survey
    survey = FileSurvey(file, place, "text")
    try:
        survey.kind, survey.records_as_text = kind_of(place, options)
        if survey.single and (options.ids or options.chat is not None or options.pairs is not None):
            survey.records_as_text = False
            survey.left.add(NO_RECORDS, shown(file))  # such as the README beside a published dataset
        elif survey.single:
            _survey_text(survey, options, screen)
        else:
            _survey_records(survey, options, screen)
    except BadRecord as error:  # not of one record but of the file, which cannot be read on
        if survey.single:
            survey.left.add(NOT_TEXT, shown(file))
        elif options.on_bad_record == "skip":
            survey.left.add(BAD_RECORD, f"{shown(file)}: {error.problem}")
        else:
            raise error.of(place) from error
    except CorpusError as error:
        if options.on_bad_record != "skip":
            raise
        survey.left.add(BAD_RECORD, str(error))
    return survey


def _survey_text(survey: FileSurvey, options: ReadOptions, screen: Screen | None) -> None:
    whole, digests = hashlib.sha256(), bytearray()
    sizes = array("q")
    screened = screen and screen.document()
    for _, piece in records(survey.place, survey.kind, options):
        if screened:
            screened.feed(piece)
        whole.update(piece)
        digests += hashlib.sha256(piece).digest()
        sizes.append(len(piece))
    if not sizes:
        survey.left.add(EMPTY, shown(survey.file))
        return
    if screened:
        survey.signatures = screened.signature()
        if screened.contaminated:
            survey.left.add(CONTAMINATED, shown(survey.file))
            return
    survey.digests, survey.sizes = whole.digest(), array("q", [sum(sizes)])
    survey.piece_digests, survey.piece_sizes = bytes(digests), sizes


def _survey_records(survey: FileSurvey, options: ReadOptions, screen: Screen | None) -> None:
    digests, signatures = bytearray(), bytearray()
    try:
        for number, raw in records(survey.place, survey.kind, options):
            try:
                text = text_of(survey.kind, number, raw, options)
            except BadRecord as error:
                if options.on_bad_record != "skip":
                    raise error.of(survey.place) from error
                survey.left.add(BAD_RECORD, f"{shown(survey.file)} {error.problem}")
                continue
            if not text:
                survey.left.add(EMPTY, f"{shown(survey.file)}#{number}")
                continue
            words = text if options.pairs is None else plain(text)
            if screen:
                screened = screen.document()
                screened.feed(words)
                if screened.contaminated:
                    survey.left.add(CONTAMINATED, f"{shown(survey.file)}#{number}")
                    continue
                signatures += screened.signature()
            digests += hashlib.sha256(text).digest()
            survey.sizes.append(len(words))
            survey.records.append(number)
            if options.ids and not survey.ends_within:
                survey.ends_within = bool((np.frombuffer(text, dtype="<u4")[:-1] == options.end_of_text).any())
    finally:
        survey.signatures = bytes(signatures)
        survey.digests = bytes(digests)  # also of those before the damage, where what follows is skipped


class _Cursor:
    """A file that is read forwards, kept open from one group of documents to the next."""

    def __init__(self, place: Place, kind: Kind, options: ReadOptions) -> None:
        self.place, self.kind, self.options = place, kind, options
        self._next = 0
        self._records: Iterator[tuple[int, Any]] | None = None

    def raw(self, number: int) -> Any:
        """The raw record; StopIteration if the file has become shorter."""
        if self._records is None or number < self._next:
            self.close()
            self._records = records(self.place, self.kind, self.options, number)
        for found, raw in self._records:
            self._next = found + 1
            if found == number:
                return raw
        raise StopIteration

    def close(self) -> None:
        if self._records is not None:
            self._records.close()  # type: ignore[attr-defined]
            self._records = None


class _Open(threading.local):
    """The files that a thread keeps open: those of a split whose rows are made, and of what was read before it."""

    def __init__(self) -> None:
        self.cursors: list[_Cursor] = []


_open = _Open()
_CURSORS = 2


def _cursor(place: Place, kind: Kind, options: ReadOptions) -> _Cursor:
    for cursor in _open.cursors:
        if (cursor.place, cursor.kind, cursor.options) == (place, kind, options):
            return cursor
    while len(_open.cursors) >= _CURSORS:
        _open.cursors.pop(0).close()
    _open.cursors.append(_Cursor(place, kind, options))
    return _open.cursors[-1]


def close_files() -> None:
    """Close the files that this thread keeps open for the documents that follow."""
    while _open.cursors:
        _open.cursors.pop().close()


def read_parts(parts: Sequence[Part], options: ReadOptions) -> list[bytes]:
    """The UTF-8 text of each; CorpusError if one changed since the survey, as the dataset's spec already names it."""
    texts = []
    for part in parts:
        text: bytes | None = None
        with suppress(StopIteration, BadRecord):  # what was well-formed and is not any more has changed, too
            cursor = _cursor(part.place, part.kind, options)
            text = text_of(part.kind, part.number, cursor.raw(part.number), options)
        if text is None or hashlib.sha256(text).digest() != part.sha256:
            close_files()
            raise CorpusError(f"paths: {named(part.place)} changed while it was being read; add the corpus again")
        texts.append(part.side(text, options.ids))
    return texts


def path_hash(relative: str) -> bytes:
    """SHA-256 of a relative path: what decides a file's split and its place in it, wherever the folder lies."""
    return hashlib.sha256(os.fsencode(bare_name(relative))).digest()
