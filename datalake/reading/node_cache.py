"""A read cache on a node's local disk: the token rows of verified shards as bare files, memory-mapped by all processes.

A shard's file is named by the shard's SHA-256 and made once per node: whoever needs it first holds the shard's lock
(which the kernel frees if that process dies), fetches and verifies the shard, and writes the rows; everyone else waits
and maps the file. The file ends in a trailer with a checksum and the boot it was written in. Within that boot a file
is whole, since it was renamed when complete; after a power cut it may not be, so a file of another boot is checked
once before it is trusted. Removing a file that others have mapped is safe: their mapping stays.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from datalake.errors import LakePathError
from datalake.events import log_event
from datalake.shards.shards import ShardRef
from datalake.shards.tokens import NARROW
from datalake.store.addresses import expanded, nearest_existing
from datalake.store.interface import Store

_TRAILER = struct.Struct("<8sII16s")  # magic, CRC-32 of the rows, rows, boot id
_MAGIC = b"mgcache1"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_UNKNOWN_BOOT = bytes(16)
_MOST_BYTES = 20_000_000_000
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_State = Literal["new", "open", "full", "off"]


def this_boot() -> bytes:
    """16 bytes that differ from boot to boot; zeros, which are never trusted, where the system does not say."""
    try:
        return bytes.fromhex(_BOOT_ID.read_text().strip().replace("-", ""))[:16].ljust(16, b"\0")
    except (OSError, ValueError):
        return _UNKNOWN_BOOT


def _settings() -> tuple[Path, int | None]:
    """The cache's folder and its size in bytes (None: a share of the disk). Raises LakePathError."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = expanded(os.environ.get("MORPHOGEN_CACHE") or f"{home}/morphogen", "MORPHOGEN_CACHE =")
    size = os.environ.get("MORPHOGEN_CACHE_GB")
    try:
        return folder, int(float(size) * 1e9) if size else None
    except (ValueError, OverflowError):
        raise LakePathError(f"MORPHOGEN_CACHE_GB = {size!r}: expected a number of gigabytes, such as 20") from None


def check_cache_settings(store: Store) -> None:
    """Raise LakePathError if MORPHOGEN_CACHE or MORPHOGEN_CACHE_GB say what can be meant nowhere.

    For whoever begins a job, where a person typed them. In the processes of the job they never end it.
    """
    if not _wanted(store):
        return
    folder, _ = _settings()
    if not os.environ.get("MORPHOGEN_CACHE") or folder.is_dir():
        return
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise LakePathError(
            f"MORPHOGEN_CACHE = {str(folder)!r}: {error.strerror}: name a folder on local disk that you may write in, "
            "or set it to off"
        ) from error


def _wanted(store: Store) -> bool:
    """Whether there is to be a cache: for a store on the network; a local folder would only be copied."""
    return store.uri.startswith("s3://") and os.environ.get("MORPHOGEN_CACHE") != "off"


def default_cache(store: Store, on_failure: OnFailure | None = None) -> NodeCache | None:
    """The cache that this node's jobs share for a store on the network; for a local folder, which it would copy, none.

    ``MORPHOGEN_CACHE`` names its folder (``off``: no cache; default: ``morphogen`` in ``XDG_CACHE_HOME`` or
    ``~/.cache``), ``MORPHOGEN_CACHE_GB`` its size (default: a tenth of the disk, at most 20). Settings that cannot be
    read are a failure of the cache like any other.
    """
    if not _wanted(store):
        return None
    try:
        return NodeCache(*_settings(), on_failure=on_failure)
    except LakePathError as error:
        (on_failure or _log_failure)(str(error))
        return None


OnFailure = Callable[[str], None]
"""``on_failure(reason)``, once: from now on this process reads without the cache."""


def _log_failure(reason: str) -> None:
    log_event("cache_off", level=logging.WARNING, reason=reason)


def _room_on(folder: Path) -> int:
    """What a cache may take of the folder's disk where nobody says."""
    return min(_MOST_BYTES, shutil.disk_usage(folder).total // 10)


class NodeCache:
    """Rows by shard below ``folder``, at most ``max_bytes`` of them (None: a tenth of the disk, at most 20 GB).

    Picklable, without ``on_failure``; processes share it by its folder. Whatever the folder or its file system does,
    what is lost is speed: at the first failure ``on_failure`` is told, and rows are fetched without a cache from then
    on. A full disk ends the filling only; what is there is still read.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None, on_failure: OnFailure | None = None) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self._on_failure = on_failure or _log_failure
        self._state: _State = "new"
        self._lock = threading.Lock()
        self._boot = this_boot()

    def __reduce__(self) -> tuple[type[NodeCache], tuple[Path, int | None]]:
        return NodeCache, (self.folder, self.max_bytes)

    @property
    def fills(self) -> bool:
        """Whether rows that are fetched are kept on disk. If not, what ``rows`` returns takes memory."""
        return self._state in ("new", "open")

    def rows(
        self, ref: ShardRef, seq_len: int, fetch: Callable[[], np.ndarray], dtype: np.dtype = NARROW
    ) -> np.ndarray:
        """The shard's tokens, ``dtype`` [rows, seq_len], read-only; ``fetch`` gives them if this node has none.

        Raises what ``fetch`` raises.
        """
        rows, fetching = None, False
        path = self.folder / f"{ref.sha256}.u{8 * dtype.itemsize}"
        try:
            if self._state == "new":
                self._begin()
            if self._state != "off":
                mapped = self._open(path, ref.rows, seq_len, dtype)
                if mapped is not None:
                    return mapped
            if self._state == "open":
                with self._locked(ref.sha256[:3]):
                    mapped = self._open(
                        path, ref.rows, seq_len, dtype
                    )  # another may have filled it while this one waited
                    if mapped is not None:
                        return mapped
                    fetching = True
                    rows = fetch()
                    fetching = False
                    self._fill(path, rows, dtype)
                    self._make_room(keep=path)
                mapped = self._open(path, ref.rows, seq_len, dtype)
                return rows if mapped is None else mapped
        except OSError as error:
            if fetching:  # none of the cache's
                raise
            self._failed(error)
        return fetch() if rows is None else rows

    def _begin(self) -> None:
        with self._lock:
            if self._state != "new":
                return
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
            if self.max_bytes is None:
                self.max_bytes = _room_on(self.folder)
            self._state = "open"

    def _failed(self, error: OSError) -> None:
        full = error.errno in _FULL
        with self._lock:
            before, self._state = self._state, "full" if full and self._state != "off" else "off"
        if before in ("new", "open"):
            how = "what is there is read, and nothing added" if full else "reading goes on without it"
            self._on_failure(
                f"cache folder {self.folder}: {error.strerror or error}: {how}, which costs speed only; name another "
                "folder on local disk in MORPHOGEN_CACHE, or set it to off"
            )

    def holds(self, size: int) -> bool:
        """Whether ``size`` bytes of rows fit, so that shards are worth fetching whole."""
        if self.max_bytes is not None:
            return size <= self.max_bytes
        return size <= _room_on(nearest_existing(self.folder))

    def _open(self, path: Path, rows: int, seq_len: int, dtype: np.dtype) -> np.ndarray | None:
        """The mapped rows, None if the file is absent or not what it should be (then it is removed)."""
        try:
            with path.open("r+b") as file:
                size = rows * seq_len * dtype.itemsize + _TRAILER.size
                if os.fstat(file.fileno()).st_size == size and self._trusted(file, rows):
                    os.utime(file.fileno())  # the least recently opened is the first to go
                    # As a plain array: every slice of a memmap would pay for its being one.
                    return np.asarray(np.memmap(file, dtype=dtype, mode="r", shape=(rows, seq_len)))
        except FileNotFoundError:
            return None
        path.unlink(missing_ok=True)
        return None

    def _trusted(self, file: BinaryIO, rows: int) -> bool:
        file.seek(-_TRAILER.size, os.SEEK_END)
        magic, checksum, count, boot = _TRAILER.unpack(file.read(_TRAILER.size))
        if (magic, count) != (_MAGIC, rows):
            return False
        if boot == self._boot != _UNKNOWN_BOOT:
            return True
        file.seek(0)
        found, left = 0, os.fstat(file.fileno()).st_size - _TRAILER.size
        while left:
            part = file.read(min(left, 1 << 22))
            found, left = zlib.crc32(part, found), left - len(part)
        if found != checksum:
            return False
        file.seek(-_TRAILER.size, os.SEEK_END)
        file.write(_TRAILER.pack(_MAGIC, checksum, rows, self._boot))
        file.flush()
        return True

    def _fill(self, path: Path, rows: np.ndarray, dtype: np.dtype) -> None:
        data = np.ascontiguousarray(rows, dtype=dtype)
        part = path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                file.write(data.data)
                file.write(_TRAILER.pack(_MAGIC, zlib.crc32(data.data), len(data), self._boot))
            part.replace(path)
        except OSError:
            with suppress(OSError):  # the error that matters is the first
                part.unlink(missing_ok=True)
            raise

    def _make_room(self, keep: Path) -> None:
        assert self.max_bytes is not None, "set when the folder was made"
        with self._locked("room"):
            files = sorted(self._files())
            used = sum(size for _, size, _ in files)
            for _, size, path in files:
                if used <= self.max_bytes:
                    return
                if path != keep:
                    path.unlink(missing_ok=True)
                    used -= size

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """(time last opened in ns, size, path) of every file but the locks."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith((".u16", ".u32", ".part")):
                    try:
                        found = entry.stat()
                    except FileNotFoundError:  # another process made room
                        continue
                    yield found.st_mtime_ns, found.st_size, Path(entry.path)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold a lock of the node: among processes and threads alike, since each opens the file for itself."""
        with (self.folder / "locks" / name).open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
