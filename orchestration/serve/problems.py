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
from starlette.routing import Match

from datalake.errors import (
    BucketNotFoundError,
    Conflict,
    CredentialsError,
    DatalakeError,
    InUseError,
    InvalidNameError,
    KeyReusedError,
    LakePathError,
    NotFoundError,
    ProbeError,
    RetiredError,
    StoreUnavailableError,
)
from datalake.registry.access import AccessError, RoleError
from generator.errors import GeneratorError
from orchestration.errors import InvalidRequestError, OrchestrationError
from orchestration.serve.acceptance import BusyError, SpecCostError
from orchestration.serve.settings import served

log = logging.getLogger("morphogen.serve")

MEDIA_TYPE = "application/problem+json"
ERROR_URN = "urn:morphogen:error:"

_NAMED: tuple[type[Exception], ...] = (DatalakeError, GeneratorError, OrchestrationError)


class PreconditionFailedError(Conflict):
    """If-Match or If-None-Match does not hold. ``expected`` and ``found`` are both heads, 0 for "does not exist"."""


class TooLargeError(InvalidRequestError):
    """A body, or a path, is larger than the server takes."""


class HeadersTooLargeError(InvalidRequestError):
    """The headers are larger than the server takes."""


class UnsupportedMediaError(InvalidRequestError):
    """A body is not JSON, or packed. ``headers`` says what would be taken."""

    def __init__(self, message: str, headers: dict[str, str]) -> None:
        super().__init__(message)
        self.headers = headers


class BodyTimeoutError(InvalidRequestError):
    """A body did not arrive in time."""


class RangeNotSatisfiableError(InvalidRequestError):
    """A range begins behind the end of what it is a part of, which has ``size`` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(f"Range: begins behind the end; allowed are bytes 0 to {size - 1}: ask for a part of these")
        self.size = size


MAX_PROBLEMS = 20  # fields named in one answer
MAX_DETAIL = 4_000  # characters

# The first class that fits decides; what is not listed is damage in the lake, which only its owner can mend.
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (RoleError, 403),
    (AccessError, 401),
    (NotFoundError, 404),
    (KeyReusedError, 422),
    (RetiredError, 410),
    (InUseError, 409),
    (SpecCostError, 422),
    (TooLargeError, 413),
    (HeadersTooLargeError, 431),
    (UnsupportedMediaError, 415),
    (BodyTimeoutError, 408),
    (RangeNotSatisfiableError, 416),
    (BusyError, 503),
    (InvalidNameError, 400),
    (InvalidRequestError, 400),
    (StoreUnavailableError, 503),
    (CredentialsError, 503),
    (BucketNotFoundError, 503),
    (LakePathError, 503),
    (ProbeError, 503),
    (GeneratorError, 422),
)


def status_of(error: Exception) -> int:
    """The HTTP status of a named error."""
    if isinstance(error, PreconditionFailedError):
        return HTTPStatus.PRECONDITION_FAILED
    if isinstance(error, Conflict):
        return HTTPStatus.CONFLICT
    return next((status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)


def problem(
    status: int, error: str, detail: str, path: str, headers: dict[str, str] | None = None, **more: Any
) -> Response:
    """A problem response. ``error`` names the class; the body is ASCII, so nothing a client sent can break it."""
    document = {
        "type": ERROR_URN + error,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": cut(detail),
        "instance": path,
        **more,
    }
    return Response(json.dumps(document).encode(), status, headers, media_type=MEDIA_TYPE)


def cut(detail: str) -> str:
    """``detail``, or its beginning: an answer need not repeat all that was sent."""
    return detail if len(detail) <= MAX_DETAIL else f"{detail[:MAX_DETAIL]} … ({len(detail):,} characters)"


def named_problem(error: Exception, path: str, detail: str = "") -> Response:
    """The response to a named error, with both heads if it is a conflict; ``detail`` if it may not say all."""
    status, headers, more = status_of(error), {}, {}
    if isinstance(error, Conflict):
        more = {"expected": error.expected, "found": error.found}
        if isinstance(error, PreconditionFailedError) and error.found:
            headers["ETag"] = f'"{error.found}"'
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="morphogen"'
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(error.retry_after_s if isinstance(error, BusyError) else 2)
    if isinstance(error, UnsupportedMediaError):
        headers |= error.headers
    if isinstance(error, RangeNotSatisfiableError):
        headers["Content-Range"] = f"bytes */{error.size}"
    if isinstance(error, TooLargeError | BodyTimeoutError):
        headers["Connection"] = "close"  # what is left of the body will not be read
    if status >= 500:
        log.error("%s: %s: %s", path, type(error).__name__, error)
    return problem(status, type(error).__name__, detail or str(error), path, headers, **more)


def methods_of(request: Request) -> list[str]:
    """The methods that the request's path answers to."""
    found = {
        method
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH")
        for route in request.app.router.routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    }
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


def install(app: FastAPI, page: Callable[[Request, int, str], Response | None]) -> None:
    """Answer every error of ``app`` with a problem, or with what ``page`` (status, detail) makes for a browser."""

    async def named(request: Request, error: Exception) -> Response:
        detail = served(request).public(str(error))
        return page(request, status_of(error), cut(detail)) or named_problem(error, request.url.path, detail)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if (html := page(request, error.status_code, str(error.detail))) is not None:
            return html
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(methods_of(request))
        name = HTTPStatus(error.status_code).phrase.title().replace(" ", "").replace("-", "")
        return problem(error.status_code, name, str(error.detail), request.url.path, headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        errors = error.errors()
        found = [
            {"field": ".".join(str(part) for part in item["loc"])[:200], "problem": item["msg"][:500]}
            for item in errors[:MAX_PROBLEMS]
        ]
        if len(errors) > len(found):
            found.append({"field": "…", "problem": f"and {len(errors) - len(found)} more"})
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
