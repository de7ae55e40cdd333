"""Access tokens of a lake's HTTP API, kept in the lake as salted hashes in a version log.

A token is ``mg_<id>_<secret>``. The secret has 256 random bits and exists only in the reply to ``create``; the lake
keeps its scrypt hash under a salt of its own, so whoever can read the bucket cannot use the API as somebody else. A
browser's session is a token too, in a log of its own: it can only read, expires, and dies with the token behind it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from datalake.ambient import Ambient
from datalake.errors import DatalakeError, NotFoundError
from datalake.names import check_name
from datalake.store import Store
from datalake.version_log import VersionLog

Role = Literal["reader", "writer", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)  # each may do what those before it may

# The secrets are random, not chosen by people, so there is no dictionary to slow down: 4 MiB and 10 ms are plenty.
_SCRYPT = {"n": 2**12, "r": 8, "p": 1}
_TOKEN = re.compile(r"mg_([0-9a-f]{12})_([0-9a-f]{64})")
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
    """The tokens (``access/tokens``) or browser sessions (``access/sessions``) of one lake."""

    def __init__(self, store: Store, ambient: Ambient, name: Literal["tokens", "sessions"] = "tokens") -> None:
        self._log = VersionLog(store, "access", name, ambient)
        self._ambient = ambient
        self._uri = store.uri

    def create(
        self,
        name: str,
        role: Role,
        *,
        lifetime: timedelta | None = None,
        parent: str | None = None,
        forget_expired: bool = False,
    ) -> tuple[Token, str]:
        """Make a token for ``name`` (a person or job; it becomes the author of what is written) and return its text.

        The text is not kept anywhere. Raises AccessError for an unknown role, InvalidNameError for a bad name.
        """
        check_name(name, "token's name")
        if role not in ROLES:
            raise AccessError(f"role {role!r} is unknown: use one of {', '.join(ROLES)}")
        token_id, secret = self._ambient.nonce()[:12], self._ambient.nonce() + self._ambient.nonce()
        salt = self._ambient.nonce()
        now = self._ambient.timestamp()
        record = {
            "name": name,
            "role": role,
            "created": now,
            "author": self._ambient.author,
            "expires": _after(now, lifetime) if lifetime else None,
            "revoked": None,
            "parent": parent,
            "salt": salt,
            "hash": _hash(secret, salt),
        }

        def add(state: dict[str, Any] | None) -> dict[str, Any]:
            known = (state or {"tokens": {}})["tokens"]
            if forget_expired:
                known = {key: old for key, old in known.items() if _public(key, old).active(now)}
            return {"tokens": {**known, token_id: record}}

        self._log.update(add, f"create {role} {name}")
        return _public(token_id, record), f"mg_{token_id}_{secret}"

    def revoke(self, token_id: str) -> Token:
        """End a token for good; one that is revoked already stays as it is. Raises NotFoundError."""

        def end(state: dict[str, Any] | None) -> dict[str, Any] | None:
            record = (state or {"tokens": {}})["tokens"].get(token_id)
            if record is None:
                raise NotFoundError(f"no token with id {token_id!r} in lake {self._uri}: see `morphogen tokens list`")
            if record["revoked"] is not None:
                return None
            record["revoked"] = self._ambient.timestamp()
            return state

        entry = self._log.update(end, f"revoke {token_id}")
        return _public(token_id, entry.state["tokens"][token_id])

    def list(self) -> list[Token]:
        """All tokens, also revoked and expired ones, oldest first."""
        return sorted((_public(key, record) for key, record in self.records().items()), key=lambda token: token.created)

    def records(self) -> dict[str, dict[str, Any]]:
        """The newest state: records with salt and hash, by id; empty if no token was ever made."""
        head = self._log.head()
        return head.state["tokens"] if head else {}


class AccessControl:
    """Decides who is asking. Safe across threads; a revocation takes effect within ``refresh_s`` on every replica."""

    def __init__(
        self,
        store: Store,
        ambient: Ambient,
        *,
        refresh_s: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tokens = TokenLog(store, ambient, "tokens")
        self.sessions = TokenLog(store, ambient, "sessions")
        self._ambient = ambient
        self._refresh_s = refresh_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._hashing = threading.Semaphore(2)  # guessing may cost two cores' time, never the server's memory
        self._records: dict[str, dict[str, dict[str, Any]]] = {}
        self._read_at = -float("inf")
        self._verified: OrderedDict[bytes, None] = OrderedDict()

    def configured(self) -> bool:
        """Whether any token was ever made. Revoking the last one closes the API; it does not open it."""
        return bool(self._current()["tokens"])

    def authenticate(self, text: str, *, session: bool = False) -> Token:
        """The token whose text this is; with ``session``, the session. Raises AccessError."""
        refused = AccessError("the token is unknown, revoked or expired: ask whoever runs the lake for another one")
        parts = _TOKEN.fullmatch(text)
        if parts is None:
            raise refused
        token_id, secret = parts.groups()
        kind = "sessions" if session else "tokens"
        records = self._current()
        if token_id not in records[kind]:  # made a moment ago, perhaps by way of another replica
            records = self._current(max_age=_UNKNOWN_REFRESH_S)
        record = records[kind].get(token_id)
        if record is None or not self._matches(text, secret, record):
            raise refused
        token = _public(token_id, record)
        now = self._ambient.timestamp()
        opened_by = records["tokens"].get(token.parent) if token.parent else None
        if not token.active(now) or (session and not (opened_by and _public("", opened_by).active(now))):
            raise refused
        return token

    def open_session(self, token: Token, lifetime: timedelta) -> tuple[Token, str]:
        """A browser session that can read what ``token`` can read, for ``lifetime`` at most."""
        made = self.sessions.create(token.name, "reader", lifetime=lifetime, parent=token.id, forget_expired=True)
        self._read_at = -float("inf")
        return made

    def close_session(self, session: Token) -> None:
        """End a browser session."""
        self.sessions.revoke(session.id)
        self._read_at = -float("inf")

    def _current(self, max_age: float | None = None) -> dict[str, dict[str, dict[str, Any]]]:
        with self._lock:
            if self._monotonic() - self._read_at >= (self._refresh_s if max_age is None else max_age):
                now = self._monotonic()
                self._records = {"tokens": self.tokens.records(), "sessions": self.sessions.records()}
                self._read_at = now
            return self._records

    def _matches(self, text: str, secret: str, record: dict[str, Any]) -> bool:
        """Compare in constant time; what matched once is remembered by digest, since scrypt is meant to be slow."""
        seen = hashlib.sha256(f"{record['hash']}{text}".encode()).digest()
        with self._lock:
            if seen in self._verified:
                self._verified.move_to_end(seen)
                return True
        with self._hashing:
            good = hmac.compare_digest(_hash(secret, record["salt"]), record["hash"])
        if good:
            with self._lock:
                self._verified[seen] = None
                while len(self._verified) > _REMEMBERED:
                    self._verified.popitem(last=False)
        return good


def _hash(secret: str, salt: str) -> str:
    return hashlib.scrypt(secret.encode(), salt=bytes.fromhex(salt), dklen=32, **_SCRYPT).hex()


def _public(token_id: str, record: dict[str, Any]) -> Token:
    fields = ("name", "role", "created", "author", "expires", "revoked", "parent")
    return Token(id=token_id, **{field: record[field] for field in fields})


def _after(timestamp: str, lifetime: timedelta) -> str:
    end = datetime.fromisoformat(timestamp) + lifetime
    return end.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
