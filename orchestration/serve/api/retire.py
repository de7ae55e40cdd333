"""The API of retiring: versions of parameter sets, datasets and models alike, and runs.

A retired version stays where it is read; what it named is answered with 410. Only `morphogen … delete --undo`, and
only until `data gc` has removed something of it, takes the mark off again.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from datalake.log.versioned import Version
from datalake.maintenance.retire import Kind, retire_run, retire_version
from orchestration.runs.lease import unowned
from orchestration.serve.api.etags import IfMatch, answer, precondition, version_tag
from orchestration.serve.api.idempotency import REPLAYED, IdempotencyKey, change_request
from orchestration.serve.api.routing import Name, Selector, problems, reference
from orchestration.serve.api.runs import run_state
from orchestration.serve.api.schemas import RunOut
from orchestration.serve.auth import Writer
from orchestration.serve.settings import ServedDep

Force = Annotated[
    str | None,
    Query(max_length=300, description="What is to be retired, once more: do so although something depends on it."),
]
Why = Annotated[str, Query(max_length=2000, pattern=r"^[^\x00-\x1f\x7f]*$", description="Why, for the history.")]

runs = APIRouter(prefix="/runs", tags=["runs"])


def retire_router(kind: Kind, tag: str, out: type[BaseModel]) -> APIRouter:
    """The route that retires a version of ``kind``; ``out`` is that kind's answer."""
    router = APIRouter(prefix=f"/{kind}", tags=[tag])

    @router.delete(
        "/{name}/versions/{selector}",
        response_model=out,
        responses=problems(404, 409, 412),
        operation_id=f"delete_{kind}_version",
    )
    def delete_version(
        request: Request,
        app: ServedDep,
        who: Writer,
        name: Name,
        selector: Selector,
        force: Force = None,
        message: Why = "",
        if_match: IfMatch = None,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        """Retire one version, by number: it stays in the lineage, new work on it is refused. 409 while something
        depends on it. Twice changes nothing, unless If-Match says that it is not retired yet."""

        def says(expected: int, found: int) -> str:
            state = "is retired already" if found == 0 else f"is version {found}"
            return f"{name}@{selector}: expected version {expected}, and it {state}: look at what changed"

        outcome = retire_version(
            *(app.lake_as(who.author), kind, reference(name, selector), message),
            force=force,
            request=change_request(idempotency_key, who.id, [kind, "delete", name, selector, force, message, if_match]),
            check=precondition(None if if_match == "*" else if_match, None, says),
        )
        version: Version = outcome.version
        return _with_replay(answer(request, out.model_validate(version), etag=version_tag(version)), outcome.replayed)

    return router


@runs.delete("/{name}", response_model=RunOut, responses=problems(404, 409), operation_id="delete_run")
def delete_run(
    request: Request,
    app: ServedDep,
    who: Writer,
    name: Name,
    force: Force = None,
    message: Why = "",
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Retire a run: its record and curve stay, it goes on no more. 409 while somebody works on it or something depends
    on it."""
    lake: Any = app.lake_as(who.author)
    asked = change_request(idempotency_key, who.id, ["runs", "delete", name, force, message])
    lease = unowned(lake, name, wait=False).state["lease"]
    _, _, replayed = retire_run(lake, name, message, over=lease, force=force, request=asked)
    return _with_replay(answer(request, run_state(lake, name)), replayed)


def _with_replay(response: Response, replayed: bool) -> Response:
    if replayed:
        response.headers[REPLAYED] = "true"
    return response
