"""The API of models: versions, files, lineage."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from datalake import ModelVersion, lineage
from datalake.errors import NotFoundError
from orchestration.serve.api.etags import answer, version_tag
from orchestration.serve.api.paging import DEFAULT_LIMIT, Cursor, Limit, page_of_names, page_of_versions
from orchestration.serve.api.routing import Name, Selector, problems, reference
from orchestration.serve.api.schemas import LineageOut, ModelPage, ModelVersionOut
from orchestration.serve.auth import Reader
from orchestration.serve.delivery import deliver
from orchestration.serve.settings import ServedDep

router = APIRouter(prefix="/models", tags=["models"])

_OCTETS = "application/octet-stream"
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {_OCTETS: {"schema": {"type": "string", "format": "binary"}}}}
}


@router.get("", response_model=ModelPage, responses=problems(304), operation_id="list_models")
def list_models(
    request: Request, app: ServedDep, _who: Reader, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Response:
    """The latest version of every model, by name."""
    items, more = page_of_names(app.lake.models.names, cursor, limit, app.lake.models.get)
    return answer(request, ModelPage(items=[_out(item) for item in items], next=more))


@router.get("/{name}", response_model=ModelVersionOut, responses=problems(304, 404), operation_id="get_model")
def get_model(request: Request, app: ServedDep, _who: Reader, name: Name) -> Response:
    """The latest version; its ETag is its number."""
    found = app.lake.models.get(name)
    return answer(request, _out(found), etag=version_tag(found))


@router.get("/{name}/versions", response_model=ModelPage, responses=problems(304, 404), operation_id="model_history")
def model_history(
    request: Request, app: ServedDep, _who: Reader, name: Name, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Response:
    """Every version, oldest first."""
    items, more = page_of_versions(app.lake.models, name, cursor, limit)
    return answer(request, ModelPage(items=[_out(item) for item in items], next=more))


@router.get(
    "/{name}/versions/{selector}",
    response_model=ModelVersionOut,
    responses=problems(304, 404),
    operation_id="get_model_version",
)
def get_model_version(request: Request, app: ServedDep, _who: Reader, name: Name, selector: Selector) -> Response:
    """One version, by number (all but whether it is retired never changes), by alias, or `latest`."""
    found = app.lake.models.get(reference(name, selector))
    return answer(request, _out(found), etag=version_tag(found))


@router.get(
    "/{name}/versions/{selector}/lineage",
    response_model=LineageOut,
    responses=problems(304, 404),
    operation_id="get_lineage",
)
def get_lineage(request: Request, app: ServedDep, _who: Reader, name: Name, selector: Selector) -> Response:
    """What a version was made from: run, data, specs, parameters, and the models before it."""
    found = LineageOut.model_validate(lineage(app.lake, reference(name, selector)))
    return answer(request, found)


@router.get(
    "/{name}/versions/{selector}/files/{filename}",
    response_class=Response,
    responses={**_BYTES, **problems(206, 304, 307, 404, 410, 416)},
    operation_id="get_model_file",
)
def get_model_file(
    request: Request,
    app: ServedDep,
    _who: Reader,
    name: Name,
    selector: Selector,
    filename: Annotated[str, Path(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,199}$")],
) -> Response:
    """One file: from here, or by a redirect to S3. Check it against its SHA-256."""
    version = app.lake.models.usable(reference(name, selector))
    if filename not in version.files:
        raise NotFoundError(f"model {version.ref} has no file {filename!r}: it has {', '.join(version.files)}")
    facts, key = version.files[filename], f"{version.key_prefix}/{filename}"
    named = f"{name}-{filename}"
    return deliver(request, app, key, sha256=facts["sha256"], size=facts["bytes"], filename=named, media_type=_OCTETS)


def _out(version: ModelVersion) -> ModelVersionOut:
    return ModelVersionOut.model_validate(version)
