"""Access tokens of a lake's HTTP API, kept in the lake as salted hashes in a version log.

A token is ``mg_<id>_<secret>``. The secret has 256 random bits and exists only in the reply to ``create``; the lake
keeps its scrypt hash under a salt of its own, so whoever can read the bucket cannot use the API as somebody else.

A browser's session is not stored: its text names the token behind it and when it ends, and is signed with a key that is
made of that token's record, so that every replica can check it. It can only read, expires, and dies with its token.
Only a session that was ended before its time leaves an object, until that time has come (decision 0204).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any, Literal, get_args

from cachetools import LRUCache

from datalake.clock import System
from datalake.errors import DatalakeError, NotFoundError
from datalake.log.growing import GrowingList
from datalake.log.version_log import LogEntry, VersionLog
from datalake.names import check_name
from datalake.store.interface import Store

Record = dict[str, Any]
Role = Literal["reader", "writer", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)  # each may do what those before it may

# The secrets are random, not chosen by people, so there is no dictionary to slow down: 4 MiB and 10 ms are plenty.
_SCRYPT = {"n": 2**12, "r": 8, "p": 1}
_TOKEN = re.compile(r"mg_([0-9a-f]{12})_([0-9a-f]{64})")
_SESSION = re.compile(r"(ms_([0-9a-f]{12})_([0-9a-f]{32})_([0-9]{10})_([0-9]{10}))_([0-9a-f]{64})")  # times in s, UTC
_ENDED = "ended-sessions/"
_SWEPT_AT_ONCE = 100
_REMEMBERED = 1024
_UNKNOWN_REFRESH_S = 0.05  # guessing ids must not turn into a listing per guess


class AccessError(DatalakeError):
    """A token is missing, unknown, revoked or expired, or its role does not allow what was asked."""


class RoleError(AccessError):
    """The token is valid, but its role does not allow this."""


@dataclass(frozen=True)
class Token:
    """What may be shown of a token; times are ISO 8601 UTC, ``expires`` and ``revoked`` None if neither."""

    id: str
    name: str
    role: Role
    created: str
    author: str
    expires: str | None
    revoked: str | None
    parent: str | None = None

    def active(self, now: str) -> bool:
        """Whether it may be used at ``now``."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class TokenLog:
    """The tokens (``access/tokens``) of one lake: what was made and what was ended, one after the other.

    In format 2 ``events`` in the state are a list that grows, of ``{"id": …, …the record}`` and ``{"id": …, "revoked":
    time}``; ``before`` is the last entry in format 1, which holds all records of its time as ``tokens``. Who keeps this
    object reads only what is new. Safe across threads.
    """

    def __init__(self, store: Store, system: System) -> None:
        self._log = VersionLog(store, "access", "tokens", system, format=2)
        self._system = system
        self._uri = store.uri
        self._lock = threading.Lock()
        self._records: dict[str, Record] = {}
        self._known = 0  # entry that the records are of
        self._events = 0  # how many of its events are in them

    def create(self, name: str, role: Role, *, lifetime: timedelta | None = None) -> tuple[Token, str]:
        """Make a token for ``name`` (a person or job; it becomes the author of what is written) and return its text.

        The text is not kept anywhere. Raises AccessError for an unknown role, InvalidNameError for a bad name.
        """
        check_name(name, "token's name")
        if role not in ROLES:
            raise AccessError(f"role {role!r} is unknown: use one of {', '.join(ROLES)}")
        token_id, secret = self._system.nonce()[:12], self._system.nonce() + self._system.nonce()
        salt = self._system.nonce()
        now = self._system.timestamp()
        record = {
            "name": name,
            "role": role,
            "created": now,
            "author": self._system.author,
            "expires": _after(now, lifetime) if lifetime else None,
            "revoked": None,
            "parent": None,
            "salt": salt,
            "hash": _hash(secret, salt),
        }

        self._log.append_next(lambda head: self._with_event(head, {"id": token_id, **record}), f"create {role} {name}")
        return _public(token_id, record), f"mg_{token_id}_{secret}"

    def revoke(self, token_id: str) -> Token:
        """End a token for good; one that is revoked already stays as it is. Raises NotFoundError."""

        def end(head: LogEntry | None) -> dict[str, Any] | None:
            record = self._records_of(head).get(token_id)
            if record is None:
                raise NotFoundError(f"no token with id {token_id!r} in lake {self._uri}: see `morphogen tokens list`")
            if record["revoked"] is not None:
                return None
            return self._with_event(head, {"id": token_id, "revoked": self._system.timestamp()})

        entry = self._log.append_next(end, f"revoke {token_id}")
        return _public(token_id, self._records_of(entry)[token_id])

    def list(self) -> list[Token]:
        """All tokens, also revoked and expired ones, in the order in which they were made."""
        return [_public(key, record) for key, record in self.records().items()]

    def records(self) -> dict[str, Record]:
        """The records as they are now, with salt and hash, by id; empty if no token was ever made."""
        return self._records_of(self._log.head())

    def _with_event(self, head: LogEntry | None, event: Record) -> dict[str, Any]:
        """What the entry after ``head`` holds if ``event`` is what happened."""
        base = _base(head)
        return {**({"before": base} if base else {}), "events": self._list(head).with_item(event)}

    def _list(self, entry: LogEntry | None) -> GrowingList:
        value, number = (entry.state.get("events"), entry.number) if entry else (None, 0)
        return GrowingList(value, number, lambda number: self._log.entry(number).state["events"])

    def _records_of(self, entry: LogEntry | None) -> dict[str, Record]:
        """The records as of ``entry``, or of a newer one that was seen; not to be changed."""
        with self._lock:
            if entry is None or entry.number <= self._known:
                return self._records
            records, events, base = dict(self._records), self._list(entry), _base(entry)
            if base > self._known:
                tokens = (entry if base == entry.number else self._log.entry(base)).state["tokens"]
                records = dict(sorted(tokens.items(), key=lambda item: item[1]["created"]))
            for event in events.items(self._events, events.count):
                facts = {field: value for field, value in event.items() if field != "id"}
                records[event["id"]] = {**records.get(event["id"], {}), **facts}
            self._records, self._known, self._events = records, entry.number, events.count
            return records


class AccessControl:
    """Decides who is asking. Safe across threads; a revocation takes effect within ``refresh_s`` on every replica."""

    def __init__(
        self,
        store: Store,
        system: System,
        *,
        refresh_s: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tokens = TokenLog(store, system)
        self._store = store
        self._system = system
        self._refresh_s = refresh_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._hashing = threading.Semaphore(2)  # guessing may cost two cores' time, never the server's memory
        self._records: dict[str, Record] = {}
        self._read_at = -float("inf")
        self._verified: LRUCache[bytes, bool] = LRUCache(_REMEMBERED)
        self._sessions: LRUCache[str, tuple[float, bool]] = LRUCache(_REMEMBERED)  # looked at when; ended?

    def configured(self) -> bool:
        """Whether any token was ever made. Revoking the last one closes the API; it does not open it."""
        return bool(self._current())

    def authenticate(self, text: str, *, session: bool = False) -> Token:
        """The token whose text this is; with ``session``, the session. Raises AccessError."""
        token = self._session(text) if session else self._token(text)
        if token is None or not token.active(self._system.timestamp()):
            raise AccessError("the token is unknown, revoked or expired: ask whoever runs the lake for another one")
        return token

    def open_session(self, token: Token, lifetime: timedelta) -> tuple[Token, str]:
        """A browser session that can read what ``token`` can read, for ``lifetime`` at most, and its text.

        Nothing is stored. Raises AccessError if the token is not there any more.
        """
        record = self._record(token.id)
        if record is None:
            raise AccessError("the token is unknown, revoked or expired: ask whoever runs the lake for another one")
        begins = int(self._system.clock().timestamp())
        ends = begins + int(lifetime.total_seconds())
        signed = f"ms_{token.id}_{self._system.nonce()}_{begins:010d}_{ends:010d}"
        text = f"{signed}_{_signature(record, signed)}"
        opened = self._session(text)
        assert opened is not None, "what was signed verifies"
        return opened, text

    def close_session(self, session: Token) -> None:
        """End a browser session, here at once and within ``refresh_s`` on every replica."""
        # Those of sessions that have expired by themselves go, an hour late because replicas' clocks may differ.
        over = f"{_ENDED}{_after(self._system.timestamp(), -timedelta(hours=1)).replace(':', '-')}"
        for key in takewhile(lambda key: key < over, self._store.list(_ENDED, limit=_SWEPT_AT_ONCE)):
            self._store.delete(key)
        self._store.put_if_absent(_ended_key(session), b"{}")
        self._know_session(session.id, ended=True)

    def _token(self, text: str) -> Token | None:
        parts = _TOKEN.fullmatch(text)
        record = self._record(parts[1]) if parts else None
        if parts is None or record is None or not self._matches(text, parts[2], record):
            return None
        return _public(parts[1], record)

    def _session(self, text: str) -> Token | None:
        parts = _SESSION.fullmatch(text)
        record = self._record(parts[2]) if parts else None
        if parts is None or record is None or not hmac.compare_digest(parts[6], _signature(record, parts[1])):
            return None
        opened_by = _public(parts[2], record)
        begins, ends = (_timestamp(datetime.fromtimestamp(int(parts[place]), UTC)) for place in (4, 5))
        session = Token(
            id=parts[3],
            name=opened_by.name,
            role="reader",
            created=begins,
            author=opened_by.name,
            expires=ends,
            revoked=opened_by.revoked,
            parent=opened_by.id,
        )
        alive = opened_by.active(self._system.timestamp()) and not self._ended(session)
        return session if alive else None

    def _ended(self, session: Token) -> bool:
        with self._lock:
            looked_at, ended = self._sessions.get(session.id, (-float("inf"), False))
        if ended or self._monotonic() - looked_at < self._refresh_s:
            return ended
        ended = self._store.exists(_ended_key(session))
        self._know_session(session.id, ended)
        return ended

    def _know_session(self, session_id: str, ended: bool) -> None:
        with self._lock:
            self._sessions[session_id] = (self._monotonic(), ended)

    def _record(self, token_id: str) -> Record | None:
        records = self._current()
        if token_id not in records:  # made a moment ago, perhaps by way of another replica
            records = self._current(max_age=_UNKNOWN_REFRESH_S)
        return records.get(token_id)

    def _current(self, max_age: float | None = None) -> dict[str, Record]:
        with self._lock:
            if self._monotonic() - self._read_at >= (self._refresh_s if max_age is None else max_age):
                now = self._monotonic()
                self._records = self.tokens.records()
                self._read_at = now
            return self._records

    def _matches(self, text: str, secret: str, record: Record) -> bool:
        """Compare in constant time; what matched once is remembered by digest, since scrypt is meant to be slow."""
        seen = hashlib.sha256(f"{record['hash']}{text}".encode()).digest()
        with self._lock:
            if self._verified.get(seen):
                return True
        with self._hashing:
            good = hmac.compare_digest(_hash(secret, record["salt"]), record["hash"])
        if good:
            with self._lock:
                self._verified[seen] = True
        return good


def _hash(secret: str, salt: str) -> str:
    return hashlib.scrypt(secret.encode(), salt=bytes.fromhex(salt), dklen=32, **_SCRYPT).hex()


def _base(entry: LogEntry | None) -> int:
    """The last entry in format 1, which holds all records of its time; 0 if there is none."""
    if entry is None:
        return 0
    return entry.number if "tokens" in entry.state else entry.state.get("before", 0)


def _public(token_id: str, record: Record) -> Token:
    fields = ("name", "role", "created", "author", "expires", "revoked", "parent")
    return Token(id=token_id, **{field: record[field] for field in fields})


def _signature(record: Record, signed: str) -> str:
    """HMAC-SHA-256 of a session's text under its token's own key, as 64 hex digits."""
    key = hashlib.sha256(f"morphogen session {record['salt']} {record['hash']}".encode()).digest()
    return hmac.new(key, signed.encode(), hashlib.sha256).hexdigest()


def _ended_key(session: Token) -> str:
    """Where it is noted that a session was ended; keys sort by the time at which it would have expired."""
    return f"{_ENDED}{str(session.expires).replace(':', '-')}-{session.id}.json"


def _after(timestamp: str, lifetime: timedelta) -> str:
    return _timestamp(datetime.fromisoformat(timestamp) + lifetime)


def _timestamp(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
