"""The server: a lake in, an ASGI application out; it keeps nothing, so any number may serve one lake."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi

from datalake import Lake
from datalake.access import AccessControl
from orchestration.serve import api_data, api_models, api_params, api_runs, api_service, pages, problems
from orchestration.serve.api_aliases import alias_router
from orchestration.serve.gate import Gate
from orchestration.serve.schemas import Problem
from orchestration.serve.settings import Served, ServeSettings

API = "/api/v1"
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


def create_app(lake: Lake, settings: ServeSettings | None = None, *, loopback_only: bool = False) -> FastAPI:
    """The API and pages of ``lake``.

    With ``loopback_only``, for a server bound to loopback, everybody who reaches it may do everything while the lake
    has no token; a Host of another name is refused (DNS rebinding). Without it, nobody may until there is a token.
    """
    settings = settings or ServeSettings()
    app = FastAPI(
        title="Morphogen",
        summary="Parameter sets, datasets, models and runs of one lake.",
        version="1",
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # the interactive pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    access = AccessControl(lake.store, lake.ambient, refresh_s=settings.token_refresh_s)
    app.state.served = Served(lake, access, settings, open=loopback_only)
    api = APIRouter(prefix=API)
    aliases = (
        alias_router("params", "parameter set", lambda lake: lake.params),
        alias_router("datasets", "dataset", lambda lake: lake.datasets),
        alias_router("models", "model", lambda lake: lake.models),
    )
    for router in (
        api_service.router,
        api_params.router,
        api_data.router,
        api_data.manifests,
        api_models.router,
        api_runs.router,
        *aliases,
        api_service.tokens,
    ):
        api.include_router(router)
    app.include_router(api)
    pages.install(app)
    problems.install(app, pages.error_page)
    app.add_middleware(Gate, max_body=settings.max_body, hosts=LOOPBACK_HOSTS if loopback_only else None)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's schema, with our problem document in place of its own validation error."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        components = schema["components"]["schemas"]
        components["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        for unused in ("HTTPValidationError", "ValidationError"):
            components.pop(unused, None)
        app.openapi_schema = schema
    return app.openapi_schema
