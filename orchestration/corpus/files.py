"""Which files a corpus is made of, in which order, and which split each document belongs to.

By default the split depends on a document's name alone (its relative path, and its record within a file of several), so
a corpus that grows never moves a document from held-out to train.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from orchestration.console.foreign import shown
from orchestration.corpus.documents import DUPLICATE, NEAR, Document, FileSurvey, path_hash, survey_file
from orchestration.corpus.options import ReadOptions
from orchestration.corpus.places import FoundFiles, LeftOut, Place, bare_name, find_files
from orchestration.corpus.screening import Screen
from orchestration.corpus.similar import first_of_similar
from orchestration.errors import CorpusError

Item = TypeVar("Item")
Result = TypeVar("Result")
SplitBy = Literal["name", "content", "position", "given"]

SPLITS = ("train", "heldout")


class Mapper(Protocol):
    """``map``, or what does the same elsewhere: the function's results in the order of the items."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterable[Result]: ...


class Documents(Sequence[Document]):
    """Some of the documents of surveyed files, in order, kept as two numbers each."""

    def __init__(self) -> None:
        self._surveys: list[FileSurvey] = []
        self._file, self._row = array("q"), array("q")
        self.bytes = 0

    def append(self, survey: FileSurvey, row: int) -> None:
        if not self._surveys or self._surveys[-1] is not survey:
            self._surveys.append(survey)
        self._file.append(len(self._surveys) - 1)
        self._row.append(row)
        self.bytes += survey.sizes[row]

    @property
    def files(self) -> set[str]:
        return {survey.file for survey in self._surveys}

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return self._surveys[self._file[index]].document(self._row[index])


@dataclass
class Survey:
    """The documents of each split in the order in which they become rows, and what was left out."""

    documents: dict[str, Documents] = field(default_factory=lambda: {split: Documents() for split in SPLITS})
    left: LeftOut = field(default_factory=LeftOut)
    records_as_text: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # files that are a document each, not for want of a field
    record_files: int = 0


def stdlib_files(exclude: Sequence[str] = ("test", "tests", "idle_test", "idlelib")) -> list[Path]:
    """The running interpreter's own library, as ``*.py`` files in sorted order, without packages installed into it.

    Folders named in ``exclude`` are left out: by default the test suites, which not every distribution ships.
    """
    files = find_files(Path(sysconfig.get_path("stdlib")), ("*.py",))
    return [Path(path) for relative, path in files.items() if not {*Path(relative).parts} & {*exclude}]


def split_of(relative: str, heldout_fraction: float) -> str:
    """``heldout`` where the first 8 bytes of the path's SHA-256, as a fraction of 2⁶⁴, are under the fraction."""
    return _side(path_hash(relative), heldout_fraction)


def _side(digest: bytes, heldout_fraction: float) -> str:
    return "heldout" if int.from_bytes(digest[:8], "big") / 2**64 < heldout_fraction else "train"


def survey_files(
    files: dict[str, Place],
    heldout_fraction: float,
    progress: Callable[[str, int, int], None] | None = None,
    *,
    options: ReadOptions = ReadOptions(),
    split_by: SplitBy = "name",
    heldout: dict[str, Place] | None = None,
    screen: Screen | None = None,
    near_duplicates: float | None = None,
    mapper: Mapper = map,
) -> Survey:
    """Read each file once and put its documents into their splits, or count them among what is left out.

    Of exact duplicates the first by path is kept, in whichever split it falls: no held-out text is trained on. Files
    are put in the order of their paths' SHA-256: neighbours in a folder are alike, and a plan that reads blocks of
    neighbouring rows would see one kind of text after the other. The records of one file stay in its order.

    ``split_by`` "content" goes by the text's SHA-256 and keeps files in the order of their paths, so that the same
    documents in the same order give the same rows whatever files they lie in. ``heldout`` gives the held-out files
    themselves; a text that is in both is not trained on. ``screen`` leaves out what shares text with an evaluation set,
    ``near_duplicates`` what is as similar as that to a document kept before it; the screen has to take signatures.
    """
    survey = Survey()
    given = _surveyed(survey, heldout or {}, "held-out files", progress, options, screen, mapper)
    surveys = _surveyed(survey, files, "survey", progress, options, screen, mapper)
    kept = _first_of_equals([*given, *surveys], survey.left)
    if near_duplicates is not None:
        kept = first_of_similar(kept, near_duplicates, survey.left)
    heldout_files, main_files = kept[: len(given)], kept[len(given) :]

    def place(found: list[tuple[FileSurvey, Iterator[int]]], split: Callable[[Document], str]) -> None:
        if split_by != "content":
            found.sort(key=lambda item: (path_hash(item[0].file), os.fsencode(item[0].file)))
        for file, rows in found:
            for row in rows:
                survey.documents[split(file.document(row))].append(file, row)

    def by_name(document: Document) -> str:
        name = bare_name(document.file)
        name = name if document.record is None else f"{name}#{document.record}"
        return _side(hashlib.sha256(os.fsencode(name)).digest(), heldout_fraction)

    def by_content(document: Document) -> str:
        return _side(document.sha256, heldout_fraction)

    place(heldout_files, lambda _: "heldout")
    place(main_files, by_content if split_by == "content" else by_name if heldout is None else lambda _: "train")
    return survey


def split_tries(survey: Survey, split: SplitBy, heldout_fraction: float, whole: bool) -> list[tuple[SplitBy, int]]:
    """How to split, and how near to where a line begins, one after the other until each side has a row. CorpusError
    where documents must stay ``whole`` and one side has none."""
    empty = [part for part, documents in survey.documents.items() if not documents]
    if whole:
        if lacking := [part for part in empty if part == "train" or heldout_fraction or split == "given"]:
            pairs = sum(map(len, survey.documents.values()))
            left = "".join(f"; {count:,} {reason}" for reason, count in survey.left.counts.items())
            raise CorpusError(
                f"paths: of {pairs:,} pairs the {lacking[0]} split gets none{left}; give more pairs, another "
                "--heldout-fraction (0 for none), or files of their own with --heldout"
            )
        return [(split, NEAR)]
    if split in ("name", "content") and heldout_fraction and empty:
        split = "position"
    tries: list[tuple[SplitBy, int]] = [(split, NEAR)]
    # Fewer documents than give one held-out one: that a few short ones were held out was chance.
    if split in ("name", "content") and sum(map(len, survey.documents.values())) * heldout_fraction < 1:
        tries.append(("position", NEAR))
    if tries[-1][0] == "position":
        tries.append(("position", 0))  # long lines may have left too little behind the edge
    return tries


def _surveyed(
    survey: Survey,
    files: dict[str, Place],
    stage: str,
    progress: Callable[[str, int, int], None] | None,
    options: ReadOptions,
    screen: Screen | None,
    mapper: Mapper,
) -> list[FileSurvey]:
    """Every file's survey; progress is told bytes as they lie in the files."""
    sizes = files.sizes if isinstance(files, FoundFiles) else {}
    done, everything = 0, sum(sizes.values())
    if isinstance(files, FoundFiles):
        survey.left.merge(files.left)
    found = []
    for file in mapper(partial(survey_file, options=options, screen=screen), files.items()):
        found.append(file)
        survey.left.merge(file.left)
        if file.records_as_text:
            survey.records_as_text.append(shown(file.file))
        elif file.single and len(file.sizes):
            survey.texts.append(shown(file.file))
        survey.record_files += not file.single
        done += sizes.get(file.file, 0)
        if progress:
            progress(stage, done, everything)
    return found


def _first_of_equals(files: list[FileSurvey], left: LeftOut) -> list[tuple[FileSurvey, Iterator[int]]]:
    """Each file with the rows of its documents that no document before them equals."""
    counts = [len(file.sizes) for file in files]
    words_N4 = np.frombuffer(b"".join(file.digests for file in files), dtype="<u8").reshape(-1, 4)
    order = np.lexsort(words_N4.T)  # stable, so of equals the first comes first
    fresh = np.ones(len(order), dtype=bool)
    sorted_N4 = words_N4[order]
    fresh[order[1:]] = (sorted_N4[1:] != sorted_N4[:-1]).any(axis=1)
    found: list[tuple[FileSurvey, Iterator[int]]] = []
    begin = 0
    for file, count in zip(files, counts, strict=True):
        mask = fresh[begin : begin + count]
        for row in np.flatnonzero(~mask)[:10]:
            left.add(DUPLICATE, shown(file.document(int(row)).relative), 0)
        if count - int(mask.sum()):
            left.counts[DUPLICATE] = left.counts.get(DUPLICATE, 0) + count - int(mask.sum())
        found.append((file, map(int, np.flatnonzero(mask))))
        begin += count
    return found


__all__ = [
    "SPLITS",
    "Documents",
    "Mapper",
    "Survey",
    "find_files",
    "split_of",
    "split_tries",
    "stdlib_files",
    "survey_files",
]
