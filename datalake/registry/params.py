"""The parameter registry: named, numbered, immutable specs, the authority that every generator obeys.

A spec is any JSON object here; whoever puts one validates it first. Its canonical JSON is stored once under its
digest (``specs/<digest>.json``), and the version log of its name says which digest each version is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datalake.canonical import canonical_json, parse_json, sha256_hex
from datalake.clock import System
from datalake.errors import Conflict, CorruptObjectError
from datalake.log.changes import Change, FieldChange, diff_specs, watch
from datalake.log.claims import claimed
from datalake.log.version_log import ChangeRequest
from datalake.log.versioned import Outcome, Version, VersionedNames, VersionedRepository
from datalake.log.versions import Record, Versions
from datalake.store.interface import Store, ensure_content


@dataclass(frozen=True, kw_only=True)
class ParameterVersion(Version):
    """One immutable version of a parameter set; ``digest`` is SHA-256 of the spec's canonical JSON."""

    spec: dict[str, Any]


class ParameterRegistry(VersionedRepository[ParameterVersion]):
    """Parameter sets of one lake."""

    def __init__(self, store: Store, system: System) -> None:
        super().__init__(VersionedNames(store, "params", "parameter set", "params", system))
        self._store = store

    def put(
        self,
        name: str,
        spec: Mapping[str, Any],
        message: str = "",
        expect_version: int | None = None,
        force: bool = False,
    ) -> ParameterVersion:
        """Store ``spec`` as the next version of ``name``.

        A spec equal to the latest version returns that version and stores nothing, unless ``force``. With
        ``expect_version`` the latest version must be that one (0: the name must be new), else Conflict.
        """

        def check(latest: int) -> None:
            if expect_version is not None and latest != expect_version:
                raise Conflict(not_latest(name, expect_version, latest), expected=expect_version, found=latest)

        return self.put_once(name, spec, None, message=message, check=check, force=force).version

    def put_once(
        self,
        name: str,
        spec: Mapping[str, Any],
        request: ChangeRequest | None,
        *,
        message: str = "",
        check: Callable[[int], None] = lambda _latest: None,
        force: bool = False,
    ) -> Outcome[ParameterVersion]:
        """``put`` for a client's ``request``, done once however often it comes.

        ``check`` is given the latest version (0: the name is new), and may raise. Raises KeyReusedError.
        """
        data = canonical_json(dict(spec))
        digest = sha256_hex(data)

        def add(versions: Versions) -> dict[str, Any] | None:
            check(versions.newest_kept or versions.count)  # the version that a reader is given as the latest
            latest = versions.latest
            if latest and latest["digest"] == digest and not versions.is_retired(versions.count) and not force:
                return None
            ensure_content(self._store, key, data, CorruptObjectError)
            return versions.with_version({**self.versioned.stamp(versions.count + 1, message), "digest": digest})

        key = f"specs/{digest}.json"
        self.versioned.log(name)  # refuses a bad name before anything is written
        with claimed(self._store, self.versioned.system, [key], f"put of parameter set {name}"):
            entry, versions = self.versioned.update(name, add, message, request)
        record = versions.record(entry.answer or versions.count)
        known = {digest: parse_json(data, name)} if record["digest"] == digest else {}
        return Outcome(self._version(name, record, known), entry.changed, entry.replayed)

    def digests(self, name: str) -> Sequence[str]:
        """The spec digest of every version of ``name``, oldest first, without reading specs. Raises NotFoundError."""
        versions = self.versioned.versions(name)
        return [record["digest"] for record in versions.records(1, versions.count)]

    def diff(self, old: str, new: str) -> Sequence[FieldChange]:
        """The fields in which the specs of two references differ, by path. Raises NotFoundError."""
        return diff_specs(self.get(old).spec, self.get(new).spec)

    def watch(
        self, name: str, after: int | None = None, interval: float = 2.0, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Change]:
        """New versions and moved aliases of ``name`` as they happen; see ``changes.watch``."""
        return watch(self.versioned.log(name), self.versioned.system, after, interval, stop)

    def _objects(self, version: ParameterVersion) -> Sequence[str]:
        return [f"specs/{version.digest}.json"]

    def _version(self, name: str, record: Record, known: Mapping[str, Any] | None = None) -> ParameterVersion:
        """``known`` are specs by digest that need not be read."""
        digest = record["digest"]
        if known and digest in known:
            return ParameterVersion(name=name, spec=known[digest], **record)
        key = f"specs/{digest}.json"
        data = self._store.get(key)
        if sha256_hex(data) != digest:
            raise CorruptObjectError(f"object {key} has digest {sha256_hex(data)}: restore it from a copy of the lake")
        return ParameterVersion(name=name, spec=parse_json(data, key), **record)


def not_latest(name: str, expected: int, found: int) -> str:
    """The message where another version of ``name`` than the one expected is the latest."""
    return (
        f"parameter set {name!r}: expected version {expected} to be the latest, found {found}: "
        f"see `morphogen params history {name}` and try again"
    )
