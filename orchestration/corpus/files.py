"""Which files a corpus is made of, in which order, and which split each document belongs to.

The split depends on a document's name alone (its relative path, and its record within a file of several), so a corpus
that grows never moves a document from held-out to train.
"""

import fnmatch
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from orchestration.corpus.documents import Document, path_hash, survey_file
from orchestration.errors import CorpusError

Item = TypeVar("Item")
Result = TypeVar("Result")

SPLITS = ("train", "heldout")
_SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages"}


class Mapper(Protocol):
    """``map``, or what does the same elsewhere: the function's results in the order of the items."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterable[Result]: ...


@dataclass
class Survey:
    """The documents of each split in the order of their files' hashes, and the names of what was left out."""

    documents: dict[str, list[Document]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    duplicates: list[str] = field(default_factory=list)
    undecodable: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)


def stdlib_files(exclude: Sequence[str] = ("test", "tests", "idle_test", "idlelib")) -> list[Path]:
    """The running interpreter's own library, as ``*.py`` files in sorted order, without packages installed into it.

    Folders named in ``exclude`` are left out: by default the test suites, which not every distribution ships.
    """
    files = find_files(Path(sysconfig.get_path("stdlib")), ("*.py",))
    return [path for relative, path in files.items() if not {*Path(relative).parts} & {*exclude}]


def find_files(
    paths: Sequence[Path] | Path, patterns: Sequence[str] = ("*",), *, root: Path | None = None
) -> dict[str, Path]:
    """Relative POSIX path → file, sorted by the relative path's bytes.

    Paths are relative to ``root``; by default to the folder given, or to the deepest one that holds all paths. Folders
    are searched for names that match a pattern, hidden ones and installed packages left out, links to folders not
    followed; a file that is named itself is taken whatever its name. Raises CorpusError where there is nothing.
    """
    given = [Path(path).absolute() for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    for path in given:
        if not path.exists():
            raise CorpusError(f"paths: {path} does not exist; give a text file or a folder that holds some")
    found: set[Path] = set()
    for path in given:
        found.update([path] if path.is_file() else _below(path, patterns))
    if not found:
        raise CorpusError(
            f"paths: no file matches {', '.join(patterns)} in {', '.join(map(str, given)) or 'no path'}; "
            "give another folder or pattern"
        )
    base = root.absolute() if root else Path(os.path.commonpath([p.parent if p.is_file() else p for p in given]))
    try:
        relative = {path.relative_to(base).as_posix(): path for path in found}
    except ValueError:
        raise CorpusError(f"root: {base} does not hold every path given; use a folder above all of them") from None
    return dict(sorted(relative.items(), key=lambda item: os.fsencode(item[0])))


def split_of(relative: str, heldout_fraction: float) -> str:
    """``heldout`` where the first 8 bytes of the path's SHA-256, as a fraction of 2⁶⁴, are under the fraction."""
    position = int.from_bytes(path_hash(relative)[:8], "big") / 2**64
    return "heldout" if position < heldout_fraction else "train"


def survey_files(
    files: dict[str, Path],
    heldout_fraction: float,
    progress: Callable[[str, int, int], None] | None = None,
    *,
    column: str = "text",
    mapper: Mapper = map,
) -> Survey:
    """Read each file once and put its documents into their splits, or among the empty, duplicates or undecodable.

    Of exact duplicates the first is kept, in whichever split it falls: no held-out text is trained on. Files are put in
    the order of their paths' SHA-256: neighbours in a folder are alike, and a plan that reads blocks of neighbouring
    rows would see one kind of text after the other. The records of one file stay in its order.
    """
    survey = Survey()
    seen: set[bytes] = set()
    surveyed = mapper(partial(survey_file, column=column), files.items())
    for done, documents in enumerate(surveyed, start=1):
        for document in documents:
            if document.left:
                (survey.empty if document.left == "empty" else survey.undecodable).append(document.relative)
            elif document.sha256 in seen:
                survey.duplicates.append(document.relative)
            else:
                seen.add(document.sha256)
                survey.documents[split_of(document.relative, heldout_fraction)].append(document)
        if progress:
            progress("survey", done, len(files))
    for kept in survey.documents.values():
        kept.sort(key=lambda document: (path_hash(document.file), document.record or 0))
    return survey


def _below(folder: Path, patterns: Sequence[str]) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS and not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns) and path.is_file():
                yield path
