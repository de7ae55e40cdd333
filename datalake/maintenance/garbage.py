"""Garbage: objects that no live record names, found by marking from every dataset, model, run and parameter set.

Garbage is what jobs left that died before they committed, damaged bytes put aside, checkpoints let go, and what only
versions and runs named that were retired longer ago than a grace period: their records, manifests, specs and curves
stay, for the lineage of others. An object is swept only if nothing names it, if it is older than the grace period, and
if everything beside it (in ``data/<digest>/``, ``checkpoints/<run>/``, …) is older too: a job may be about to name what
an earlier attempt of it wrote. A commit that names such objects at this very moment and a sweep keep out of each
other's way, see ``log.claims``. Kinds of objects that this page does not know are never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from datalake.errors import GraceError
from datalake.lake import Lake
from datalake.log.claims import CLAIMS, COLLECTIONS, Note, collecting, group_of, notes
from datalake.reading.attempts import attempts_folder
from datalake.runs.run import METRICS
from datalake.shards.manifest import load_manifest
from datalake.store.conformance import CONFORMANCE_KEY
from datalake.store.interface import ObjectInfo

SWEPT = (
    *("data/", "attempts/", "manifests/", "specs/", "tokenizers/", "model-files/", "checkpoints/"),
    *("quarantine/", "probe/"),
    "access/sessions/",  # where browser sessions were kept before they were signed
)
DEFAULT_GRACE = timedelta(days=7)
SHORTEST_GRACE = timedelta(hours=1)


@dataclass(frozen=True)
class Garbage:
    """What a sweep would remove: ``objects``, and ``leftovers`` of writes never finished.

    ``live`` objects are named by some record; ``young`` ones are not but may be soon, or are claimed; ``claims`` and
    ``collections`` are the notes of commits and sweeps that go on, or whose process was killed.
    """

    objects: tuple[ObjectInfo, ...]
    leftovers: tuple[ObjectInfo, ...]
    live: int
    young: int
    before: datetime
    claims: tuple[Note, ...] = ()
    collections: tuple[Note, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of all that would be removed."""
        return sum(info.size for info in (*self.objects, *self.leftovers))


def live_keys(lake: Lake, before: datetime) -> set[str]:
    """Every key that a record of the lake names which was not retired before that time.

    Raises CorruptObjectError or NotFoundError if a record is unreadable: then nothing can be said about what is
    garbage.
    """
    keys = {CONFORMANCE_KEY}
    digests: set[str] = set()
    for name in lake.params.names():
        digests |= set(lake.params.digests(name))
    for dataset in lake.datasets.list():
        kept = lake.datasets.versioned.retired_since(dataset.name, before)
        for version in lake.datasets.history(dataset.name):
            manifest = load_manifest(lake.store, version.digest)
            keys.add(manifest.key)
            if not version.retired or version.version in kept:
                keys |= {ref.key for ref in manifest.shards}
                if manifest.is_computed:
                    keys |= set(lake.store.list(attempts_folder(manifest.source)))
            digests.add(manifest.source.spec_digest)
            if tokenizer := manifest.source.spec.get("tokenizer_digest"):
                keys.add(f"tokenizers/{tokenizer}.json")
    keys |= {f"specs/{digest}.json" for digest in digests}
    for model in lake.models.list():
        kept = lake.models.versioned.retired_since(model.name, before)
        for published in lake.models.history(model.name):
            if not published.retired or published.version in kept:
                keys |= {f"{published.key_prefix}/{file}" for file in published.files}
    for run in lake.runs.list():
        known = lake.runs.get(run)
        retired = known.state.get("retired")
        gone = retired is not None and datetime.fromisoformat(retired["time"]) < before
        for checkpoint in known.recorded_checkpoints():
            names = [*(checkpoint.files if not gone else ()), *([METRICS] if checkpoint.metrics else [])]
            keys |= {f"{checkpoint.key_prefix}/{name}" for name in names}
    return keys


def find_garbage(lake: Lake, grace: timedelta = DEFAULT_GRACE) -> Garbage:
    """What nothing names and nothing young lies beside. Raises GraceError, or what ``live_keys`` raises."""
    if grace < SHORTEST_GRACE:
        raise GraceError(
            f"grace period is {grace}: give {SHORTEST_GRACE} or more, and more than the longest job takes to commit"
        )
    before = lake.system.clock() - grace
    # Listed before marking: what is written and named in between is then not on the list.
    groups: dict[str, list[ObjectInfo]] = {}
    for info in _swept(lake):
        groups.setdefault(group_of(info.key), []).append(info)
    claims = notes(lake.store, CLAIMS)
    held = {group for note in claims for group in note.groups}
    live = live_keys(lake, before)
    unnamed = {name: [info for info in infos if info.key not in live] for name, infos in groups.items()}
    old = {
        name: infos
        for name, infos in unnamed.items()
        if name not in held and all(info.written < before for info in groups[name])
    }
    return Garbage(
        objects=tuple(sorted(info for infos in old.values() for info in infos)),
        leftovers=tuple(info for info in lake.store.leftovers() if info.written < before),
        live=sum(map(len, groups.values())) - sum(map(len, unnamed.values())),
        young=sum(len(infos) for name, infos in unnamed.items() if name not in old),
        before=before,
        claims=tuple(claims),
        collections=tuple(notes(lake.store, COLLECTIONS)),
    )


def sweep(
    lake: Lake, garbage: Garbage, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> frozenset[str]:
    """Remove ``garbage``, looking again first at what is claimed and named now. Returns the keys of what went."""
    with collecting(lake.store, lake.system, {group_of(info.key) for info in garbage.objects}) as held:
        live = live_keys(
            lake, garbage.before
        )  # after the claims: a commit that has taken its claim away has appended before
        doomed = [info.key for info in garbage.objects if info.key not in live and group_of(info.key) not in held]
        total = len(doomed) + len(garbage.leftovers)
        for done, key in enumerate(doomed, start=1):
            lake.store.delete(key)
            progress(done, total)
    for info in garbage.leftovers:
        lake.store.discard(info.key)
    return frozenset((*doomed, *(info.key for info in garbage.leftovers)))


def _swept(lake: Lake) -> Iterator[ObjectInfo]:
    for prefix in SWEPT:
        yield from lake.store.infos(prefix)
