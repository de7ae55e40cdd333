"""Pages of models: versions, files, metrics, and lineage as a graph."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from datalake import lineage
from orchestration.console.output import flat_rows
from orchestration.serve.api.paging import Cursor, page_of_names
from orchestration.serve.api.routing import Name, Selector, reference
from orchestration.serve.pages.draw_lineage import draw_graph, lineage_graph, words
from orchestration.serve.pages.render import PageReader, or_note, render, root_path
from orchestration.serve.settings import ServedDep

router = APIRouter(prefix="/models")
_PAGE = 50


@router.get("")
def models_page(request: Request, app: ServedDep, _who: PageReader, cursor: Cursor = None) -> Response:
    """All models."""
    items, more = page_of_names(app.lake.models.names, cursor, _PAGE, app.lake.models.get)
    return render(request, "models_list.html", items=items, next=more)


@router.get("/{name}")
def model_name_page(request: Request, app: ServedDep, _who: PageReader, name: Name) -> Response:
    """One model: its versions."""
    history, count = app.lake.models.newest(name, _PAGE)
    aliases = app.lake.models.aliases(name)
    return render(request, "models_name.html", name=name, history=history, count=count, aliases=aliases)


@router.get("/{name}/{selector}")
def model_version_page(request: Request, app: ServedDep, _who: PageReader, name: Name, selector: Selector) -> Response:
    """One version: where it comes from, its files, its metrics."""
    version = app.lake.models.get(reference(name, selector))
    tree, note = or_note(app, lambda: lineage(app.lake, version.ref))
    graph = lineage_graph(tree) if tree else None
    return render(
        request,
        "models_version.html",
        version=version,
        drawing=draw_graph(graph, f"Lineage of {version.ref}", root_path(request)) if graph else None,
        sentences=words(graph) if graph else [],
        metrics=flat_rows(version.metrics),
        note=note,
    )
