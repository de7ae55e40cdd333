"""The parameter registry: named, numbered, immutable specs, the authority that every generator obeys.

A spec is any JSON object here; whoever puts one validates it first. Its canonical JSON is stored once under its
digest (``specs/<digest>.json``), and the version log of its name says which digest each version is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datalake.canonical import canonical_json, parse_json, sha256_hex
from datalake.clock import Ambient
from datalake.errors import Conflict, CorruptObjectError
from datalake.log.changes import Change, FieldChange, diff_specs, watch
from datalake.log.versioned import Record, Version, VersionedNames, VersionedRepository, empty_state
from datalake.store.interface import Store, ensure_content


@dataclass(frozen=True, kw_only=True)
class ParameterVersion(Version):
    """One immutable version of a parameter set; ``digest`` is SHA-256 of the spec's canonical JSON."""

    spec: dict[str, Any]


class ParameterRegistry(VersionedRepository[ParameterVersion]):
    """Parameter sets of one lake."""

    def __init__(self, store: Store, ambient: Ambient) -> None:
        super().__init__(VersionedNames(store, "params", "parameter set", "params", ambient))
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
        log = self.versioned.log(name)
        data = canonical_json(dict(spec))
        digest = sha256_hex(data)
        taken: list[int] = []

        def add(state: dict[str, Any] | None) -> dict[str, Any] | None:
            state = state or empty_state()
            latest = len(state["versions"])
            if expect_version is not None and latest != expect_version:
                raise Conflict(
                    f"parameter set {name!r}: expected version {expect_version} to be the latest, found {latest}: "
                    f"see `morphogen params history {name}` and try again",
                    expected=expect_version,
                    found=latest,
                )
            if latest and state["versions"][-1]["digest"] == digest and not force:
                taken[:] = [latest]
                return None
            ensure_content(self._store, f"specs/{digest}.json", data, CorruptObjectError)
            state["versions"].append({**self.versioned.stamp(latest + 1, message), "digest": digest})
            taken[:] = [latest + 1]
            return state

        entry = log.update(add, message)
        return self._version(name, entry.state["versions"][taken[0] - 1])

    def digests(self, name: str) -> Sequence[str]:
        """The spec digest of every version of ``name``, oldest first, without reading specs. Raises NotFoundError."""
        return [record["digest"] for record in self.versioned.state(name)["versions"]]

    def diff(self, old: str, new: str) -> Sequence[FieldChange]:
        """The fields in which the specs of two references differ, by path. Raises NotFoundError."""
        return diff_specs(self.get(old).spec, self.get(new).spec)

    def watch(
        self, name: str, after: int | None = None, interval: float = 2.0, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Change]:
        """New versions and moved aliases of ``name`` as they happen; see ``changes.watch``."""
        return watch(self.versioned.log(name), self.versioned.ambient, after, interval, stop)

    def _version(self, name: str, record: Record) -> ParameterVersion:
        key = f"specs/{record['digest']}.json"
        data = self._store.get(key)
        if sha256_hex(data) != record["digest"]:
            raise CorruptObjectError(f"object {key} has digest {sha256_hex(data)}: restore it from a copy of the lake")
        return ParameterVersion(name=name, spec=parse_json(data, key), **record)
