"""The object store as the lake sees it: immutable objects under keys, and one primitive, create-if-absent.

Everything else (version logs, shards, manifests) is built on ``put_if_absent``; ``replace`` and ``delete`` exist for
repair and housekeeping only. Stores are safe across threads and can be pickled to other processes; credentials are
never part of a store, each process finds its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from datalake.errors import DatalakeError, NotFoundError
from datalake.store.content import Content, Pieces, object_sha256


class ObjectInfo(NamedTuple):
    """An object's key, size in bytes, and when it was written (aware, by the store's clock)."""

    key: str
    size: int
    written: datetime


class Store(Protocol):
    """What a lake needs from its storage. Keys follow ``names.check_key``; a bad one raises InvalidNameError.

    Every method may raise StoreUnavailableError, StoreRefusedError, CredentialsError, BucketNotFoundError or
    LakePathError; one that writes, ProbeError.
    """

    @property
    def uri(self) -> str:
        """The address that ``open_store`` takes."""
        ...

    def put_if_absent(self, key: str, data: Content) -> bool:
        """Create the object. True: this call created it. False: one was there, whose bytes may differ.

        ObjectTooLargeError if the store takes no object of this size in one request.
        After a lost response the retry meets its own object and reports False; ``ensure`` tells the two apart.
        """
        ...

    def get(self, key: str) -> bytes:
        """All bytes of an object. Raises NotFoundError."""
        ...

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Up to ``length`` bytes from offset ``start`` (fewer at the end of the object). Raises NotFoundError."""
        ...

    def exists(self, key: str) -> bool:
        """Whether an object is there."""
        ...

    def size(self, key: str) -> int:
        """An object's size in bytes. Raises NotFoundError."""
        ...

    def list(self, prefix: str = "", start_after: str = "", limit: int | None = None) -> Iterator[str]:
        """Keys that start with ``prefix`` and sort after ``start_after``, sorted by code point.

        With ``limit`` only that many of one folder's objects, the first; up to 1,000 are one request.
        """
        ...

    def infos(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Size and age of every object whose key starts with ``prefix``, sorted by key."""
        ...

    def leftovers(self) -> Iterator[ObjectInfo]:
        """Parts of writes that were never finished, which no key shows; their ``key`` is for ``discard`` only."""
        ...

    def discard(self, leftover: str) -> None:
        """Remove what ``leftovers`` named, if it is still there."""
        ...

    def children(self, prefix: str = "") -> Iterator[str]:
        """Sorted names directly below ``prefix`` (empty, or ending in "/") under which there are objects."""
        ...

    def replace(self, key: str, data: bytes) -> None:
        """Write the object whether or not one is there; readers see the old bytes or the new, nothing between."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        ...

    def check(self) -> None:
        """Raise now, cheaply, what the first real call would raise for a wrong address or wrong credentials."""
        ...

    def presigned_url(self, key: str, seconds: int, filename: str) -> str | None:
        """A URL by which anyone may download the object as ``filename`` for ``seconds``; the store is not asked.

        None if this kind of store has no such thing.
        """
        ...

    def arrow_filesystem(self) -> tuple[Any, str]:
        """A ``pyarrow.fs.FileSystem`` and the lake's base path in it, for readers that want one."""
        ...


def ensure(store: Store, key: str, data: Content) -> bool:
    """Create the object, or find that it is there with the same bytes: True. False: other bytes are there."""
    if store.put_if_absent(key, data):
        return True
    if isinstance(data, Pieces):
        return store.size(key) == len(data) and object_sha256(store, key)[0] == data.sha256
    return store.get(key) == data


def ensure_content(store: Store, key: str, data: Content, error: type[DatalakeError]) -> None:
    """``ensure`` for content-addressed objects, where other bytes can only mean damage: raises ``error``."""
    if not ensure(store, key, data):
        raise error(
            f"object {key} holds other bytes than the {len(data)} its name says; "
            f"it was damaged or written by something else: delete it and run again"
        )


def missing(uri: str, key: str) -> NotFoundError:
    """The error for an object that is not there."""
    return NotFoundError(f"no object {key} in lake {uri}")
