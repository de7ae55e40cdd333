"""The server: a lake in, an ASGI application out; it keeps nothing, so any number may serve one lake."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from datalake import Lake
from datalake.registry.access import AccessControl
from orchestration.serve import problems
from orchestration.serve.acceptance import AcceptanceChecks
from orchestration.serve.api import data as api_data
from orchestration.serve.api import models as api_models
from orchestration.serve.api import openapi
from orchestration.serve.api import params as api_params
from orchestration.serve.api import runs as api_runs
from orchestration.serve.api import service as api_service
from orchestration.serve.api.aliases import alias_router
from orchestration.serve.api.retire import retire_router
from orchestration.serve.api.retire import runs as runs_to_retire
from orchestration.serve.api.schemas import DatasetVersionOut, ModelVersionOut, ParameterVersionOut
from orchestration.serve.forwarded import Forwarded
from orchestration.serve.gate import Gate
from orchestration.serve.pages import data as pages_data
from orchestration.serve.pages import home as pages_home
from orchestration.serve.pages import login
from orchestration.serve.pages import models as pages_models
from orchestration.serve.pages import params as pages_params
from orchestration.serve.pages import runs as pages_runs
from orchestration.serve.pages.overview import Overviews
from orchestration.serve.pages.render import LoginNeededError, error_page, root_path
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
        openapi_url=None,  # below, since its servers depend on the proxy
        docs_url=None,  # the interactive pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_closing,
    )
    access = AccessControl(lake.store, lake.system, refresh_s=settings.token_refresh_s)
    checks = AcceptanceChecks(settings.checks)
    app.state.served = Served(lake, access, settings, loopback_only, checks)
    app.state.overviews = Overviews(lake)
    api = APIRouter(prefix=API)
    aliases = (
        alias_router("params", "parameter set", lambda lake: lake.params),
        alias_router("datasets", "dataset", lambda lake: lake.datasets),
        alias_router("models", "model", lambda lake: lake.models),
    )
    retiring = (
        retire_router("params", "parameter sets", ParameterVersionOut),
        retire_router("datasets", "datasets", DatasetVersionOut),
        retire_router("models", "models", ModelVersionOut),
    )
    for router in (
        api_service.router,
        api_params.router,
        api_data.router,
        api_data.manifests,
        api_models.router,
        api_runs.router,
        *aliases,
        *retiring,
        runs_to_retire,
        api_service.tokens,
    ):
        api.include_router(router)
    app.include_router(api)
    _install_pages(app)
    problems.install(app, error_page)
    app.add_middleware(
        Gate,
        max_body=settings.max_body,
        body_s=settings.body_s,
        max_requests=settings.max_requests,
        hosts=LOOPBACK_HOSTS if loopback_only else None,
    )
    app.add_middleware(
        Forwarded, trusted=settings.trusted_proxies, root_path=settings.root_path, any_host=not loopback_only
    )
    openapi.install(app, f"{API}/openapi.json")
    return app


@asynccontextmanager
async def _closing(app: FastAPI) -> AsyncIterator[None]:
    yield
    await app.state.served.checks.close()


def _install_pages(app: FastAPI) -> None:
    """Add the pages and what they answer instead of problems."""
    for module in (pages_home, pages_params, pages_data, pages_models, pages_runs, login):
        app.include_router(module.router, include_in_schema=False)

    async def to_login(request: Request, _error: Exception) -> Response:
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{root_path(request)}/login?next={quote(target, safe='')}", 303)

    app.add_exception_handler(LoginNeededError, to_login)
