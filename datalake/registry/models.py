"""The model repository: names whose versions are sets of files, and where they came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datalake.canonical import digest_of
from datalake.clock import System
from datalake.errors import CorruptObjectError, NotFoundError
from datalake.log.claims import claimed
from datalake.log.versioned import Version, VersionedNames, VersionedRepository
from datalake.log.versions import Record, Versions
from datalake.names import check_name, parse_ref
from datalake.store.content import Content, ContentReader, content_sha256
from datalake.store.interface import Store, ensure_content

FileList = dict[str, dict[str, Any]]
"""File names to ``{"sha256", "bytes"}``."""


@dataclass(frozen=True, kw_only=True)
class ModelVersion(Version):
    """One immutable version of a model.

    ``files`` maps file names to ``{"sha256", "bytes"}`` below ``key_prefix``; ``digest`` covers the files and their
    origins, not times, authors or metrics. ``datasets``, ``params`` and ``parents`` are ``NAME@V`` references.
    """

    key_prefix: str
    files: dict[str, dict[str, Any]]
    run: str
    datasets: tuple[str, ...]
    spec_digests: tuple[str, ...]
    params: tuple[str, ...]
    metrics: dict[str, Any]
    parents: tuple[str, ...]


class ModelRepository(VersionedRepository[ModelVersion]):
    """Models of one lake."""

    def __init__(self, store: Store, system: System) -> None:
        super().__init__(VersionedNames(store, "models", "model", "models", system))
        self._store = store

    def publish(
        self,
        name: str,
        files: Mapping[str, Content],
        *,
        run: str,
        datasets: Sequence[str] = (),
        spec_digests: Sequence[str] = (),
        params: Sequence[str] = (),
        metrics: Mapping[str, Any] | None = None,
        parents: Sequence[str] = (),
        message: str = "",
    ) -> ModelVersion:
        """Store ``files`` and make them the next version of ``name``.

        A publication equal in files and origins to an existing version (a job run again) returns that version.
        Raises ObjectTooLargeError for a file that the store does not take in one request.
        """
        listed = list_files(files)
        origin = _origin(listed, run, datasets, spec_digests, params, parents)
        for filename, data in files.items():
            self.put_file(name, listed, filename, data)
        return self._add(name, origin, metrics, message)

    def put_file(self, name: str, listed: FileList, filename: str, data: Content) -> None:
        """Store one of the files ``listed`` for a version that ``add_version`` will make; ObjectTooLargeError.

        A caller that cannot hold all files at once stores them one by one; nothing shows them before the version.
        """
        self.versioned.log(name)  # refuses a bad name
        ensure_content(self._store, f"{_prefix(name, listed)}/{filename}", data, CorruptObjectError)

    def add_version(
        self,
        name: str,
        listed: FileList,
        *,
        run: str,
        datasets: Sequence[str] = (),
        spec_digests: Sequence[str] = (),
        params: Sequence[str] = (),
        metrics: Mapping[str, Any] | None = None,
        parents: Sequence[str] = (),
        message: str = "",
    ) -> ModelVersion:
        """``publish`` for files that ``put_file`` has stored."""
        return self._add(name, _origin(listed, run, datasets, spec_digests, params, parents), metrics, message)

    def _add(self, name: str, origin: dict[str, Any], metrics: Mapping[str, Any] | None, message: str) -> ModelVersion:
        digest = digest_of(origin)  # without metrics, which may hold times: a job run again publishes nothing new
        prefix = _prefix(name, origin["files"])

        published: list[Record] = []

        def add(versions: Versions) -> dict[str, Any] | None:
            there = self.versioned.find(name, versions, digest)
            published[:] = [there] if there else []
            if there:
                return None
            self.versioned.mark(name, versions, digest)
            stamp = self.versioned.stamp(versions.count + 1, message)
            details = {"digest": digest, "key_prefix": prefix, "metrics": dict(metrics or {})}
            return versions.with_version({**stamp, **origin, **details})

        keys = [f"{prefix}/{filename}" for filename in origin["files"]]
        self.versioned.log(name)  # refuses a bad name before anything is written
        with claimed(self._store, self.versioned.system, keys, f"publication of model {name}"):
            there = {*self._store.list(f"{prefix}/")}
            if absent := [key for key in keys if key not in there]:
                raise NotFoundError(f"{absent[0]} is not in lake {self._store.uri}: store the files before the version")
            _entry, versions = self.versioned.update(name, add, message)
        return self._version(name, published[0] if published else versions.record(versions.count))

    def _objects(self, version: ModelVersion) -> Sequence[str]:
        return [f"{version.key_prefix}/{filename}" for filename in version.files]

    def _version(self, name: str, record: Record) -> ModelVersion:
        lists = {field: tuple(record[field]) for field in ("datasets", "spec_digests", "params", "parents")}
        return ModelVersion(name=name, **{**record, **lists})

    def open_file(self, version: ModelVersion | str, filename: str) -> bytes:
        """A file's bytes, verified: for small ones. Raises NotFoundError, RetiredError or CorruptObjectError."""
        reader = self.open_reader(version, filename)
        data = reader.read(reader.size)
        reader.finish()
        return data

    def find_file(self, sha256: str) -> bytes | None:
        """The verified bytes of a file with that SHA-256 in any version of any model; None if there is none."""
        for name in self.names():
            for version in self.history(name):
                for filename, facts in version.files.items():
                    if facts["sha256"] == sha256:
                        return self.open_file(version, filename)
        return None

    def open_reader(self, version: ModelVersion | str, filename: str) -> ContentReader:
        """A file to be read once from front to back and right if ``finish`` says so; it is never held whole.

        Raises NotFoundError and RetiredError; reading raises CorruptObjectError.
        """
        version = self.check_usable(self.get(version) if isinstance(version, str) else version)
        if filename not in version.files:
            raise NotFoundError(f"model {version.ref} has no file {filename!r}: it has {', '.join(version.files)}")
        return ContentReader.of_object(
            self._store,
            f"{version.key_prefix}/{filename}",
            version.files[filename]["sha256"],
            what=f" of model {version.ref}",
            advice=f"move it away and publish again from run {version.run!r}",
        )

    def read_range(self, version: ModelVersion, filename: str, start: int, length: int) -> bytes:
        """Some bytes of a file of ``version``, unverified: to look into its header before it is read."""
        return self._store.get_range(f"{version.key_prefix}/{filename}", start, length)


def list_files(files: Mapping[str, Content]) -> FileList:
    """SHA-256 and size of each file by name: what names a version's files, before they are stored."""
    return {name: {"sha256": content_sha256(data), "bytes": len(data)} for name, data in sorted(files.items())}


def _prefix(name: str, listed: FileList) -> str:
    return f"model-files/{name}/{digest_of(dict(sorted(listed.items())))}"


def _origin(
    listed: FileList,
    run: str,
    datasets: Sequence[str],
    spec_digests: Sequence[str],
    params: Sequence[str],
    parents: Sequence[str],
) -> dict[str, Any]:
    """What a version is known by; InvalidNameError for a reference that cannot be one."""
    check_name(run, "run")
    for what, refs in (("dataset", datasets), ("parameter set", params), ("model", parents)):
        for ref in refs:
            parse_ref(ref, what)
    return {
        "files": dict(sorted(listed.items())),
        "run": run,
        "datasets": list(datasets),
        "spec_digests": list(spec_digests),
        "params": list(params),
        "parents": list(parents),
    }
