"""Objects too large to be held whole: written from pieces that are made one at a time, read once from front to back.

A model's weights are gigabytes that a process holds already; neither writing nor reading them may need as much again.
"""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Protocol

from datalake.canonical import sha256_hex
from datalake.errors import CorruptObjectError

CHUNK_BYTES = 8 << 20
_AHEAD = 4  # chunks asked of an object store at once: one connection to it is slow, several are not

Buffer = bytes | memoryview


class Readable(Protocol):
    """What of a store is needed here: ``datalake.store.interface.Store`` has it."""

    @property
    def uri(self) -> str: ...

    def get_range(self, key: str, start: int, length: int) -> bytes: ...

    def size(self, key: str) -> int: ...


class Pieces:
    """``size`` bytes as the buffers that ``make()`` yields, in order; each call of it must yield equal bytes."""

    def __init__(self, size: int, make: Callable[[], Iterator[Buffer]]) -> None:
        self.size = size
        self._make = make
        self._sha256: str | None = None

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Buffer]:
        return self._make()

    def __bytes__(self) -> bytes:
        return b"".join(self)

    @property
    def sha256(self) -> str:
        """SHA-256 of all the bytes, as hex; computed when it is first asked for."""
        if self._sha256 is None:
            digest = hashlib.sha256()
            for piece in self:
                digest.update(piece)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def open(self) -> io.RawIOBase:
        """The bytes as a file that can be read and rewound, which is what HTTP clients take."""
        return _PiecesFile(self)


Content = bytes | Pieces
"""What an object may be written from."""


def buffers_of(data: Content) -> Iterator[Buffer]:
    """The buffers that ``data`` is made of, in order."""
    return iter(data) if isinstance(data, Pieces) else iter((data,))


def content_sha256(data: Content) -> str:
    """SHA-256 of ``data``, as hex."""
    return data.sha256 if isinstance(data, Pieces) else sha256_hex(data)


class _PiecesFile(io.RawIOBase):
    """``Pieces`` read at a position; going back to an earlier one makes the pieces anew."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._at = 0  # where the next read begins
        self._restart()

    def _restart(self) -> None:
        self._buffers = iter(self._pieces)
        self._buffer, self._begin = memoryview(b""), 0  # the current buffer and the position of its first byte

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self._pieces)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._pieces)}[whence]
        self._at = max(0, base + offset)
        return self._at

    def log_event(self) -> int:
        return self._at

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        if self._at < self._begin:
            self._restart()
        while self._at >= self._begin + len(self._buffer):
            following = next(self._buffers, None)
            if following is None:
                return 0
            self._begin += len(self._buffer)
            self._buffer = memoryview(following).cast("B")
        start = self._at - self._begin
        count = min(len(target), len(self._buffer) - start)
        target[:count] = self._buffer[start : start + count]
        self._at += count
        return count


def read_chunks(store: Readable, key: str, size: int) -> Iterator[bytes]:
    """The first ``size`` bytes of an object in chunks of ``CHUNK_BYTES``, a few of them ahead where the store is far.

    The chunks end early where the object does. Raises NotFoundError.
    """
    starts = range(0, size, CHUNK_BYTES)
    if not store.uri.startswith("s3://") or len(starts) < 2:
        for start in starts:
            yield store.get_range(key, start, min(CHUNK_BYTES, size - start))
        return
    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="read-ahead") as pool:
        asked: deque[Future[bytes]] = deque()
        for start in starts:
            asked.append(pool.submit(store.get_range, key, start, min(CHUNK_BYTES, size - start)))
            if len(asked) == _AHEAD:
                yield asked.popleft().result()
        while asked:
            yield asked.popleft().result()


class ContentReader:
    """Bytes read once, in order. What was read is known to be right only after ``finish``.

    ``size`` is how many there are; ``sha256`` is what they must have (None: they need no check), ``name`` what an error
    calls them and ``advice`` what it says to do.
    """

    def __init__(self, chunks: Iterator[bytes], size: int, sha256: str | None, name: str, advice: str = "") -> None:
        self.size = size
        self.name = name
        self._chunks = chunks
        self._chunk = memoryview(b"")
        self._sha256, self._advice = sha256, advice
        self._digest = hashlib.sha256()
        self._seen = 0

    @classmethod
    def of_bytes(cls, data: bytes, name: str) -> ContentReader:
        """Bytes that are in memory already and need no check."""
        return cls(iter((data,)), len(data), None, name)

    @classmethod
    def of_object(cls, store: Readable, key: str, sha256: str, what: str = "", advice: str = "") -> ContentReader:
        """An object of the lake. Raises NotFoundError."""
        size = store.size(key)
        return cls(read_chunks(store, key, size), size, sha256, f"object {key}{what}", advice)

    def readinto(self, target: memoryview) -> None:
        """Fill ``target`` with the next bytes; CorruptObjectError if there are not so many."""
        filled = 0
        while filled < len(target):
            if not self._next():
                raise self.corrupt(f"it ends after {self._seen} bytes, within what it should hold")
            count = min(len(target) - filled, len(self._chunk))
            target[filled : filled + count] = self._chunk[:count]
            self._chunk = self._chunk[count:]
            filled += count

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes; CorruptObjectError if there are not so many."""
        target = bytearray(count)
        self.readinto(memoryview(target))
        return bytes(target)

    def finish(self) -> None:
        """Read what is left and check it all; CorruptObjectError if it is not what it should be."""
        while self._next():
            self._chunk = memoryview(b"")
        found = self._digest.hexdigest()
        if self._sha256 is not None and found != self._sha256:
            raise self.corrupt(f"expected SHA-256 {self._sha256}, found {found} in {self._seen} bytes")

    def write_to(self, file: IO[bytes]) -> None:
        """Write all that is left to ``file`` and ``finish``."""
        while self._next():
            file.write(self._chunk)
            self._chunk = memoryview(b"")
        self.finish()

    def corrupt(self, problem: str) -> CorruptObjectError:
        """The error for content that is not what it should be."""
        return CorruptObjectError(f"{self.name} is corrupt: {problem}" + (f": {self._advice}" if self._advice else ""))

    def _next(self) -> bool:
        """Whether there is something left in the current chunk, the next one fetched if need be."""
        while not self._chunk:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            if self._sha256 is not None:
                self._digest.update(chunk)
            self._seen += len(chunk)
            self._chunk = memoryview(chunk)
        return True


def object_sha256(store: Readable, key: str) -> tuple[str, int]:
    """SHA-256 (hex) and size in bytes of an object, read in chunks. Raises NotFoundError."""
    digest, seen = hashlib.sha256(), 0
    for chunk in read_chunks(store, key, store.size(key)):
        digest.update(chunk)
        seen += len(chunk)
    return digest.hexdigest(), seen
