"""The first page, and the page that lists the API."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from orchestration.serve.pages.render import PageReader, render
from orchestration.serve.settings import ServedDep

router = APIRouter()
_REFRESH_S = 15


@router.get("/")
def home(request: Request, app: ServedDep, _who: PageReader) -> Response:
    """What is running, what went wrong, and what is new."""
    uri = app.lake.uri
    lake = uri if uri.startswith("s3://") else "a folder of the server"  # where on its disk is nobody's business
    return render(request, "home.html", now=request.app.state.overviews.get(), lake=lake, refresh_s=_REFRESH_S)


@router.get("/api")
def api(request: Request, _who: PageReader) -> Response:
    """Every operation of the API with its first line, from the OpenAPI schema."""
    schema = request.app.openapi()
    operations = [
        (method.upper(), path, operation["description"].partition("\n")[0])
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    return render(request, "api.html", operations=operations)
