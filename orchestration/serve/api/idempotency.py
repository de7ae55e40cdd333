"""Safe retries: a request's Idempotency-Key is kept in the very log entry that it appended.

So "was this done already?" and "do it" are one compare-and-set on the log's head: two replicas that get the same
request at once append one entry, and a client whose answer was lost gets that answer when it asks again. A name keeps
its last 128 keys. A refused request changes nothing and keeps no key.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import Header

from datalake import DatasetRepository, Lake, ModelRepository, ParameterRegistry
from datalake.canonical import digest_of
from datalake.log.version_log import LogEntry, VersionLog
from datalake.log.versioned import VersionedNames
from orchestration.serve.problems import KeyReusedError

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="A fresh random text per change; a retry with the same one is answered as the first was.",
    ),
]

REPLAYED = "Idempotent-Replayed"
_KEPT = 128

Repository = TypeVar("Repository", ParameterRegistry, DatasetRepository, ModelRepository)
State = dict[str, Any]


class AnsweredError(Exception):
    """Control flow, not an error: this very request was done before. ``version`` and ``created`` are its answer."""

    def __init__(self, version: int, created: bool) -> None:
        super().__init__(version, created)
        self.version = version
        self.created = created


@dataclass
class Attempt:
    """One request's try at changing a name; ``created`` says afterwards whether it appended anything.

    ``key`` is the client's, bound to who sent it; ``fingerprint`` is a digest of all that was asked.
    """

    key: str | None
    fingerprint: str
    version: int | None = None
    created: bool = field(default=False, init=False)

    @classmethod
    def of(cls, key: str | None, sender: str, asked: Any, version: int | None = None) -> Attempt:
        """``asked`` is JSON; ``version`` is the answer if it is known before (an alias's target)."""
        bound = hashlib.sha256(f"{sender}\n{key}".encode()).hexdigest()[:32] if key else None
        return cls(bound, digest_of(asked)[:32], version)

    def look(self, lake: Lake, kind: str, name: str) -> None:
        """``find`` in the newest state of a name: before any other check, since a retry must not fail where it won."""
        if self.key is not None and (head := VersionLog(lake.store, kind, name, lake.ambient).head()) is not None:
            self.find(head.state)

    def find(self, state: State) -> None:
        """Raise AnsweredError if ``state`` has this request, KeyReusedError if it has another under its key."""
        for key, fingerprint, version, created in state.get("requests", ()):
            if self.key is not None and key == self.key:
                if fingerprint != self.fingerprint:
                    raise KeyReusedError("Idempotency-Key: found with another request; use a fresh one for each change")
                raise AnsweredError(version, created)


class _Log(VersionLog):
    """A version log whose appends carry the request."""

    def __init__(self, attempt: Attempt, *log: Any) -> None:
        super().__init__(*log)
        self._attempt = attempt

    def update(self, change: Callable[[State | None], State | None], message: str = "") -> LogEntry:
        attempt = self._attempt

        def once(state: State | None) -> State | None:
            if state is not None:
                attempt.find(state)
            new = change(copy.deepcopy(state))
            attempt.created = new is not None
            if attempt.key is None or (new is None and state is None):
                return new
            # A request that found nothing to do appends its key all the same: its answer must not change later.
            new = state if new is None else new
            assert new is not None
            version = attempt.version or len(new["versions"])
            kept = [*new.get("requests", ()), [attempt.key, attempt.fingerprint, version, attempt.created]]
            return {**new, "requests": kept[-_KEPT:]}

        return super().update(once, message)


class _Names(VersionedNames):
    def __init__(self, attempt: Attempt, *names: Any) -> None:
        super().__init__(*names)
        self._attempt = attempt

    def log(self, name: str) -> VersionLog:
        plain = super().log(name)
        return _Log(self._attempt, self.store, plain.kind, plain.name, self.ambient)


def attempted(repository: Repository, attempt: Attempt) -> Repository:
    """``repository`` (made for this request), so that what it appends carries ``attempt``."""
    names = repository.versioned
    repository.versioned = _Names(attempt, names.store, names.kind, names.noun, names.command, names.ambient)
    return repository
