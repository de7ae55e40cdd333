"""Pages: whole HTML from the server, readable without JavaScript, strict in what they load.

Style and script are part of the page under a nonce, pictures are data URIs: nothing is fetched from anywhere else.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment

from datalake.errors import DatalakeError
from datalake.registry.access import AccessError
from orchestration.reports.templates import environment
from orchestration.runs.view import progress_text, speed_text
from orchestration.serve.auth import COOKIE, Principal, identify
from orchestration.serve.settings import Served, ServedDep


class LoginNeededError(AccessError):
    """A page was asked for without a valid session: the browser is sent to the login page."""


def page_reader(request: Request, app: ServedDep) -> Principal:
    """Who looks at a page. Raises LoginNeededError, which leads to the login page."""
    try:
        return identify(request, app)
    except AccessError as error:
        raise LoginNeededError(str(error)) from error


PageReader = Annotated[Principal, Depends(page_reader)]


@cache
def _templates() -> Environment:
    found = environment(Path(__file__).parents[1] / "templates")
    found.filters |= {"size": _size, "progress": progress_text, "speed": speed_text, "day": _day}
    return found


def root_path(request: Request) -> str:
    """What every link of this server begins with: the path below which a proxy shows it, or nothing."""
    return request.scope.get("root_path", "")


def route_path(request: Request) -> str:
    """The request's path as this server's own routes know it, without a proxy's prefix."""
    return request.url.path.removeprefix(root_path(request))


def render(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page from ``templates/<template>``, with its Content-Security-Policy."""
    nonce = secrets.token_urlsafe(16)
    html = (
        _templates()
        .get_template(template)
        .render(
            nonce=nonce,
            root=root_path(request),
            path=route_path(request),
            logged_in=COOKIE in request.cookies,
            **values,
        )
    )
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src 'self' data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, "Cache-Control": "private, no-store"}
    return HTMLResponse(html, status, headers)


def error_page(request: Request, status: int, detail: str) -> Response | None:
    """An error as a page, if a browser asked for a page; else None."""
    if route_path(request).startswith("/api/") or "text/html" not in request.headers.get("accept", ""):
        return None
    return render(request, "error.html", status=status, code=status, phrase=HTTPStatus(status).phrase, detail=detail)


def or_note(app: Served, load: Callable[[], Any]) -> tuple[Any, str | None]:
    """``load()``, or None and the lake's own words: one damaged object must not hide the rest of a page."""
    try:
        return load(), None
    except DatalakeError as error:
        return None, app.public(str(error))


def _size(value: int) -> str:
    """Bytes in binary units."""
    amount, unit = float(value), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def _day(timestamp: str) -> str:
    """``2026-11-22 03:04 UTC`` of an ISO timestamp."""
    return f"{timestamp[:10]} {timestamp[11:16]} UTC" if len(timestamp) >= 16 else timestamp
