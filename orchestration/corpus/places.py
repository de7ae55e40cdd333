"""Where a corpus's files lie and how their bytes come out: local files or URLs, compressed or not, read forwards.

A local place is a `Path`, any other a URL that fsspec opens. Nothing here holds more than a buffer.
"""

from __future__ import annotations

import fnmatch
import glob
import io
import lzma
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast
from urllib.parse import unquote

import pyarrow as pa

from generator.regular_files import open_regular
from orchestration.console.foreign import shown
from orchestration.corpus.ahead import chunks_ahead
from orchestration.corpus.remote import (
    SKIPPED_FOLDERS,
    filesystem,
    is_url,
    listed,
    names_of,
    open_remote,
    without_secrets,
)
from orchestration.errors import CorpusError

Place = Path | str

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".zstd": "zstd", ".xz": "xz"}
BUFFER = 1 << 20
MAX_RECORD = 64 << 20  # bytes of one record; parsed and encoded it takes up to six times as much
_EXAMPLES = 10

LEAVING_LINK = "links that leave the folder"
LOST_LINK = "links that lead nowhere"
SPECIAL_FILE = "special files (pipes, sockets, devices)"


class BadRecord(Exception):
    """A record without a usable text; ``argument`` is what its user may have got wrong."""

    def __init__(self, problem: str, advice: str, argument: str = "paths") -> None:
        super().__init__(problem)
        self.problem, self.advice, self.argument = problem, advice, argument

    def of(self, place: Place) -> CorpusError:
        return CorpusError(f"{self.argument}: {named(place)} {self.problem}; {self.advice}")


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


def place_of(path: str, argument: str = "paths") -> Place:
    """What a command line's word means: a URL, or a local path. Raises CorpusError for an empty one, which `Path` would
    take for the folder that the command was started in."""
    if not path:
        raise CorpusError(f"{argument}: '' is no path (an empty variable?); give a file, a folder or a URL")
    return path if is_url(path) else Path(path)


def path_of(place: Place) -> PurePosixPath:
    """A place as a path whose suffixes can be looked at."""
    return PurePosixPath(without_secrets(place) if is_url(place) else place)


def named(place: Place) -> str:
    """A place as it may be shown."""
    return shown(without_secrets(str(place)) if is_url(place) else place)


def compression_of(place: Place) -> str | None:
    """The compression that the name's last suffix tells, None for none."""
    return COMPRESSIONS.get(path_of(place).suffix.lower())


def bare_name(relative: str) -> str:
    """The name without the suffix of a compression: compressing a file changes neither its split nor its place."""
    return relative[: -len(PurePosixPath(relative).suffix)] if compression_of(relative) else relative


def unreadable(place: Place, error: BaseException) -> CorpusError:
    said = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "")
    if is_url(place) and said in ("", place) and error.__cause__ is not None:  # a library's words for any failure
        return unreadable(place, error.__cause__)
    said = without_secrets(said) or type(error).__name__
    return CorpusError(f"paths: {named(place)} cannot be read ({shown(said)}); mend or leave out the file")


@contextmanager
def opened(place: Place) -> Iterator[BinaryIO]:
    """The file's bytes as they lie there. Raises CorpusError for what cannot be opened or is no regular file."""
    try:
        file = open_regular(place, BUFFER) if isinstance(place, Path) else open_remote(place)
    except CorpusError:
        raise
    except Exception as error:  # every filesystem has errors of its own
        raise unreadable(place, error) from error
    with file:
        yield file


@contextmanager
def expanded(place: Place) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed if its name tells a compression; what it raises while reading is OSError."""
    compression = compression_of(place)
    with opened(place) as file:
        if compression is None:
            yield file
        elif compression == "xz":
            yield cast(BinaryIO, _Xz(_Filled(file)))
        else:
            with pa.CompressedInputStream(pa.PythonFile(_Filled(file), "r"), compression) as stream:
                yield cast(BinaryIO, stream)


class _Filled(io.RawIOBase):
    """A file that holds something: what a failed download or a full disk left of a compressed file would expand to an
    empty text."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._begun = file, False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        if not data and size and not self._begun:
            raise OSError("it holds nothing, not even the beginning of a compressed file")
        self._begun = True
        return data


class _Xz(io.RawIOBase):
    """The content of the streams of an xz file. Python's own reader takes what follows the first one for nothing if its
    beginning is damaged."""

    def __init__(self, file: _Filled) -> None:
        self._file = file
        self._stream: lzma.LZMADecompressor | None = None
        self._rest = b""  # what follows a stream, as much of it as was read

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            while True:
                data = b""
                if self._stream is None:
                    data, self._rest = self._rest or self._file.read(BUFFER), b""
                    if not data:
                        return b""
                    data = data.lstrip(b"\0")  # streams may be padded
                    if not data:
                        continue
                    self._stream = lzma.LZMADecompressor()
                elif self._stream.needs_input and not (data := self._file.read(BUFFER)):
                    raise OSError("it ends before its time")
                found = self._stream.decompress(data, size)
                if self._stream.eof:
                    self._rest, self._stream = self._stream.unused_data, None
                if found:
                    return found
        except lzma.LZMAError as error:
            raise OSError(str(error)) from error


def in_chunks(file: BinaryIO, place: Place) -> AbstractContextManager[Iterator[bytes]]:
    """The place's expanded bytes in pieces; what must be decompressed or fetched is read ahead, in a thread."""
    if isinstance(place, Path) and compression_of(place) is None:
        return nullcontext(iter(partial(file.read, BUFFER), b""))
    return chunks_ahead(file, BUFFER)


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
    found = _find_urls(urls, patterns) if urls else _find_local(given, patterns, root, follow_links)
    if where:
        kept = {name: place for name, place in found.items() if _partition_matches(name, where)}
        found = FoundFiles(kept, found.sizes, found.left)
    if not found:
        passed = "".join(f"; {count} {reason} passed over" for reason, count in found.left.counts.items())
        wanted = ", ".join([*patterns, *where])
        raise CorpusError(
            f"paths: no file matches {wanted} in {', '.join(map(named, given)) or 'no path'}{passed}; "
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
    absolute = [match for path in given for match in _meant(Path(os.path.abspath(path)))]
    left, found = LeftOut(), dict[Path, int]()
    for path in absolute:
        try:
            status = path.stat()
        except (OSError, ValueError) as error:
            raise unreadable(path, error) from error
        if stat.S_ISREG(status.st_mode):
            found[path] = status.st_size
        elif stat.S_ISDIR(status.st_mode):
            roots = [path.resolve(), *([follow_links.resolve()] if follow_links else [])]
            found.update(_below(path, patterns, roots, follow_links is not None, left))
        else:
            raise CorpusError(f"paths: {named(path)} is neither a file nor a folder; give one of them")
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


def _meant(path: Path) -> list[Path]:
    """What a path means: itself, or where there is no such path and it has ``*``, ``?`` or ``[``, what it matches, as a
    shell would put it in its place."""
    if os.path.lexists(path):
        return [path]
    fixed = next((at for at, part in enumerate(path.parts) if glob.has_magic(part)), None)
    if fixed is None:
        raise CorpusError(f"paths: {named(path)} does not exist; give a text file or a folder that holds some")
    folder, rest = Path(*path.parts[:fixed]), path.parts[fixed:]
    try:
        found = sorted(folder.glob("/".join(rest)))
    except ValueError as error:
        raise CorpusError(f"paths: {named(path)} is no pattern ({error}); write `**` between slashes alone") from error
    hidden = any(part.startswith(".") for part in rest)
    return [each for each in found if hidden or not any(p.startswith(".") for p in each.relative_to(folder).parts)]


def _below(
    folder: Path, patterns: Sequence[str], roots: Sequence[Path], into_folders: bool, left: LeftOut
) -> Iterator[tuple[Path, int]]:
    """(file, size) of each file below a folder that may be read."""
    entered = {folder.resolve()}

    def refuse(error: OSError) -> None:
        raise unreadable(Path(error.filename), error) from error

    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=into_folders):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS and not name.startswith(".")]
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
                if not path.exists():  # or in a circle
                    left.add(LOST_LINK, str(path))
                    continue
                if not path.is_file():
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
    bases: list[str] = []
    for url in urls:
        system, path = filesystem(url)
        try:
            files, base = listed(system, path, patterns)
        except Exception as error:  # every filesystem has errors of its own
            raise unreadable(url, error) from error
        found |= files
        bases.append(base)
    if not found:
        return FoundFiles({}, {}, LeftOut())
    names = names_of(list(found), bases)
    return FoundFiles(
        {name: url for url, name in names.items()}, {names[url]: size for url, size in found.items()}, LeftOut()
    )
