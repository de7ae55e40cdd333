"""The model repository: names whose versions are sets of files, and where they came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datalake.ambient import Ambient
from datalake.canonical import digest_of, sha256_hex
from datalake.errors import CorruptObjectError, NotFoundError
from datalake.names import check_name, parse_ref
from datalake.store import Store, ensure_content
from datalake.versioned import Record, Version, VersionedNames, VersionedRepository, empty_state


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

    def __init__(self, store: Store, ambient: Ambient) -> None:
        super().__init__(VersionedNames(store, "models", "model", "models", ambient))
        self._store = store

    def publish(
        self,
        name: str,
        files: Mapping[str, bytes],
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
        """
        check_name(run, "run")
        for what, refs in (("dataset", datasets), ("parameter set", params), ("model", parents)):
            for ref in refs:
                parse_ref(ref, what)
        listed = {key: {"sha256": sha256_hex(data), "bytes": len(data)} for key, data in sorted(files.items())}
        origin = {
            "files": listed,
            "run": run,
            "datasets": list(datasets),
            "spec_digests": list(spec_digests),
            "params": list(params),
            "parents": list(parents),
        }
        digest = digest_of(origin)  # without metrics, which may hold times: a job run again publishes nothing new
        log = self.versioned.log(name)
        prefix = f"model-files/{name}/{digest_of(listed)}"
        for key, data in files.items():
            ensure_content(self._store, f"{prefix}/{key}", data, CorruptObjectError)

        def add(state: dict[str, Any] | None) -> dict[str, Any] | None:
            state = state or empty_state()
            if any(record["digest"] == digest for record in state["versions"]):
                return None
            stamp = self.versioned.stamp(len(state["versions"]) + 1, message)
            details = {"digest": digest, "key_prefix": prefix, "metrics": dict(metrics or {})}
            state["versions"].append({**stamp, **origin, **details})
            return state

        entry = log.update(add, message)
        return self._version(name, next(r for r in entry.state["versions"] if r["digest"] == digest))

    def _version(self, name: str, record: Record) -> ModelVersion:
        lists = {field: tuple(record[field]) for field in ("datasets", "spec_digests", "params", "parents")}
        return ModelVersion(name=name, **{**record, **lists})

    def open_file(self, version: ModelVersion | str, filename: str) -> bytes:
        """A file's bytes, verified. Raises NotFoundError or CorruptObjectError."""
        if isinstance(version, str):
            version = self.get(version)
        if filename not in version.files:
            raise NotFoundError(f"model {version.ref} has no file {filename!r}: it has {', '.join(version.files)}")
        key = f"{version.key_prefix}/{filename}"
        data = self._store.get(key)
        expected = version.files[filename]["sha256"]
        if (found := sha256_hex(data)) != expected:
            raise CorruptObjectError(
                f"object {key} of model {version.ref} is corrupt: expected SHA-256 {expected}, found {found} in "
                f"{len(data)} bytes: move it away and publish again from run {version.run!r}"
            )
        return data
