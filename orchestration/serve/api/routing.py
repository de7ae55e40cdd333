"""What the API's routers share: parameters of a path, and the problems each route may answer with."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path

from orchestration.serve.api.schemas import NAME
from orchestration.serve.problems import MEDIA_TYPE

Name = Annotated[str, Path(pattern=NAME, description="A name: letters, digits and . _ -.")]
SELECTOR = r"^([1-9][0-9]{0,8}|[A-Za-z][A-Za-z0-9._-]{0,127})$"
Selector = Annotated[str, Path(pattern=SELECTOR, description="Version, alias or `latest`.")]
Alias = Annotated[str, Path(pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,127}$", description="An alias, not `latest`.")]
DigestPath = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256, 64 hex digits.")]

_MEANINGS = {
    206: "The part that Range asked for.",
    304: "The reader has this already.",
    307: "The bytes are there, for a short time.",
    400: "A name, header, cursor or path is not well formed.",
    401: "No token, or one that is unknown, revoked or expired.",
    403: "The token's role does not allow this.",
    404: "There is no such thing.",
    405: "The method is not allowed here.",
    408: "The body did not arrive in time.",
    409: "Another writer came first, or something depends on it.",
    410: "It is retired: its record stays, what it named may be gone.",
    412: "If-Match or If-None-Match does not hold; the body has both heads.",
    413: "The body or the path is too large.",
    415: "The body is not JSON, or packed.",
    416: "The range begins behind the end.",
    422: "The request does not fit the schema, or the spec is refused.",
    500: "An object in the lake is damaged; its owner can mend it.",
    503: "The store does not answer, or the server has as much to do as it takes on: see Retry-After.",
}
_BODY = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route: those every route has, and ``statuses``."""
    listed = sorted({400, 401, 403, 405, 413, 422, 500, 503, *statuses})
    return {
        status: {"description": _MEANINGS[status], **({} if status < 400 else {"content": _BODY})} for status in listed
    }


def write_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """``problems`` of a route that takes a body and changes a name."""
    return problems(404, 408, 409, 412, 415, *statuses)


def is_number(selector: str) -> bool:
    """Whether a selector is a version number, whose answer never changes."""
    return selector.isascii() and selector.isdigit()


def reference(name: str, selector: str) -> str:
    """``NAME@SELECTOR``."""
    return f"{name}@{selector}"
