"""What parameter sets, datasets and models share: a name with versions 1, 2, … and aliases, kept in a version log.

Entry numbers are not version numbers: moving an alias or retiring a version appends an entry but makes no version. What
an entry holds is in ``versions``. A version that is looked for by its digest is found through the marks at
``digests/<kind>/<name>/<digest>/<entry>.json``: each is written before that entry is tried, so no version is without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from datalake.clock import System
from datalake.errors import Conflict, InUseError, NotFoundError, RetiredError
from datalake.log.claims import claimed
from datalake.log.version_log import ChangeRequest, LogEntry, VersionLog, logged_names
from datalake.log.versions import Record, Versions
from datalake.names import check_alias, check_name, parse_ref
from datalake.store.interface import Store


@dataclass(frozen=True, kw_only=True)
class Version:
    """One immutable version of a name. ``created`` is ISO 8601 UTC; ``digest`` is SHA-256 of what the version is.

    Of a ``retired`` version the record stays, for the lineage of what was made from it; what it named may be gone.
    """

    name: str
    version: int
    digest: str
    created: str
    author: str
    message: str
    retired: bool = False

    @property
    def ref(self) -> str:
        """``NAME@VERSION``."""
        return f"{self.name}@{self.version}"


_V = TypeVar("_V", bound=Version)


@dataclass(frozen=True)
class Outcome(Generic[_V]):
    """What became of a request for a change: the ``version`` it came to, whether it ``changed`` anything, and whether
    it had been done before (``replayed``)."""

    version: _V
    changed: bool
    replayed: bool


class VersionedNames:
    """All names of one kind. ``noun`` and ``command`` are how messages speak of them."""

    def __init__(self, store: Store, kind: str, noun: str, command: str, system: System) -> None:
        self.store = store
        self.system = system
        self.kind = kind
        self.noun = noun
        self.command = command

    def log(self, name: str) -> VersionLog:
        """The version log of ``name``."""
        return VersionLog(self.store, self.kind, check_name(name, self.noun), self.system, format=2)

    def names(self, after: str = "") -> Iterator[str]:
        """Every name that sorts after ``after``, sorted, looked at as it is asked for; see ``logged_names``."""
        return logged_names(self.store, self.kind, self.system, after)

    def versions(self, name: str) -> Versions:
        """The versions of ``name`` as they are now. Raises NotFoundError if there is none."""
        log = self.log(name)
        head = log.head()
        if head is None:
            raise NotFoundError(
                f"no {self.noun} named {name!r} in lake {self.store.uri}: see `morphogen {self.command} list`"
            )
        return Versions(head, log.entry)

    def resolve(self, ref: str) -> Record:
        """The version record that ``NAME``, ``NAME@V`` or ``NAME@ALIAS`` means. Raises NotFoundError."""
        name, selector = parse_ref(ref, self.noun)
        return self.pick(self.versions(name), name, selector)

    def pick(self, versions: Versions, name: str, selector: int | str | None) -> Record:
        """The record that ``selector`` means: a version, an alias, or None for the latest that is not retired.

        Where every version is retired, None means the last of them. ``retired`` in the record says so.
        """
        wanted = versions.aliases.get(selector) if isinstance(selector, str) else selector
        if selector is None:
            wanted = versions.newest_kept or versions.count
        if wanted is None or not 1 <= wanted <= versions.count:
            kind = "alias" if isinstance(selector, str) else "version"
            has = f"versions 1 to {versions.count}" if versions.count > 1 else "version 1 only"
            also = f" and aliases {', '.join(sorted(versions.aliases))}" if versions.aliases else ""
            raise NotFoundError(
                f"{self.noun} {name!r} has no {kind} {selector}: it has {has}{also}; "
                f"see `morphogen {self.command} show {name}`"
            )
        return self.marked(versions, wanted)

    def marked(self, versions: Versions, version: int) -> Record:
        """The record of ``version``, with ``retired`` if it is."""
        record = versions.record(version)
        return {**record, "retired": True} if versions.is_retired(version) else record

    def update(
        self,
        name: str,
        change: Callable[[Versions], dict[str, Any] | None],
        message: str = "",
        request: ChangeRequest | None = None,
    ) -> tuple[LogEntry, Versions]:
        """``VersionLog.update`` with the name's versions in place of its state (those of a new name are none)."""
        log = self.log(name)
        entry = log.append_next(lambda head: change(Versions(head, log.entry)), message, request)
        return entry, Versions(entry, log.entry)

    def find(
        self, name: str, versions: Versions, digest: str, fits: Callable[[Record], bool] | None = None
    ) -> Record | None:
        """The newest record with ``digest`` of a version that is not retired, None if there is none.

        With ``fits``, that it answers with True, of those marked with ``digest``, which is then no record's own.
        """
        is_it = fits or (lambda record: bool(record.get("digest") == digest))
        found = [record for record in versions.listed if is_it(record)]
        newest = versions.entry.number if versions.entry else 0
        for key in self.store.list(self._mark(name, digest, "")):
            number = int(key.rpartition("/")[2].removesuffix(".json"))
            if number <= newest:  # else another writer is about to try it
                record = self.log(name).entry(number).state.get("latest") or {}
                found += [record] if record and is_it(record) else []
        return next((record for record in reversed(found) if not versions.is_retired(record["version"])), None)

    def mark(self, name: str, versions: Versions, digest: str) -> None:
        """Leave the mark by which ``find`` finds a version with ``digest`` that the next entry is to make."""
        self.store.put_if_absent(self._mark(name, digest, f"{versions.next_entry:08d}.json"), b"{}")

    def _mark(self, name: str, digest: str, entry: str) -> str:
        return f"digests/{self.kind}/{name}/{digest}/{entry}"

    def tag(
        self,
        name: str,
        alias: str,
        version: int,
        expect: int | None = None,
        check: Callable[[int], None] = lambda _now: None,
        request: ChangeRequest | None = None,
    ) -> tuple[LogEntry, Versions]:
        """Point ``alias`` at ``version``; nothing is appended if it does already.

        With ``expect``, only if the alias points at that version now (0: does not exist), else Conflict. ``check`` is
        given the version that it points at, and may raise.
        """
        check_alias(alias)

        def move(versions: Versions) -> dict[str, Any] | None:
            if versions.entry is None:
                versions = self.versions(name)  # which says what is wrong
            if self.pick(versions, name, version).get("retired"):
                raise self.retired_error(name, version)
            now = versions.aliases.get(alias, 0)
            check(now)
            if expect is not None and now != expect:
                what = f"alias {alias!r} of {self.noun} {name!r}"
                raise Conflict(not_at(what, expect, now), expected=expect, found=now)
            return None if now == version else versions.with_alias(alias, version)

        return self.update(name, move, f"alias {alias} -> {version}", request)

    def retired_error(self, name: str, version: int) -> RetiredError:
        """The error of new work on a retired version."""
        ref = f"{name}@{version}"
        return RetiredError(
            f"{self.noun} {ref} is retired, and what it named may be gone: use another version (`morphogen "
            f"{self.command} show {name}` shows the latest), or `morphogen {self.command} delete {ref} --undo`, which "
            "works until `morphogen data gc` has removed something of it"
        )

    def retire(
        self,
        name: str,
        version: int,
        message: str,
        *,
        force: bool,
        check: Callable[[int], None] = lambda _now: None,
        request: ChangeRequest | None = None,
    ) -> tuple[LogEntry, Versions]:
        """Mark ``version`` as retired; nothing is appended if it is already.

        ``check`` is given the version (0: it is retired already), and may raise. Raises NotFoundError, and InUseError
        while an alias points at it, unless ``force``, which drops such aliases.
        """

        def end(versions: Versions) -> dict[str, Any] | None:
            if versions.entry is None:
                versions = self.versions(name)  # which says what is wrong
            already = self.pick(versions, name, version).get("retired", False)
            check(0 if already else version)
            if already:
                return None
            aliases = sorted(alias for alias, to in versions.aliases.items() if to == version)
            if aliases and not force:
                raise InUseError(
                    f"{self.noun} {name}@{version} is in use by its alias {', '.join(aliases)}: point "
                    f"{'it' if len(aliases) == 1 else 'them'} at another version first, or force it by name "
                    f"(--force {name}@{version}), which takes the alias away"
                )
            return versions.with_retired(version)

        return self.update(name, end, message or f"retire version {version}", request)

    def restore(self, name: str, version: int, message: str) -> Versions:
        """Take the mark of ``retire`` off ``version``; nothing is appended if it has none. Raises NotFoundError."""

        def begin(versions: Versions) -> dict[str, Any] | None:
            if versions.entry is None:
                versions = self.versions(name)  # which says what is wrong
            return versions.with_restored(version) if self.pick(versions, name, version).get("retired") else None

        return self.update(name, begin, message or f"restore version {version}")[1]

    def retired_since(self, name: str, time: datetime) -> set[int]:
        """The versions of ``name`` that are retired now and were not at ``time``, by the clocks of who retired them.

        It reads the entries since then, and the one before. Raises NotFoundError.
        """
        now = self.versions(name)
        if not now.retired or now.entry is None:
            return set()
        log, entry = self.log(name), now.entry
        while entry.number > 1 and datetime.fromisoformat(entry.time) >= time:
            entry = log.entry(entry.number - 1)
        long_ago = Versions(None if datetime.fromisoformat(entry.time) >= time else entry, log.entry)
        listed = {version for first, last in now.retired for version in range(first, last + 1)}
        return {version for version in listed if not long_ago.is_retired(version)}

    def stamp(self, version: int, message: str) -> Record:
        """The fields every version record begins with."""
        return {
            "version": version,
            "created": self.system.timestamp(),
            "author": self.system.author,
            "message": message,
        }


class VersionedRepository(Generic[_V]):
    """Reading, tagging and retiring the names of one kind; ``versioned`` knows their logs."""

    def __init__(self, versioned: VersionedNames) -> None:
        self.versioned = versioned

    def _version(self, name: str, record: Record) -> _V:
        """The version that ``record`` of ``name``'s log stands for."""
        raise NotImplementedError

    def get(self, ref: str) -> _V:
        """The version that ``NAME@V``, ``NAME@ALIAS`` or ``NAME`` (the latest) means. Raises NotFoundError."""
        return self._version(ref.partition("@")[0], self.versioned.resolve(ref))

    def usable(self, ref: str) -> _V:
        """``get`` for who is about to use what the version names. Raises RetiredError too, if it is retired."""
        return self.check_usable(self.get(ref))

    def check_usable(self, version: _V) -> _V:
        """The version itself. Raises RetiredError if it was retired when it was looked up."""
        if version.retired:
            raise self.versioned.retired_error(version.name, version.version)
        return version

    def names(self, after: str = "") -> Iterator[str]:
        """Every name that sorts after ``after``, sorted, looked at as it is asked for."""
        return self.versioned.names(after)

    def list(self) -> list[_V]:
        """The latest version of every name, sorted by name."""
        return [self.get(name) for name in self.names()]

    def history(self, name: str) -> Sequence[_V]:
        """Every version of ``name``, oldest first: a read for each. Raises NotFoundError."""
        versions = self.versioned.versions(name)
        return self._some(name, versions, 1, versions.count)

    def page(self, name: str, after: int, limit: int) -> tuple[Sequence[_V], bool]:
        """At most ``limit`` versions after version ``after``, and whether there are more. Raises NotFoundError."""
        versions = self.versioned.versions(name)
        last = min(after + limit, versions.count)
        return self._some(name, versions, after + 1, last), last < versions.count

    def newest(self, name: str, limit: int) -> tuple[Sequence[_V], int]:
        """The newest ``limit`` versions, oldest first, and how many there are in all. Raises NotFoundError."""
        versions = self.versioned.versions(name)
        return self._some(name, versions, max(1, versions.count - limit + 1), versions.count), versions.count

    def _some(self, name: str, versions: Versions, first: int, last: int) -> Sequence[_V]:
        records = zip(range(first, last + 1), versions.records(first, last), strict=True)
        return [
            self._version(name, {**record, "retired": True} if versions.is_retired(version) else record)
            for version, record in records
        ]

    def aliases(self, name: str) -> dict[str, int]:
        """Where each alias of ``name`` points. Raises NotFoundError."""
        return self.versioned.versions(name).aliases

    def tag(self, name: str, alias: str, version: int, expect: int | None = None) -> _V:
        """Move ``alias`` to ``version``; with ``expect``, only from that version (0: absent), else Conflict."""
        _entry, versions = self.versioned.tag(name, alias, version, expect)
        return self._version(name, self.versioned.marked(versions, version))

    def tag_once(
        self, name: str, alias: str, version: int, request: ChangeRequest | None, check: Callable[[int], None]
    ) -> Outcome[_V]:
        """``tag`` for a client's ``request``, done once; ``check`` is given where the alias points, and may raise."""
        entry, versions = self.versioned.tag(name, alias, version, check=check, request=request)
        return Outcome(self._version(name, versions.record(version)), entry.changed, entry.replayed)

    def retire(self, name: str, version: int, message: str = "", *, force: bool = False) -> _V:
        """Retire ``version`` of ``name``: its record stays, new work on it is refused, `data gc` removes its objects.

        What else depends on it is for ``maintenance.retire`` to see. Raises NotFoundError, InUseError.
        """
        return self.retire_once(name, version, None, message=message, force=force).version

    def retire_once(
        self,
        name: str,
        version: int,
        request: ChangeRequest | None,
        *,
        message: str = "",
        force: bool = False,
        check: Callable[[int], None] = lambda _now: None,
    ) -> Outcome[_V]:
        """``retire`` for a client's ``request``, done once; ``check`` is given the version (0: retired), may raise."""
        entry, versions = self.versioned.retire(name, version, message, force=force, check=check, request=request)
        found = self._version(name, self.versioned.marked(versions, version))
        return Outcome(found, entry.changed, entry.replayed)

    def restore(self, name: str, version: int, message: str = "") -> _V:
        """Take the mark of ``retire`` off again, which needs that everything the version names is still there.

        Aliases that pointed there stay away. Raises NotFoundError, RetiredError if something of it has been removed.
        """
        found = self.get(f"{name}@{version}")
        keys = self._objects(found)
        with claimed(self.versioned.store, self.versioned.system, keys, f"restoring {self.versioned.noun} {found.ref}"):
            folders = {key.rpartition("/")[0] + "/" for key in keys}
            there = {key for folder in folders for key in self.versioned.store.list(folder)}
            if absent := [key for key in keys if key not in there]:
                raise RetiredError(
                    f"{self.versioned.noun} {found.ref} cannot be restored: {len(absent)} of its {len(keys)} objects "
                    f"have been removed, the first is {absent[0]}: make it again"
                )
            versions = self.versioned.restore(name, version, message)
        return self._version(name, self.versioned.marked(versions, version))

    def _objects(self, version: _V) -> Sequence[str]:
        """The keys of all that ``version`` names and that would be removed once it is retired."""
        raise NotImplementedError


def not_at(what: str, expected: int, found: int) -> str:
    """The message where ``what`` (an alias) is not at the version that was expected."""
    heads = f"expected it at version {expected}, found it at {found} (0: absent)"
    return f"{what}: {heads}: look at what changed and try again"
