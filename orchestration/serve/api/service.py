"""The API about the service itself: is it up, does the lake answer, which tokens are there."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from datalake.registry.access import Token
from orchestration.serve.api.etags import answer
from orchestration.serve.api.paging import DEFAULT_LIMIT, Cursor, Limit, page_of_rows
from orchestration.serve.api.routing import problems
from orchestration.serve.api.schemas import Health, Readiness, TokenOut, TokenPage
from orchestration.serve.auth import Admin
from orchestration.serve.settings import ServedDep

router = APIRouter(tags=["service"])
tokens = APIRouter(prefix="/tokens", tags=["tokens"])


@router.get("/health", response_model=Health, responses=problems(304), operation_id="health")
async def health(request: Request) -> Response:
    """Whether the process answers; asks nothing of the lake, and answers even while every thread waits for the lake."""
    return answer(request, Health(status="ok", version=_version()))


@router.get("/ready", response_model=Readiness, responses=problems(304), operation_id="ready")
def ready(request: Request, app: ServedDep) -> Response:
    """Whether the lake answers: 503 if not."""
    app.lake.store.check()
    scheme = "s3" if app.lake.store.uri.startswith("s3://") else "folder"
    return answer(request, Readiness(status="ready", lake=scheme, tokens=app.access.configured()))


@tokens.get("", response_model=TokenPage, responses=problems(304), operation_id="list_tokens")
def list_tokens(
    request: Request, app: ServedDep, _who: Admin, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Response:
    """Every token, without its secret or hash, oldest first."""
    items, more = page_of_rows(app.access.tokens.list(), cursor, limit)
    return answer(request, TokenPage(items=[_out(token) for token in items], next=more))


@tokens.delete("/{token_id}", response_model=TokenOut, responses=problems(404), operation_id="revoke_token")
def revoke_token(
    request: Request, app: ServedDep, _who: Admin, token_id: Annotated[str, Path(pattern=r"^[0-9a-f]{12}$")]
) -> Response:
    """End a token for good. It works on every replica within a second."""
    return answer(request, _out(app.access.tokens.revoke(token_id)))


def _out(token: Token) -> TokenOut:
    return TokenOut.model_validate(token)


def _version() -> str:
    try:
        return version("morphogen")
    except PackageNotFoundError:
        return "source"
