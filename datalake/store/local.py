"""The store on a local (or shared POSIX) file system.

Create-if-absent is a hard link of a finished, synced temporary file: the link either appears whole or fails because
the name is taken, also across processes and on NFS. Temporary files live in ``.tmp``, which no key can reach.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from datalake.errors import LakePathError, StoreUnavailableError
from datalake.names import check_key, check_prefix, is_key
from datalake.store.addresses import expanded
from datalake.store.conformance import WriteGuard
from datalake.store.content import Content, buffers_of
from datalake.store.interface import ObjectInfo, missing

_TEMP = ".tmp"


class LocalStore:
    """Objects as files below ``root``. See ``store.Store`` for the methods."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(expanded(root, "lake")))
        self._guard = WriteGuard()

    def __repr__(self) -> str:
        return f"LocalStore({self.uri!r})"

    @property
    def uri(self) -> str:
        return str(self.root)

    def check(self) -> None:
        """Raise LakePathError if the root, or the nearest existing folder above it, is not a folder."""
        for folder in (self.root, *self.root.parents):
            with self._translated():
                kind = _kind(folder)
            if kind == "folder":
                return
            if kind == "other":
                raise LakePathError(
                    f"lake {self.root}: {folder} is a file; give a folder, or a path where one can be made"
                )

    def put_if_absent(self, key: str, data: Content) -> bool:
        target = self._path(key)
        self._guard.check(self, key)
        if self.exists(key):  # saves writing and syncing a file that cannot win
            return False
        with self._translated(), self._finished_file(data) as temporary:
            _make_folders(target.parent)
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            _sync_folder(target.parent)
        return True

    def replace(self, key: str, data: bytes) -> None:
        target = self._path(key)
        self._guard.check(self, key)
        with self._translated(), self._finished_file(data) as temporary:
            _make_folders(target.parent)
            temporary.replace(target)
            _sync_folder(target.parent)

    def get(self, key: str) -> bytes:
        with self._translated(key):
            return self._path(key).read_bytes()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with self._translated(key), self._path(key).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def exists(self, key: str) -> bool:
        with self._translated():
            return self._path(key).is_file()

    def size(self, key: str) -> int:
        with self._translated(key):
            return self._path(key).stat().st_size

    def list(self, prefix: str = "", start_after: str = "", limit: int | None = None) -> Iterator[str]:
        check_prefix(prefix)
        base = prefix.rpartition("/")[0]
        folder = self.root / base if base else self.root
        keys = _walk(folder, f"{base}/" if base else "")
        with self._translated():
            yield from islice((key for key in keys if key.startswith(prefix) and key > start_after), limit)

    def children(self, prefix: str = "") -> Iterator[str]:
        check_prefix(prefix)
        with self._translated():
            names = sorted(entry.name for entry in _entries(self.root / prefix) if entry.is_dir())
        yield from (name for name in names if any(self.list(f"{prefix}{name}/")))

    def infos(self, prefix: str = "") -> Iterator[ObjectInfo]:
        for key in self.list(prefix):
            with self._translated(), suppress(FileNotFoundError):  # removed since it was listed
                yield _info(key, (self.root / key).stat())

    def leftovers(self) -> Iterator[ObjectInfo]:
        """Temporary files: each was given up by a process that died, or is being written at this moment."""
        with self._translated(), suppress(FileNotFoundError):
            for path in sorted((self.root / _TEMP).iterdir()):
                with suppress(FileNotFoundError):
                    if path.is_file():
                        yield _info(path.name, path.stat())

    def discard(self, leftover: str) -> None:
        with self._translated():
            (self.root / _TEMP / Path(leftover).name).unlink(missing_ok=True)

    def delete(self, key: str) -> None:
        with self._translated(), suppress(FileNotFoundError):
            self._path(key).unlink()

    def presigned_url(self, key: str, seconds: int, filename: str) -> str | None:
        del key, seconds, filename  # a file on this machine has no address that others could use
        return None

    def arrow_filesystem(self) -> tuple[Any, str]:
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), str(self.root)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    @contextmanager
    def _finished_file(self, data: Content) -> Iterator[Path]:
        folder = self.root / _TEMP
        _make_folders(folder)
        temporary = folder / uuid.uuid4().hex
        try:
            with temporary.open("xb") as file:
                for buffer in buffers_of(data):
                    file.write(buffer)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _translated(self, key: str | None = None) -> Iterator[None]:
        """Turn operating system errors into ours; with a ``key``, a missing file means a missing object."""
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            if key is not None:
                raise missing(self.uri, key) from error
            raise LakePathError(f"lake {self.root}: {error.strerror}: {error.filename}") from error
        except PermissionError as error:
            if error.errno == errno.EPERM and error.filename2:  # how a FAT drive answers link()
                raise self._no_links(error) from error
            raise LakePathError(
                f"lake {self.root}: not allowed to use {error.filename}: give a folder that you may write"
            ) from error
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV):
                raise self._no_links(error) from error
            raise StoreUnavailableError(f"lake {self.root}: {error}") from error

    def _no_links(self, error: OSError) -> LakePathError:
        return LakePathError(
            f"lake {self.root}: no hard links on this file system ({error.strerror}): use another, or S3"
        )


def _kind(path: Path) -> Literal["folder", "other", "none"]:
    """What is at ``path``; a link to nothing is no folder. Raises OSError if that may not be known."""
    try:
        return "folder" if stat.S_ISDIR(path.stat().st_mode) else "other"
    except (FileNotFoundError, NotADirectoryError):
        return "other" if path.is_symlink() else "none"


def _info(key: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _make_folders(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Make a new directory entry durable: without this a power cut may forget an acknowledged object."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The files and folders in ``folder`` that can belong to a lake, in the order of keys.

    Whatever else someone put there is left out: other names (``.DS_Store``, ``lost+found``), links to nothing, sockets.
    """
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if is_key(entry.name) and (entry.is_dir() or entry.is_file())]
    except (FileNotFoundError, NotADirectoryError):
        return []
    # A folder sorts as "name/", which puts the keys below it where whole keys sorted by code point would be.
    return sorted(entries, key=lambda entry: entry.name + "/" if entry.is_dir() else entry.name)


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name
