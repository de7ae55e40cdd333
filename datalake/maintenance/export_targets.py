"""Where an export's files go: a folder, or a prefix in a bucket. A file appears under its name when it is whole."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from datalake.errors import ExportRefusedError, LakePathError
from datalake.store.addresses import S3Address, expanded, parse_address
from datalake.store.content import CHUNK_BYTES, Pieces
from datalake.store.interface import ensure

if TYPE_CHECKING:
    from datalake.store.s3 import S3Store

_IN_MEMORY = 32 << 20  # bytes of a file that is being made for a bucket; the rest lies in the temporary folder
_PART = ".part"


class ExportTarget(Protocol):
    """A place of one export alone. Picklable, so that other processes may write there, too.

    Every method may raise LakePathError, and what a store raises.
    """

    @property
    def address(self) -> str:
        """How it was named."""
        ...

    def found(self) -> dict[str, int]:
        """Name and size in bytes of whatever lies there; a folder that is not there yet is empty."""
        ...

    def read(self, name: str) -> bytes:
        """A small file."""
        ...

    def create(self, name: str, data: bytes) -> None:
        """Write a small file unless one of that name is there."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Write a small file, whatever is there."""
        ...

    def writing(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A file to write to, which gets its name when the block ends well and leaves nothing if it does not.

        Raises ExportRefusedError if a file of this name with other bytes came to lie in a bucket meanwhile.
        """
        ...

    def end(self, note: str) -> None:
        """Remove what interrupted writes have left, and file ``note``."""
        ...


@dataclass(frozen=True)
class FolderTarget:
    """Files in a folder of this machine, or one that several share."""

    folder: Path

    @property
    def address(self) -> str:
        return str(self.folder)

    def found(self) -> dict[str, int]:
        with self._translated():
            self.folder.mkdir(parents=True, exist_ok=True)
            return {path.name: path.lstat().st_size for path in self.folder.iterdir() if not _is_part(path.name)}

    def read(self, name: str) -> bytes:
        with self._translated():
            return (self.folder / name).read_bytes()

    def create(self, name: str, data: bytes) -> None:
        if not (self.folder / name).exists():
            self.replace(name, data)

    def replace(self, name: str, data: bytes) -> None:
        with self.writing(name) as file:
            file.write(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        # Two may write the same file, such as a task that was given up and its repetition: each has its own part.
        part = self.folder / f".{name}.{uuid.uuid4().hex}{_PART}"
        with self._translated():
            try:
                with part.open("xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(self.folder / name)
            finally:
                part.unlink(missing_ok=True)

    def end(self, note: str) -> None:
        with self._translated():
            for path in self.folder.iterdir():
                if _is_part(path.name):
                    path.unlink(missing_ok=True)
            (self.folder / note).unlink(missing_ok=True)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LakePathError(
                f"export folder {self.folder}: {error.strerror or error}: give a folder that you may write, with room "
                "for the files"
            ) from error


@dataclass(frozen=True)
class S3Target:
    """Objects below a prefix of a bucket, each made in the temporary folder and written by one conditional request."""

    store: S3Store

    @property
    def address(self) -> str:
        return self.store.uri

    def found(self) -> dict[str, int]:
        return self.store.everything()

    def read(self, name: str) -> bytes:
        return self.store.get(name)

    def create(self, name: str, data: bytes) -> None:
        self.store.create(name, data)

    def replace(self, name: str, data: bytes) -> None:
        self.store.replace(name, data)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        try:
            with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
                yield file
                content = Pieces(file.seek(0, os.SEEK_END), partial(_chunks, file))
                if not (self.store.create(name, content) or ensure(self.store, name, content)):
                    raise ExportRefusedError(
                        f"{self.address}/{name} holds other bytes than this export writes: give an empty prefix"
                    )
        except OSError as error:
            raise LakePathError(
                f"the temporary folder {tempfile.gettempdir()}: {error.strerror or error}: make room there, or set "
                "TMPDIR to a folder that has some"
            ) from error

    def end(self, note: str) -> None:
        self.store.delete(note)


def open_target(address: str) -> ExportTarget:
    """The folder or ``s3://bucket/prefix`` of that address, looked at before any work.

    Raises LakePathError, BucketNotFoundError, CredentialsError, StoreRefusedError or StoreUnavailableError.
    """
    parsed = parse_address(address)
    if isinstance(parsed, S3Address):
        from datalake.store.s3 import S3Store  # boto3 takes 0.3 s to import

        store = S3Store(parsed.uri)
        store.check()
        return S3Target(store)
    return FolderTarget(expanded(parsed, "export folder"))


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    at = 0
    while True:
        file.seek(at)
        data = file.read(CHUNK_BYTES)
        if not data:
            return
        at += len(data)
        yield data


def _is_part(name: str) -> bool:
    return name.startswith(".") and name.endswith(_PART)
