"""Logging in with a browser: a token is traded for a session cookie that can only read.

The cookie is HttpOnly and SameSite=Strict; the token itself is never kept in the browser.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from datalake.registry.access import AccessError
from orchestration.errors import InvalidRequestError
from orchestration.serve.auth import COOKIE, identify
from orchestration.serve.pages.render import render, root_path
from orchestration.serve.settings import Served, ServedDep

router = APIRouter()


async def same_site(request: Request) -> None:
    """Refuse a form sent by another site's page: it could log a browser in as somebody else."""
    origin = request.headers.get("origin")
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin" or origin not in (None, own):
        raise InvalidRequestError("this form must be sent from this server's own page: open /login and try again")


@router.get("/login")
def login_page(request: Request, next: Annotated[str, Query(max_length=2000)] = "") -> Response:
    """The form."""
    return render(request, "login.html", next=_local(request, next), refused=None)


@router.post("/login", dependencies=[Depends(same_site)])
async def login(request: Request, app: ServedDep) -> Response:
    """Open a session and go where the browser wanted to go."""
    form = parse_qs((await request.body()).decode("ascii", "replace"), max_num_fields=4)
    token_text, target = form.get("token", [""])[0].strip(), _local(request, form.get("next", [""])[0])
    try:
        session_text = await run_in_threadpool(_open, app, token_text)
    except AccessError as error:
        return render(request, "login.html", status=401, next=target, refused=str(error))
    response = RedirectResponse(target, 303, headers={"Cache-Control": "no-store"})
    response.set_cookie(
        COOKIE,
        session_text,
        max_age=int(app.settings.session.total_seconds()),
        path=root_path(request) or "/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response


@router.post("/logout", dependencies=[Depends(same_site)])
def logout(request: Request, app: ServedDep) -> Response:
    """End the session here and on every replica."""
    try:
        session = identify(request, app).session
    except AccessError:
        session = None
    if session is not None:
        app.access.close_session(session)
    response = RedirectResponse(f"{root_path(request)}/login", 303)
    response.delete_cookie(COOKIE, path=root_path(request) or "/", httponly=True, samesite="strict")
    return response


def _open(app: Served, token_text: str) -> str:
    return app.access.open_session(app.access.authenticate(token_text), app.settings.session)[1]


def _local(request: Request, target: str) -> str:
    """``target`` if it is a path of this server, else the first page: a link must not lead a login elsewhere."""
    first = f"{root_path(request)}/"
    plain = target.startswith(first) and not target.startswith("//") and target.isprintable()
    return target if plain and "\\" not in target and ".." not in target else first
