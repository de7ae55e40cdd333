"""The API of aliases: of parameter sets, datasets and models alike, moved by compare-and-set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from datalake import Lake
from datalake.errors import NotFoundError
from datalake.log.versioned import not_at
from orchestration.serve.api.bodies import JsonRoute
from orchestration.serve.api.etags import IfMatch, IfNoneMatch, answer, precondition
from orchestration.serve.api.idempotency import REPLAYED, IdempotencyKey, change_request
from orchestration.serve.api.routing import Alias, Name, problems, write_problems
from orchestration.serve.api.schemas import AliasesOut, AliasOut, PutAlias
from orchestration.serve.auth import Reader, Writer
from orchestration.serve.settings import ServedDep


def alias_router(kind: str, noun: str, repository: Callable[[Lake], Any]) -> APIRouter:
    """The routes below ``/<kind>/{name}/aliases``; ``repository`` picks that kind's from a lake."""
    router = APIRouter(prefix=f"/{kind}/{{name}}/aliases", tags=["aliases"], route_class=JsonRoute)

    def version_of(app: Any, name: str, alias: str) -> int:
        aliases = repository(app.lake).aliases(name)
        if alias not in aliases:
            raise NotFoundError(f"{noun} {name!r} has no alias {alias!r}: it has {sorted(aliases)}")
        return aliases[alias]

    @router.get("", response_model=AliasesOut, responses=problems(304, 404), operation_id=f"list_{kind}_aliases")
    def list_aliases(request: Request, app: ServedDep, _who: Reader, name: Name) -> Response:
        """Where each alias points."""
        return answer(request, AliasesOut(name=name, aliases=repository(app.lake).aliases(name)))

    @router.get("/{alias}", response_model=AliasOut, responses=problems(304, 404), operation_id=f"get_{kind}_alias")
    def get_alias(request: Request, app: ServedDep, _who: Reader, name: Name, alias: Alias) -> Response:
        """Where one alias points; its ETag is that version's number."""
        version = version_of(app, name, alias)
        return answer(request, AliasOut(name=name, alias=alias, version=version), etag=str(version))

    @router.put("/{alias}", response_model=AliasOut, responses=write_problems(410), operation_id=f"put_{kind}_alias")
    def put_alias(
        request: Request,
        app: ServedDep,
        who: Writer,
        name: Name,
        alias: Alias,
        body: PutAlias,
        if_match: IfMatch = None,
        if_none_match: IfNoneMatch = None,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        """Point an alias at a version: with If-Match only from where it points, with If-None-Match: * only if new."""
        asked = [kind, name, alias, body.version, if_match, if_none_match]
        outcome = repository(app.lake_as(who.author)).tag_once(
            name,
            alias,
            body.version,
            change_request(idempotency_key, who.id, asked),
            precondition(if_match, if_none_match, lambda *heads: not_at(f"alias {alias!r} of {noun} {name!r}", *heads)),
        )
        response = answer(request, AliasOut(name=name, alias=alias, version=body.version), etag=str(body.version))
        if outcome.replayed:
            response.headers[REPLAYED] = "true"
        return response

    return router
