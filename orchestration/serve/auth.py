"""Who is asking, and may they: bearer tokens for programs, a read-only session cookie for browsers.

A cookie can never write: the session behind it has the role reader. So no page of another site can make a browser
change anything, whatever it sends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param

from datalake.registry.access import ROLES, AccessError, Role, RoleError, Token
from orchestration.serve.settings import Served, ServedDep

COOKIE = "morphogen_session"
_bearer = HTTPBearer(auto_error=False, description="`morphogen tokens create NAME --role reader`")
_cookie = APIKeyCookie(name=COOKIE, auto_error=False, description="Made by the login page; can only read.")


@dataclass(frozen=True)
class Principal:
    """Who is asking. ``author`` goes into the history (None: the lake's own); ``id`` binds idempotency keys."""

    id: str
    author: str | None
    role: Role
    session: Token | None = None


def identify(request: Request, app: Served) -> Principal:
    """The principal behind a request. Raises AccessError; a lake without any token is open on loopback only."""
    header = request.headers.get("authorization")
    if app.open and not app.access.configured():
        return Principal("open", None, "admin")
    if header is not None:
        scheme, text = get_authorization_scheme_param(header)
        if scheme.lower() != "bearer":
            raise AccessError("Authorization: expected `Bearer TOKEN`")
        token = app.access.authenticate(text.strip())
        return Principal(token.id, token.name, token.role)
    if cookie := request.cookies.get(COOKIE):
        session = app.access.authenticate(cookie, session=True)
        return Principal(session.id, session.name, session.role, session)
    raise AccessError("a token is needed: send `Authorization: Bearer TOKEN`, or log in at /login with a browser")


def _allowing(role: Role) -> Callable[..., Principal]:
    def check(request: Request, app: ServedDep, _header: Annotated[object, Depends(_bearer)] = None) -> Principal:
        principal = identify(request, app)
        if ROLES.index(principal.role) < ROLES.index(role):
            raise RoleError(f"role {principal.role} may not do this: it takes a token of role {role}")
        return principal

    return check


reads, writes, administers = _allowing("reader"), _allowing("writer"), _allowing("admin")
Reader = Annotated[Principal, Depends(reads)]
Writer = Annotated[Principal, Depends(writes)]
Admin = Annotated[Principal, Depends(administers)]
