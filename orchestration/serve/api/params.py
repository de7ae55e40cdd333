"""The API of parameter sets: what every generator obeys, changed only by compare-and-set."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import asdict
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from datalake import ParameterVersion, diff_specs
from datalake.log.version_log import VersionLog
from datalake.log.versioned import Outcome
from datalake.registry.params import not_latest
from generator import parse_spec
from orchestration.errors import InvalidRequestError
from orchestration.serve.api.bodies import JsonRoute
from orchestration.serve.api.etags import IfMatch, IfNoneMatch, answer, precondition, version_tag
from orchestration.serve.api.idempotency import REPLAYED, IdempotencyKey, change_request
from orchestration.serve.api.paging import DEFAULT_LIMIT, Cursor, Limit, page_of_names, page_of_versions
from orchestration.serve.api.routing import SELECTOR, Name, Selector, problems, reference, write_problems
from orchestration.serve.api.schemas import ChangesOut, DiffOut, ParameterPage, ParameterVersionOut, PutSpec
from orchestration.serve.auth import Reader, Writer
from orchestration.serve.settings import ServedDep

router = APIRouter(prefix="/params", tags=["parameter sets"], route_class=JsonRoute)
SelectorQuery = Annotated[str, Query(pattern=SELECTOR, description="Version, alias or `latest`.")]


@router.get("", response_model=ParameterPage, responses=problems(304), operation_id="list_params")
def list_params(
    request: Request, app: ServedDep, _who: Reader, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Response:
    """The latest version of every parameter set, by name."""
    items, more = page_of_names(app.lake.params.names, cursor, limit, app.lake.params.get)
    return answer(request, ParameterPage(items=[_out(item) for item in items], next=more))


@router.get("/{name}", response_model=ParameterVersionOut, responses=problems(304, 404), operation_id="get_params")
def get_params(request: Request, app: ServedDep, _who: Reader, name: Name) -> Response:
    """The latest version. Its ETag is its number: send it as If-Match to put the next one only after this one."""
    found = app.lake.params.get(name)
    return answer(request, _out(found), etag=version_tag(found))


@router.put(
    "/{name}",
    response_model=ParameterVersionOut,
    responses={201: {"model": ParameterVersionOut, "description": "A new version."}, **write_problems()},
    operation_id="put_params",
)
async def put_params(
    request: Request,
    app: ServedDep,
    who: Writer,
    name: Name,
    body: PutSpec,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Register a spec as the next version, or find that it is the latest one already (200, nothing stored).

    How often the spec's band is met is measured first, beside the server. 422 if that costs too much, 503 with
    Retry-After if too many wait for it.
    """
    asked = ["params", name, body.model_dump(mode="json"), if_match, if_none_match]
    spec = await run_in_threadpool(parse_spec, body.spec)
    await _unless_gone(request, app.checks.check(spec, who.id))

    def put() -> Outcome[ParameterVersion]:
        return app.lake_as(who.author).params.put_once(
            name,
            spec.model_dump(mode="json"),
            change_request(idempotency_key, who.id, asked),
            message=body.message,
            check=precondition(if_match, if_none_match, lambda *heads: not_latest(name, *heads)),
            force=body.force,
        )

    outcome = await run_in_threadpool(put)
    version = outcome.version
    response = answer(request, _out(version), etag=version_tag(version), status=201 if outcome.changed else 200)
    response.headers["Location"] = f"{request.url.path}/versions/{version.version}"
    if outcome.replayed:
        response.headers[REPLAYED] = "true"
    return response


class _GoneError(InvalidRequestError):
    """The client has left: there is nobody to read this."""


async def _unless_gone(request: Request, work: Coroutine[Any, Any, None]) -> None:
    """Wait for ``work``; cancel it once the client has left."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise _GoneError("the client left before its spec was measured")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    tasks[0].result()


@router.get(
    "/{name}/versions", response_model=ParameterPage, responses=problems(304, 404), operation_id="params_history"
)
def params_history(
    request: Request, app: ServedDep, _who: Reader, name: Name, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Response:
    """Every version, oldest first: when, who, why."""
    items, more = page_of_versions(app.lake.params, name, cursor, limit)
    return answer(request, ParameterPage(items=[_out(item) for item in items], next=more))


@router.get(
    "/{name}/versions/{selector}",
    response_model=ParameterVersionOut,
    responses=problems(304, 404),
    operation_id="get_params_version",
)
def get_params_version(request: Request, app: ServedDep, _who: Reader, name: Name, selector: Selector) -> Response:
    """One version, by number (all but whether it is retired never changes), by alias, or `latest`."""
    found = app.lake.params.get(reference(name, selector))
    return answer(request, _out(found), etag=version_tag(found))


@router.get("/{name}/diff", response_model=DiffOut, responses=problems(304, 404), operation_id="diff_params")
def diff_params(
    request: Request, app: ServedDep, _who: Reader, name: Name, old: SelectorQuery, new: SelectorQuery
) -> Response:
    """Two versions, field by field."""
    before, after = (app.lake.params.get(reference(name, selector)) for selector in (old, new))
    changes: Any = [asdict(change) for change in diff_specs(before.spec, after.spec)]
    return answer(request, DiffOut(old=before.ref, new=after.ref, changes=changes))


@router.get("/{name}/changes", response_model=ChangesOut, responses=problems(304), operation_id="params_changes")
def params_changes(
    request: Request,
    app: ServedDep,
    _who: Reader,
    name: Name,
    after: Annotated[int | None, Query(ge=0, le=99_999_999, description="The last entry known; none: now.")] = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Response:
    """New versions and moved aliases after an entry of the name's log: ask again and again to follow it."""
    head = VersionLog(app.lake.store, "params", name, app.lake.system).head()
    newest = head.number if head else 0
    if after is None or after >= newest:
        return answer(request, ChangesOut(entry=newest if after is None else after, items=[]))
    looks = iter([False])
    told = app.lake.params.watch(name, after, interval=0.0, stop=lambda: next(looks, True))
    found = list(islice(told, limit + 1))
    last = max([newest, *(change.entry for change in found)])
    if len(found) > limit:  # whole entries only, so that the next question begins where this answer ends
        last = found[limit].entry - 1
        found = [change for change in found if change.entry <= last]
    items: Any = [asdict(change) for change in found]
    return answer(request, ChangesOut(entry=last, items=items))


def _out(version: ParameterVersion) -> ParameterVersionOut:
    return ParameterVersionOut.model_validate(version)
