"""The API of datasets: versions, manifests, shards."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from datalake import DatasetVersion, Manifest, load_manifest
from datalake.errors import NotFoundError
from orchestration.serve.api.etags import answer, version_tag
from orchestration.serve.api.paging import DEFAULT_LIMIT, Cursor, Limit, page_of_names, page_of_rows, page_of_versions
from orchestration.serve.api.routing import DigestPath, Name, Selector, is_number, problems, reference
from orchestration.serve.api.schemas import DatasetPage, DatasetVersionOut, ShardOut, ShardPage
from orchestration.serve.auth import Reader
from orchestration.serve.delivery import deliver
from orchestration.serve.settings import ServedDep

router = APIRouter(prefix="/datasets", tags=["datasets"])
manifests = APIRouter(prefix="/manifests", tags=["datasets"])

PARQUET = "application/vnd.apache.parquet"
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The Parquet file.", "content": {PARQUET: {"schema": {"type": "string", "format": "binary"}}}}
}


@router.get("", response_model=DatasetPage, responses=problems(304), operation_id="list_datasets")
def list_datasets(
    request: Request, app: ServedDep, _who: Reader, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Response:
    """The latest version of every dataset, by name."""
    items, more = page_of_names(app.lake.datasets.names, cursor, limit, app.lake.datasets.get)
    return answer(request, DatasetPage(items=[_out(item) for item in items], next=more))


@router.get("/{name}", response_model=DatasetVersionOut, responses=problems(304, 404), operation_id="get_dataset")
def get_dataset(request: Request, app: ServedDep, _who: Reader, name: Name) -> Response:
    """The latest version; its ETag is its number."""
    found = app.lake.datasets.get(name)
    return answer(request, _out(found), etag=version_tag(found))


@router.get(
    "/{name}/versions", response_model=DatasetPage, responses=problems(304, 404), operation_id="dataset_history"
)
def dataset_history(
    request: Request, app: ServedDep, _who: Reader, name: Name, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Response:
    """Every version, oldest first."""
    items, more = page_of_versions(app.lake.datasets, name, cursor, limit)
    return answer(request, DatasetPage(items=[_out(item) for item in items], next=more))


@router.get(
    "/{name}/versions/{selector}",
    response_model=DatasetVersionOut,
    responses=problems(304, 404),
    operation_id="get_dataset_version",
)
def get_dataset_version(request: Request, app: ServedDep, _who: Reader, name: Name, selector: Selector) -> Response:
    """One version, by number (all but whether it is retired never changes), by alias, or `latest`."""
    found = app.lake.datasets.get(reference(name, selector))
    return answer(request, _out(found), etag=version_tag(found))


@router.get(
    "/{name}/versions/{selector}/manifest",
    response_model=Manifest,
    responses=problems(304, 404),
    operation_id="get_dataset_manifest",
)
def get_dataset_manifest(request: Request, app: ServedDep, _who: Reader, name: Name, selector: Selector) -> Response:
    """The manifest of one version."""
    manifest = app.lake.datasets.manifest(reference(name, selector))
    return answer(request, manifest, etag=manifest.digest, immutable=is_number(selector))


@router.get(
    "/{name}/versions/{selector}/shards",
    response_model=ShardPage,
    responses=problems(304, 404),
    operation_id="list_shards",
)
def list_shards(
    request: Request,
    app: ServedDep,
    _who: Reader,
    name: Name,
    selector: Selector,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """The shards of one version in sequence order, each with where to get it."""
    version = app.lake.datasets.get(reference(name, selector))
    shards = list(enumerate(app.lake.datasets.manifest(version).shards))
    items, more = page_of_rows(shards, cursor, limit)
    base = f"{request.scope['root_path']}/api/v1/datasets/{name}/versions/{version.version}/shards"
    out = [ShardOut(index=index, href=f"{base}/{index}", **asdict(ref)) for index, ref in items]
    return answer(request, ShardPage(items=out, next=more), immutable=is_number(selector))


@router.get(
    "/{name}/versions/{selector}/shards/{index}",
    response_class=Response,
    responses={**_BYTES, **problems(206, 304, 307, 404, 410, 416)},
    operation_id="get_shard",
)
def get_shard(
    request: Request,
    app: ServedDep,
    _who: Reader,
    name: Name,
    selector: Selector,
    index: Annotated[int, Path(ge=0, le=10**9, description="The shard's place in the manifest, from 0.")],
) -> Response:
    """One shard's Parquet file: from here, or by a redirect to S3. Check it against its SHA-256 in the manifest."""
    shards = app.lake.datasets.manifest(app.lake.datasets.usable(reference(name, selector))).shards
    if not shards:
        raise NotFoundError(
            f"dataset {name}@{selector} is computed and has no shards: `morphogen data materialize` stores them"
        )
    if index >= len(shards):
        raise NotFoundError(f"dataset {name}@{selector} has no shard {index}: it has 0 to {len(shards) - 1}")
    ref = shards[index]
    filename = f"{name}-{ref.key.rpartition('/')[2]}"
    return deliver(request, app, ref.key, sha256=ref.sha256, size=ref.bytes, filename=filename, media_type=PARQUET)


@manifests.get("/{digest}", response_model=Manifest, responses=problems(304, 404), operation_id="get_manifest")
def get_manifest(request: Request, app: ServedDep, _who: Reader, digest: DigestPath) -> Response:
    """A manifest by its digest."""
    return answer(request, load_manifest(app.lake.store, digest), etag=digest, immutable=True)


def _out(version: DatasetVersion) -> DatasetVersionOut:
    return DatasetVersionOut.model_validate(version)
