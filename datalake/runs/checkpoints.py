"""A checkpoint's record and its files: uploaded, read back, and verified again before anyone resumes from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from datalake.canonical import sha256_hex
from datalake.errors import CorruptObjectError, NotFoundError
from datalake.store.content import Content, ContentReader, content_sha256, object_sha256
from datalake.store.interface import Store

GO_BACK = "resume the run, which goes back to the newest checkpoint that verifies"


class Checkpoint(BaseModel):
    """What a run's log says of one checkpoint.

    ``files`` maps file names below ``key_prefix`` to SHA-256; ``metrics`` is the SHA-256 of ``metrics.jsonl`` there,
    if any; ``parent`` is the ``key_prefix`` of the checkpoint that this one goes on from. A ``dropped`` one has no
    files any more, but its metrics, which are part of the run's curve.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(ge=0)
    key_prefix: str
    files: dict[str, str]
    metrics: str | None = None
    parent: str | None = None
    time: str = ""
    dropped: bool = False


class SkippedCheckpoint(NamedTuple):
    """A checkpoint that does not verify, and what is wrong with it, in one line."""

    step: int
    key_prefix: str
    problem: str


def upload_files(store: Store, prefix: str, files: Mapping[str, Content]) -> dict[str, str]:
    """Create ``prefix/name`` for each file and read it back; returns names to SHA-256.

    Raises CorruptObjectError, and ObjectTooLargeError for a file that the store does not take in one request.
    """
    digests = {}
    for name, data in files.items():
        key = f"{prefix}/{name}"
        store.put_if_absent(key, data)
        digests[name] = content_sha256(data)
        if object_sha256(store, key)[0] != digests[name]:
            raise CorruptObjectError(
                f"object {key} reads back other than it was written ({len(data)} bytes): the store is losing data; "
                f"run `morphogen probe` on it"
            )
    return digests


class CheckpointFiles(Mapping[str, bytes]):
    """A checkpoint's files by name, each read and verified when it is asked for: a rank may need only a few of them.

    Asking raises NotFoundError or CorruptObjectError, or KeyError for a name that the checkpoint does not have.
    """

    def __init__(self, store: Store, checkpoint: Checkpoint) -> None:
        self._store = store
        self._checkpoint = checkpoint

    def __getitem__(self, name: str) -> bytes:
        return read_verified(self._store, f"{self._checkpoint.key_prefix}/{name}", self._checkpoint.files[name])

    def open(self, name: str) -> ContentReader:
        """The file, to be read once from front to back and right if ``finish`` says so. Raises as asking for it does.

        A file of gigabytes is never held whole this way.
        """
        key = f"{self._checkpoint.key_prefix}/{name}"
        return ContentReader.of_object(self._store, key, self._checkpoint.files[name], advice=GO_BACK)

    def __contains__(self, name: object) -> bool:
        return name in self._checkpoint.files

    def __iter__(self) -> Iterator[str]:
        return iter(self._checkpoint.files)

    def __len__(self) -> int:
        return len(self._checkpoint.files)


def read_verified(store: Store, key: str, sha256: str) -> bytes:
    """A file of a run. Raises NotFoundError, or CorruptObjectError if it is not what the log says."""
    data = store.get(key)
    if (found := sha256_hex(data)) != sha256:
        raise CorruptObjectError(
            f"object {key} is corrupt: expected SHA-256 {sha256}, found {found} in {len(data)} bytes: {GO_BACK}"
        )
    return data


def check_files(store: Store, checkpoint: Checkpoint) -> str | None:
    """None if every file of the checkpoint (its metrics too) is there and intact, else what is wrong in one line."""
    wanted = dict(checkpoint.files)
    if checkpoint.metrics is not None:
        wanted["metrics.jsonl"] = checkpoint.metrics
    for name, expected in wanted.items():
        try:
            found, size = object_sha256(store, f"{checkpoint.key_prefix}/{name}")
        except NotFoundError:
            return f"{name} is missing"
        if found != expected:
            return f"{name} is corrupt: {size} bytes with SHA-256 {found}, expected {expected}"
    return None
