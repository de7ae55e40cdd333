"""The dataset repository: names whose versions are manifests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datalake.clock import System
from datalake.errors import Conflict, ManifestError
from datalake.log.claims import claimed
from datalake.log.versioned import Version, VersionedNames, VersionedRepository
from datalake.log.versions import Record, Versions
from datalake.names import parse_ref
from datalake.shards.manifest import Manifest, load_manifest, save_manifest
from datalake.store.interface import Store


@dataclass(frozen=True, kw_only=True)
class DatasetVersion(Version):
    """One immutable version of a dataset. ``digest`` is its manifest's; ``params`` the ``NAME@V`` it was made by.

    ``computed``: it names no shards, and its rows are computed where they are read. ``same_rows_as`` is an earlier
    version of the same name with the same rows, if there was one that was not retired: one of them is stored, or was
    written otherwise.
    """

    kind: str
    params: str | None
    sequences: int
    tokens: int
    computed: bool = False
    same_rows_as: int | None = None


class DatasetRepository(VersionedRepository[DatasetVersion]):
    """Datasets of one lake."""

    def __init__(self, store: Store, system: System) -> None:
        super().__init__(VersionedNames(store, "datasets", "dataset", "data", system))
        self._store = store

    def commit(
        self, name: str, manifest: Manifest, params: str | None = None, message: str = "", version: int | None = None
    ) -> DatasetVersion:
        """Make ``manifest`` the next version of ``name``, all its shards (a computed dataset has none) in the store.

        If some version of ``name`` has this manifest already, that version is returned and nothing is stored: of
        commits that race with the same data, one version remains. Raises ManifestError naming a shard that is absent,
        and Conflict if ``version`` is given and the manifest would become, or is, another one.
        """
        if params is not None:
            parse_ref(params, "parameter set")

        def add(versions: Versions) -> dict[str, Any] | None:
            of_before: list[Record] = []  # versions with these shards, whose digest of the tokens was made otherwise

            def has_these_rows(record: Record) -> bool:
                same_size = (record["sequences"], record["kind"]) == (manifest.sequences, manifest.kind)
                if not same_size or versions.is_retired(record["version"]):
                    return False
                theirs = load_manifest(self._store, record["digest"])
                if theirs.model_copy(update={"content_digest": manifest.content_digest}) == manifest:
                    of_before.append(record)
                return theirs.identity == manifest.identity

            there = self.versioned.find(name, versions, manifest.digest)
            same = None if there else self.versioned.find(name, versions, manifest.identity, has_these_rows)
            if not there and versions.count and not of_before:  # an old version may have left no mark to find it by
                has_these_rows(versions.record(versions.count))
            there = there or (of_before[-1] if of_before else None)
            found = there["version"] if there else versions.count + 1
            if version not in (None, found):
                raise Conflict(
                    f"this data {'is' if there else 'would be'} {name}@{found}, not {name}@{version}: "
                    f"name it as {name}@{found}",
                    expected=version or 0,
                    found=found,
                )
            committed[:] = [there] if there else []
            if there:
                return None
            for digest in {manifest.digest, manifest.identity}:
                self.versioned.mark(name, versions, digest)
            return versions.with_version(
                {
                    **self.versioned.stamp(versions.count + 1, message),
                    "digest": manifest.digest,
                    "kind": manifest.kind,
                    "params": params,
                    "sequences": manifest.sequences,
                    "tokens": manifest.tokens,
                    # Said only where it is so: other records stay as older releases wrote and read them.
                    **({"computed": True} if manifest.is_computed else {}),
                    **({"same_rows_as": same["version"]} if same else {}),
                }
            )

        committed: list[Record] = []
        self.versioned.log(name)  # refuses a bad name before anything is written
        with claimed(self._store, self.versioned.system, _named(manifest), f"commit of dataset {name}"):
            self._check_objects(manifest)
            save_manifest(self._store, manifest)
            _entry, versions = self.versioned.update(name, add, message)
        return self._version(name, committed[0] if committed else versions.record(versions.count))

    def _objects(self, version: DatasetVersion) -> Sequence[str]:
        return _named(self.manifest(version))

    def _version(self, name: str, record: Record) -> DatasetVersion:
        return DatasetVersion(name=name, **record)

    def manifest(self, version: DatasetVersion | str) -> Manifest:
        """The manifest of a version or reference. Raises NotFoundError or CorruptObjectError."""
        if isinstance(version, str):
            version = self.get(version)
        return load_manifest(self._store, version.digest)

    def _check_objects(self, manifest: Manifest) -> None:
        """A listing per folder costs one request per thousand shards, and no commit can then name a hole."""
        folders = {ref.key.rpartition("/")[0] + "/" for ref in manifest.shards}
        there = {key for folder in folders for key in self._store.list(folder)}
        absent = [ref.key for ref in manifest.shards if ref.key not in there]
        if absent:
            raise ManifestError(
                f"{len(absent)} of {len(manifest.shards)} shards are not in lake {self._store.uri}, the first is "
                f"{absent[0]}: write them before committing"
            )
        for key in _tokenizer(manifest):
            if not self._store.exists(key):
                raise ManifestError(f"{key} is not in lake {self._store.uri}: store the tokenizer before committing")


def _named(manifest: Manifest) -> list[str]:
    """The keys of all objects that a version with ``manifest`` names."""
    return [manifest.key, *(ref.key for ref in manifest.shards), *_tokenizer(manifest)]


def _tokenizer(manifest: Manifest) -> list[str]:
    """The key of the tokenizer that the text of a dataset was encoded with, if it names one."""
    digest = manifest.source.spec.get("tokenizer_digest")
    return [f"tokenizers/{digest}.json"] if digest else []
