"""The first page, and the page that lists the API."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from orchestration.serve.pages.render import PageReader, render
from orchestration.serve.settings import ServedDep

router = APIRouter()


@router.get("/")
def home(request: Request, app: ServedDep, _who: PageReader) -> Response:
    """What the lake holds, by kind, newest names first within reach of one look."""
    lake = app.lake
    kinds = [
        ("Parameter sets", "/params", list(lake.params.names())),
        ("Datasets", "/datasets", list(lake.datasets.names())),
        ("Models", "/models", list(lake.models.names())),
        ("Runs", "/runs", lake.runs.list()),
    ]
    return render(request, "home.html", kinds=kinds, lake=lake.uri)


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
