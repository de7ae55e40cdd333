"""Where a corpus's files lie and how their bytes come out: local files or URLs, compressed or not, read forwards.

A local place is a `Path`, any other a URL that fsspec opens. Nothing here holds more than a buffer.
"""

from __future__ import annotations

import errno
import fnmatch
import io
import lzma
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

import fsspec
import pyarrow as pa

from generator.regular_files import open_regular
from orchestration.console.foreign import shown
from orchestration.corpus.ahead import chunks_ahead
from orchestration.errors import CorpusError

Place = Path | str

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".zstd": "zstd", ".xz": "xz"}
BUFFER = 1 << 20
_SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages"}
_EXAMPLES = 10

LEAVING_LINK = "links that leave the folder"
SPECIAL_FILE = "special files (pipes, sockets, devices)"


class BadRecord(Exception):
    """A record without a usable text; ``argument`` is what its user may have got wrong."""

    def __init__(self, problem: str, advice: str, argument: str = "paths") -> None:
        super().__init__(problem)
        self.problem, self.advice, self.argument = problem, advice, argument

    def of(self, place: Place) -> CorpusError:
        return CorpusError(f"{self.argument}: {shown(place)} {self.problem}; {self.advice}")


@dataclass
class LeftOut:
    """What was left out: how many for each reason, and the first names of each."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str, count: int = 1) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + count
        names = self.first.setdefault(reason, [])
        if len(names) < _EXAMPLES:
            names.append(name)

    def merge(self, other: LeftOut) -> None:
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            names = self.first.setdefault(reason, [])
            names.extend(other.first[reason][: _EXAMPLES - len(names)])


class FoundFiles(dict[str, Place]):
    """Relative POSIX path → place, sorted by the path's bytes; with each place's size and what was passed over."""

    def __init__(self, places: dict[str, Place], sizes: dict[str, int], left: LeftOut) -> None:
        super().__init__(sorted(places.items(), key=lambda item: os.fsencode(item[0])))
        self.sizes = sizes
        self.left = left


def is_url(path: object) -> bool:
    return isinstance(path, str) and "://" in path


def place_of(path: str) -> Place:
    """What a command line's word means: a URL, or a local path."""
    return path if is_url(path) else Path(path)


def compression_of(place: Place) -> str | None:
    """The compression that the name's last suffix tells, None for none."""
    return COMPRESSIONS.get(PurePosixPath(str(place)).suffix.lower())


def bare_name(relative: str) -> str:
    """The name without the suffix of a compression: compressing a file changes neither its split nor its place."""
    return relative[: -len(PurePosixPath(relative).suffix)] if compression_of(relative) else relative


def unreadable(place: Place, error: BaseException) -> CorpusError:
    said = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "") or type(error).__name__
    return CorpusError(f"paths: {shown(place)} cannot be read ({shown(said)}); mend or leave out the file")


@contextmanager
def opened(place: Place) -> Iterator[BinaryIO]:
    """The file's bytes as they lie there. Raises CorpusError for what cannot be opened or is no regular file."""
    try:
        file = open_regular(place, BUFFER) if isinstance(place, Path) else _filesystem(place)[0].open(place, "rb")
    except CorpusError:
        raise
    except Exception as error:  # every filesystem has errors of its own
        raise unreadable(place, error) from error
    with file:
        yield cast(BinaryIO, file)


@contextmanager
def expanded(place: Place) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed if its name tells a compression; what it raises while reading is OSError."""
    compression = compression_of(place)
    with opened(place) as file:
        if compression is None:
            yield file
        elif compression == "xz":
            with lzma.open(file) as stream:
                yield cast(BinaryIO, _Errors(cast(BinaryIO, stream)))
        else:
            with pa.CompressedInputStream(pa.PythonFile(file, "r"), compression) as stream:
                yield cast(BinaryIO, stream)


class _Errors(io.RawIOBase):
    """A stream whose EOFError and LZMAError (which xz alone raises) are OSError, as of any other file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except (EOFError, lzma.LZMAError) as error:
            raise OSError(str(error)) from error


def in_chunks(file: BinaryIO, place: Place) -> AbstractContextManager[Iterator[bytes]]:
    """The place's expanded bytes in pieces; what must be decompressed or fetched is read ahead, in a thread."""
    if isinstance(place, Path) and compression_of(place) is None:
        return nullcontext(iter(partial(file.read, BUFFER), b""))
    return chunks_ahead(file, BUFFER)


def _filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL and the path in it. Raises CorpusError where its package is not installed."""
    scheme = url.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise CorpusError(
            f"paths: {shown(url)}: {scheme}:// cannot be opened here ({shown(error)}); "
            "install the package that it names, or copy the files"
        ) from error


def find_files(
    paths: Sequence[Place] | Place,
    patterns: Sequence[str] = ("*",),
    *,
    root: Path | None = None,
    follow_links: Path | None = None,
    where: Sequence[str] = (),
) -> FoundFiles:
    """Relative POSIX path → file, sorted by the relative path's bytes.

    Paths are relative to ``root``; by default to the folder given, or to the deepest one that holds all paths. Folders
    are searched for names that match a pattern, hidden ones and installed packages left out; a file that is named
    itself is taken whatever its name. Links to files are followed where they stay in the folder that is searched, and
    others (and links to folders) only into ``follow_links``. URLs may hold ``*`` and ``**``. ``where`` keeps the files
    whose folders say so: ``key=value``, as Hive names them. Raises CorpusError where there is nothing.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    urls = [path for path in given if is_url(path)]
    if urls and len(urls) < len(given):
        raise CorpusError("paths: some are URLs and some are not; add those of one place at a time")
    found = _find_urls(cast(list[str], urls), patterns) if urls else _find_local(given, patterns, root, follow_links)
    if where:
        kept = {name: place for name, place in found.items() if _partition_matches(name, where)}
        found = FoundFiles(kept, found.sizes, found.left)
    if not found:
        passed = "".join(f"; {count} {reason} passed over" for reason, count in found.left.counts.items())
        wanted = ", ".join([*patterns, *where])
        raise CorpusError(
            f"paths: no file matches {wanted} in {', '.join(map(shown, given)) or 'no path'}{passed}; "
            "give another folder or pattern"
        )
    return found


def _partition_matches(name: str, where: Sequence[str]) -> bool:
    said = dict(part.split("=", 1) for part in PurePosixPath(name).parts[:-1] if "=" in part)
    values = {unquote(key): unquote(value) for key, value in said.items()}
    for condition in where:
        key, equals, value = condition.partition("=")
        if not equals:
            raise CorpusError(f"where: {condition!r} is no condition; write KEY=VALUE as the folders do")
        if values.get(key) != value:
            return False
    return True


def _find_local(
    given: Sequence[Place], patterns: Sequence[str], root: Path | None, follow_links: Path | None
) -> FoundFiles:
    absolute = [Path(os.path.abspath(path)) for path in given]
    left, found = LeftOut(), dict[Path, int]()
    for path in absolute:
        if not path.exists():
            raise CorpusError(f"paths: {shown(path)} does not exist; give a text file or a folder that holds some")
        if path.is_file():
            found[path] = path.stat().st_size
        elif path.is_dir():
            roots = [path.resolve(), *([follow_links.resolve()] if follow_links else [])]
            found.update(_below(path, patterns, roots, follow_links is not None, left))
        else:
            raise CorpusError(f"paths: {shown(path)} is neither a file nor a folder; give one of them")
    if not absolute or not found:
        return FoundFiles({}, {}, left)
    base = root.absolute() if root else Path(os.path.commonpath([p.parent if p.is_file() else p for p in absolute]))
    try:
        relative = {path.relative_to(base).as_posix(): path for path in found}
    except ValueError:
        raise CorpusError(
            f"root: {shown(base)} does not hold every path given; use a folder above all of them"
        ) from None
    left.first = {reason: [os.path.relpath(name, base) for name in names] for reason, names in left.first.items()}
    sizes = {name: found[path] for name, path in relative.items()}
    return FoundFiles(cast(dict[str, Place], relative), sizes, left)


def _below(
    folder: Path, patterns: Sequence[str], roots: Sequence[Path], into_folders: bool, left: LeftOut
) -> Iterator[tuple[Path, int]]:
    """(file, size) of each file below a folder that may be read."""
    entered = {folder.resolve()}
    for parent, folders, names in os.walk(folder, followlinks=into_folders):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS and not name.startswith(".")]
        for name in [name for name in folders if into_folders and os.path.islink(os.path.join(parent, name))]:
            target = Path(parent, name).resolve()
            if not _within(target, roots):
                left.add(LEAVING_LINK, str(Path(parent, name)))
                folders.remove(name)
            elif target in entered:  # a link to a folder above it, or one that is there already
                folders.remove(name)
            else:
                entered.add(target)
        for name in names:
            path = Path(parent, name)
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                continue
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                if not path.is_file():  # dangling, in a circle, or to something that is no file
                    continue
                if not _within(path.resolve(), roots):
                    left.add(LEAVING_LINK, str(path))
                    continue
                status = path.stat()
            if stat.S_ISREG(status.st_mode):
                yield path, status.st_size
            else:
                left.add(SPECIAL_FILE, str(path))


def _within(target: Path, roots: Sequence[Path]) -> bool:
    return any(target.is_relative_to(root) for root in roots)


def _find_urls(urls: Sequence[str], patterns: Sequence[str]) -> FoundFiles:
    found: dict[str, int] = {}
    bases: list[PurePosixPath] = []
    for url in urls:
        system, path = _filesystem(url)
        try:
            listed, base = _listed(system, path, patterns)
        except Exception as error:  # every filesystem has errors of its own
            raise unreadable(url, error) from error
        found |= {system.unstrip_protocol(name): size for name, size in listed.items()}
        bases.append(PurePosixPath(system.unstrip_protocol(base)))
    if not found:
        return FoundFiles({}, {}, LeftOut())
    common = PurePosixPath(os.path.commonpath(bases))
    names = {url: PurePosixPath(url).relative_to(common).as_posix() for url in found}
    sizes = {names[url]: size for url, size in found.items()}
    return FoundFiles({name: url for url, name in names.items()}, sizes, LeftOut())


def _listed(system: Any, path: str, patterns: Sequence[str]) -> tuple[dict[str, int], str]:
    """Path → size in a filesystem, and the folder that their names are relative to."""
    if any(character in path for character in "*?["):
        entries = system.glob(path, detail=True)
        fixed = path[: min(path.index(c) for c in "*?[" if c in path)]
        wanted: tuple[str, ...] = ("*",)
        base = fixed.rpartition("/")[0]
    elif system.protocol in ("http", "https") or "http" in system.protocol or system.isfile(path):
        entries, wanted, base = {path: system.info(path)}, ("*",), path.rpartition("/")[0]
    else:
        entries, wanted, base = system.find(path, detail=True), tuple(patterns), path.rstrip("/")
        if not entries:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    files = {}
    for name, entry in entries.items():
        inner = PurePosixPath(name).relative_to(base).parts if name.startswith(base) else (name,)
        hidden = any(part.startswith(".") or part in _SKIPPED_FOLDERS for part in inner)
        if entry.get("type") == "file" and not hidden and _matches(inner[-1], wanted):
            files[name] = int(entry.get("size") or 0)
    return files, base


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
