"""Every error as `application/problem+json` (RFC 9457): a line for people, fields for programs.

``type`` is ``urn:morphogen:error:<class name>``, so a client can raise the very error that the lake raised here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from datalake.errors import (
    BucketNotFoundError,
    Conflict,
    CredentialsError,
    DatalakeError,
    InvalidNameError,
    LakePathError,
    NotFoundError,
    ProbeError,
    StoreUnavailableError,
)
from datalake.registry.access import AccessError, RoleError
from generator.errors import GeneratorError
from orchestration.errors import InvalidRequestError, OrchestrationError

log = logging.getLogger("morphogen.serve")

MEDIA_TYPE = "application/problem+json"
ERROR_URN = "urn:morphogen:error:"

_NAMED: tuple[type[Exception], ...] = (DatalakeError, GeneratorError, OrchestrationError)

# The first class that fits decides; what is not listed is damage in the lake, which only its owner can mend.
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (RoleError, 403),
    (AccessError, 401),
    (NotFoundError, 404),
    (InvalidNameError, 400),
    (InvalidRequestError, 400),
    (StoreUnavailableError, 503),
    (CredentialsError, 503),
    (BucketNotFoundError, 503),
    (LakePathError, 503),
    (ProbeError, 503),
    (GeneratorError, 422),
)


class PreconditionFailedError(Conflict):
    """If-Match or If-None-Match does not hold. ``expected`` and ``found`` are both heads, 0 for "does not exist"."""


class KeyReusedError(InvalidRequestError):
    """An Idempotency-Key came again with another request."""


class TooLargeError(InvalidRequestError):
    """A body, or a path, is larger than the server takes."""


def status_of(error: Exception) -> int:
    """The HTTP status of a named error."""
    if isinstance(error, PreconditionFailedError):
        return HTTPStatus.PRECONDITION_FAILED
    if isinstance(error, Conflict):
        return HTTPStatus.CONFLICT
    if isinstance(error, KeyReusedError):
        return HTTPStatus.UNPROCESSABLE_ENTITY
    if isinstance(error, TooLargeError):
        return HTTPStatus.CONTENT_TOO_LARGE if hasattr(HTTPStatus, "CONTENT_TOO_LARGE") else 413
    return next((status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)


def problem(
    status: int, error: str, detail: str, path: str, headers: dict[str, str] | None = None, **more: Any
) -> Response:
    """A problem response. ``error`` names the class; the body is ASCII, so nothing a client sent can break it."""
    document = {
        "type": ERROR_URN + error,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": path,
        **more,
    }
    return Response(json.dumps(document).encode(), status, headers, media_type=MEDIA_TYPE)


def named_problem(error: Exception, path: str) -> Response:
    """The response to a named error, with both heads if it is a conflict."""
    status, headers, more = status_of(error), {}, {}
    if isinstance(error, Conflict):
        more = {"expected": error.expected, "found": error.found}
        if isinstance(error, PreconditionFailedError) and error.found:
            headers["ETag"] = f'"{error.found}"'
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="morphogen"'
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "2"
    if status >= 500:
        log.error("%s: %s: %s", path, type(error).__name__, error)
    return problem(status, type(error).__name__, str(error), path, headers, **more)


def install(app: FastAPI, page: Callable[[Request, int, str], Response | None]) -> None:
    """Answer every error of ``app`` with a problem, or with what ``page`` (status, detail) makes for a browser."""

    async def named(request: Request, error: Exception) -> Response:
        return page(request, status_of(error), str(error)) or named_problem(error, request.url.path)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if (html := page(request, error.status_code, str(error.detail))) is not None:
            return html
        name = HTTPStatus(error.status_code).phrase.title().replace(" ", "").replace("-", "")
        return problem(error.status_code, name, str(error.detail), request.url.path, dict(error.headers or {}))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        found = [
            {"field": ".".join(str(part) for part in item["loc"]), "problem": item["msg"]} for item in error.errors()
        ]
        detail = "; ".join(f"{item['field']}: {item['problem']}" for item in found)
        if (html := page(request, 422, detail)) is not None:
            return html
        return problem(422, "InvalidRequest", f"{detail}: change it and try again", request.url.path, problems=found)

    async def unexpected(request: Request, _error: Exception) -> Response:
        # Starlette raises the error again behind this answer, so the server's log has the traceback.
        detail = "the server failed; its log says why"
        return page(request, 500, detail) or problem(500, "InternalError", detail, request.url.path)

    for kind in _NAMED:
        app.add_exception_handler(kind, named)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, unexpected)
