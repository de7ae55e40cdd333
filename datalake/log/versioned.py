"""What parameter sets, datasets and models share: a name with versions 1, 2, … and aliases, kept in a version log.

The log's state is ``{"versions": [{"version": 1, …}, …], "aliases": {"stable": 1}}``. Entry numbers are not version
numbers: moving an alias appends an entry but makes no version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from datalake.clock import Ambient
from datalake.errors import Conflict, NotFoundError
from datalake.log.version_log import VersionLog, logged_names
from datalake.names import check_alias, check_name, parse_ref
from datalake.store.interface import Store

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Version:
    """One immutable version of a name. ``created`` is ISO 8601 UTC; ``digest`` is SHA-256 of what the version is."""

    name: str
    version: int
    digest: str
    created: str
    author: str
    message: str

    @property
    def ref(self) -> str:
        """``NAME@VERSION``."""
        return f"{self.name}@{self.version}"


_V = TypeVar("_V", bound=Version)


def empty_state() -> dict[str, Any]:
    """The state of a name that has no entry yet."""
    return {"versions": [], "aliases": {}}


class VersionedNames:
    """All names of one kind. ``noun`` and ``command`` are how messages speak of them."""

    def __init__(self, store: Store, kind: str, noun: str, command: str, ambient: Ambient) -> None:
        self.store = store
        self.ambient = ambient
        self.kind = kind
        self.noun = noun
        self.command = command

    def log(self, name: str) -> VersionLog:
        """The version log of ``name``."""
        return VersionLog(self.store, self.kind, check_name(name, self.noun), self.ambient)

    def names(self, after: str = "") -> Iterator[str]:
        """Every name that sorts after ``after``, sorted, looked at as it is asked for; see ``logged_names``."""
        return logged_names(self.store, self.kind, self.ambient, after)

    def state(self, name: str) -> dict[str, Any]:
        """The newest state of ``name``. Raises NotFoundError if there is none."""
        head = self.log(name).head()
        if head is None:
            raise NotFoundError(
                f"no {self.noun} named {name!r} in lake {self.store.uri}: see `morphogen {self.command} list`"
            )
        return head.state

    def resolve(self, ref: str) -> Record:
        """The version record that ``NAME``, ``NAME@V`` or ``NAME@ALIAS`` means. Raises NotFoundError."""
        name, selector = parse_ref(ref, self.noun)
        state = self.state(name)
        return self.pick(state, name, selector)

    def pick(self, state: dict[str, Any], name: str, selector: int | str | None) -> Record:
        """The record that ``selector`` means in ``state``: a version, an alias, or None for the latest."""
        versions, aliases = state["versions"], state["aliases"]
        wanted = aliases.get(selector) if isinstance(selector, str) else selector
        if selector is None and versions:
            return versions[-1]
        if wanted is None or not 1 <= wanted <= len(versions):
            kind = "alias" if isinstance(selector, str) else "version"
            has = f"versions 1 to {len(versions)}" if len(versions) > 1 else "version 1 only"
            also = f" and aliases {', '.join(sorted(aliases))}" if aliases else ""
            raise NotFoundError(
                f"{self.noun} {name!r} has no {kind} {selector}: it has {has}{also}; "
                f"see `morphogen {self.command} show {name}`"
            )
        return versions[wanted - 1]

    def tag(self, name: str, alias: str, version: int, expect: int | None = None) -> Record:
        """Point ``alias`` at ``version`` and return that version's record; nothing is appended if it does already.

        With ``expect``, only if the alias points at that version now (0: does not exist), else Conflict.
        """
        check_alias(alias)

        def move(state: dict[str, Any] | None) -> dict[str, Any] | None:
            state = state or self.state(name)
            self.pick(state, name, version)
            now = state["aliases"].get(alias, 0)
            if expect is not None and now != expect:
                raise Conflict(
                    f"alias {alias!r} of {self.noun} {name!r}: expected it at version {expect}, found it at {now} "
                    f"(0: absent): look at what changed and try again",
                    expected=expect,
                    found=now,
                )
            if now == version:
                return None
            state["aliases"][alias] = version
            return state

        entry = self.log(name).update(move, f"alias {alias} -> {version}")
        return entry.state["versions"][version - 1]

    def stamp(self, version: int, message: str) -> Record:
        """The fields every version record begins with."""
        return {
            "version": version,
            "created": self.ambient.timestamp(),
            "author": self.ambient.author,
            "message": message,
        }


class VersionedRepository(Generic[_V]):
    """Reading and tagging the names of one kind; ``versioned`` knows their logs."""

    def __init__(self, versioned: VersionedNames) -> None:
        self.versioned = versioned

    def _version(self, name: str, record: Record) -> _V:
        """The version that ``record`` of ``name``'s log stands for."""
        raise NotImplementedError

    def get(self, ref: str) -> _V:
        """The version that ``NAME@V``, ``NAME@ALIAS`` or ``NAME`` (the latest) means. Raises NotFoundError."""
        return self._version(ref.partition("@")[0], self.versioned.resolve(ref))

    def names(self, after: str = "") -> Iterator[str]:
        """Every name that sorts after ``after``, sorted, looked at as it is asked for."""
        return self.versioned.names(after)

    def list(self) -> list[_V]:
        """The latest version of every name, sorted by name."""
        return [self.get(name) for name in self.names()]

    def history(self, name: str) -> Sequence[_V]:
        """Every version of ``name``, oldest first. Raises NotFoundError."""
        return [self._version(name, record) for record in self.versioned.state(name)["versions"]]

    def aliases(self, name: str) -> dict[str, int]:
        """Where each alias of ``name`` points. Raises NotFoundError."""
        return dict(self.versioned.state(name)["aliases"])

    def tag(self, name: str, alias: str, version: int, expect: int | None = None) -> _V:
        """Move ``alias`` to ``version``; with ``expect``, only from that version (0: absent), else Conflict."""
        return self._version(name, self.versioned.tag(name, alias, version, expect))
