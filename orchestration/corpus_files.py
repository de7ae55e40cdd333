"""Which files a corpus is made of, in which order, and which split each belongs to.

The split depends on a file's relative path alone, so a corpus that grows never moves a file from held-out to train.
"""

import fnmatch
import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestration.errors import CorpusError

SPLITS = ("train", "heldout")
_SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages"}


@dataclass(frozen=True)
class Document:
    """One file that made it into a split: where it is, its path within the corpus, its SHA-256, its size in bytes."""

    path: Path
    relative: str
    sha256: bytes
    size: int

    def read(self) -> bytes:
        """The file's bytes; CorpusError if they changed since the survey, as the dataset's spec already names them."""
        content = _content(self.path)
        if hashlib.sha256(content).digest() != self.sha256:
            raise CorpusError(f"paths: {self.path} changed while it was being read; add the corpus again")
        return content


@dataclass
class Survey:
    """The documents of each split in path order, and the relative paths of what was left out."""

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


def path_hash(relative: str) -> bytes:
    """SHA-256 of a relative path: what decides a file's split and its place in it, wherever the folder lies."""
    return hashlib.sha256(os.fsencode(relative)).digest()


def split_of(relative: str, heldout_fraction: float) -> str:
    """``heldout`` where the first 8 bytes of the path's SHA-256, as a fraction of 2⁶⁴, are under the fraction."""
    position = int.from_bytes(path_hash(relative)[:8], "big") / 2**64
    return "heldout" if position < heldout_fraction else "train"


def survey_files(
    files: dict[str, Path], heldout_fraction: float, progress: Callable[[str, int, int], None] | None = None
) -> Survey:
    """Read each file once and put it into its split, or among the empty, the exact duplicates or the undecodable.

    Of exact duplicates the first is kept, in whichever split it falls: no held-out text is trained on. Documents are
    put in the order of their paths' SHA-256: neighbours in a folder are alike, and a plan that reads blocks of
    neighbouring rows would see one kind of text after the other.
    """
    survey = Survey()
    seen: set[bytes] = set()
    for done, (relative, path) in enumerate(files.items(), start=1):
        content = _content(path)
        digest = hashlib.sha256(content).digest()
        if not content:
            survey.empty.append(relative)
        elif digest in seen:
            survey.duplicates.append(relative)
        elif not _is_utf8(content):
            survey.undecodable.append(relative)
        else:
            seen.add(digest)
            document = Document(path, relative, digest, len(content))
            survey.documents[split_of(relative, heldout_fraction)].append(document)
        if progress:
            progress("survey", done, len(files))
    for documents in survey.documents.values():
        documents.sort(key=lambda document: path_hash(document.relative))
    return survey


def _below(folder: Path, patterns: Sequence[str]) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS and not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns) and path.is_file():
                yield path


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorpusError(f"paths: {path} cannot be read ({error.strerror}); mend or leave out the file") from error


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
