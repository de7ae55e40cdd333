"""The OpenAPI schema: FastAPI's, with our problem document, the headers of every answer, and an example of each."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse

from orchestration.serve.api.schemas import Problem
from orchestration.serve.problems import ERROR_URN, MEDIA_TYPE

_HEADERS: dict[str, tuple[str, str]] = {
    "ETag": ("Of this representation; send it as If-None-Match, or as If-Match to change it.", '"3"'),
    "Cache-Control": ("What never changes may be kept; anything else is asked for again.", "private"),
    "Location": ("Where it is.", "/api/v1/params/code/versions/3"),
    "Idempotent-Replayed": ("true: this request was done before, and is answered as it was then.", "true"),
    "Repr-Digest": ("SHA-256 of the whole file (RFC 9530).", "sha-256=:AAAA:"),
    "Content-Range": ("Which part of how many bytes.", "bytes 0-1023/4096"),
    "WWW-Authenticate": ("How to say who you are.", 'Bearer realm="morphogen"'),
    "Allow": ("The methods that the path answers to.", "GET, HEAD, PUT"),
    "Accept": ("The media types that are taken.", "application/json"),
    "Retry-After": ("Seconds after which to ask again.", "2"),
}
_OF_STATUS: dict[str, tuple[str, ...]] = {
    "200": ("ETag", "Cache-Control"),
    "201": ("ETag", "Location", "Idempotent-Replayed"),
    "206": ("ETag", "Content-Range", "Repr-Digest"),
    "304": ("ETag", "Cache-Control"),
    "307": ("Location",),
    "401": ("WWW-Authenticate",),
    "405": ("Allow",),
    "412": ("ETag",),
    "415": ("Accept",),
    "416": ("Content-Range",),
    "503": ("Retry-After",),
}
_SPEC = {"family": "nca", "grid": [12, 12], "colors": 4, "seq_len": 1024}
_TIME, _DIGEST = "2026-11-27T03:04:05.678Z", "9f" * 32
_PROVENANCE = {"created": _TIME, "author": "ada", "message": "wider"}
_EXAMPLES: dict[str, dict[str, Any]] = {
    "PutSpec": {"spec": _SPEC, "message": "wider", "force": False},
    "PutAlias": {"version": 3},
    "ParameterVersionOut": {"name": "code", "version": 3, "digest": _DIGEST, "spec": _SPEC, **_PROVENANCE},
    "DatasetVersionOut": {
        "name": "code", "version": 1, "digest": _DIGEST, "kind": "synthetic", "params": "code@3", "sequences": 4096,
        "tokens": 4194304, **_PROVENANCE,
    },
    "ModelVersionOut": {
        "name": "demo-nca", "version": 1, "digest": _DIGEST,
        "files": {"model.safetensors": {"sha256": _DIGEST, "bytes": 4096}}, "run": "train-6f2c",
        "datasets": ["code@1"], "spec_digests": [_DIGEST], "params": ["code@3"],
        "metrics": {"evals": {"docs-heldout@1": {"loss": 3.17}}}, "parents": [], **_PROVENANCE,
    },
    "ShardOut": {
        "index": 0, "key": "data/9f9f/000000000000.parquet", "first": 0, "rows": 4096, "bytes": 8389632,
        "sha256": _DIGEST, "href": "/api/v1/datasets/code/versions/1/shards/0",
    },
    "AliasOut": {"name": "code", "alias": "stable", "version": 3},
    "AliasesOut": {"name": "code", "aliases": {"stable": 3}},
    "DiffOut": {
        "old": "code@2", "new": "code@3",
        "changes": [{"path": "hidden", "old": 16, "new": 32, "added": False, "removed": False}],
    },
    "RunSummary": {
        "name": "train-6f2c", "kind": "train", "status": "running", "state": "running",
        "progress": {"done": 40, "of": 600, "unit": "steps", "note": "loss 2.31"}, "seen": _TIME, "parent": None,
        "attempts": 1,
    },
    "MetricsOut": {"run": "train-6f2c", "records": [{"step": 1, "loss": 9.2}]},
    "Health": {"status": "ok", "version": "1.0"},
    "Readiness": {"status": "ready", "lake": "s3", "tokens": True},
    "TokenOut": {
        "id": "0123456789ab", "name": "ada", "role": "writer", "created": _TIME, "author": "ops", "expires": None,
        "revoked": None,
    },
}  # fmt: skip
_ERRORS = {
    "400": ("InvalidRequestError", "cursor: not one that this server made; leave it out to begin with the first page"),
    "401": ("AccessError", "a token is needed: send `Authorization: Bearer TOKEN`"),
    "403": ("RoleError", "role reader may not do this: it takes a token of role writer"),
    "404": ("NotFoundError", "no parameter set named 'code'"),
    "405": ("MethodNotAllowed", "Method Not Allowed"),
    "408": ("BodyTimeoutError", "the body did not arrive within 30 s: send it faster"),
    "409": ("Conflict", "params 'code': expected head 2, found 3"),
    "410": ("RetiredError", "dataset code@1 is retired, and what it named may be gone: use another version"),
    "412": ("PreconditionFailedError", "expected head 2, found 3: look at what changed and try again"),
    "413": ("TooLargeError", "the body is larger than 262144 bytes: send less"),
    "415": ("UnsupportedMediaError", "Content-Type: 'text/plain'; allowed is application/json"),
    "416": ("RangeNotSatisfiableError", "Range: begins behind the end; allowed are bytes 0 to 4095"),
    "422": ("SpecError", "colors: 1 is out of range; allowed is greater than or equal to 2"),
    "500": ("CorruptShardError", "shard data/9f9f/000000000000.parquet has another digest than its manifest says"),
    "503": ("BusyError", "9 specs wait for the measuring of their bands: ask again a little later"),
}


def install(app: FastAPI, path: str) -> None:
    """Serve the schema at ``path``; ``app.openapi()`` is the same without a proxy's prefix."""
    app.openapi = lambda: _schema(app)  # type: ignore[method-assign]

    @app.get(path, include_in_schema=False)
    def openapi(request: Request) -> Response:
        """The schema, with the path below which a proxy shows this server."""
        root_path = request.scope.get("root_path", "")
        servers = {"servers": [{"url": root_path}]} if root_path else {}
        return JSONResponse({**app.openapi(), **servers})


def _schema(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        components = schema["components"]["schemas"]
        components["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        for unused in ("HTTPValidationError", "ValidationError"):
            components.pop(unused, None)
        for name, example in _EXAMPLES.items():
            components[name]["example"] = example
        for methods in schema["paths"].values():
            for operation in methods.values():
                for status, answer in operation["responses"].items():
                    _describe(status, answer)
        app.openapi_schema = schema
    return app.openapi_schema


def _describe(status: str, answer: dict[str, Any]) -> None:
    """Add an answer's headers, and to a problem its example."""
    if names := _OF_STATUS.get(status):
        answer["headers"] = {
            name: {"description": _HEADERS[name][0], "schema": {"type": "string"}, "example": _HEADERS[name][1]}
            for name in names
        }
    if status in _ERRORS:
        error, detail = _ERRORS[status]
        answer["content"][MEDIA_TYPE]["example"] = {
            "type": ERROR_URN + error,
            "title": error,
            "status": int(status),
            "detail": detail,
            "instance": "/api/v1/params/code",
        }
