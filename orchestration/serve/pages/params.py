"""Pages of parameter sets: names, versions, one version's spec, two versions' differences."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from datalake import Lake
from orchestration.errors import InvalidRequestError
from orchestration.serve.api.paging import Cursor, page_of_names
from orchestration.serve.api.routing import Name, Selector, reference
from orchestration.serve.pages.render import PageReader, render
from orchestration.serve.pages.tables import spec_rows
from orchestration.serve.settings import ServedDep

router = APIRouter(prefix="/params")
_PAGE = 50


@router.get("")
def params_page(request: Request, app: ServedDep, _who: PageReader, cursor: Cursor = None) -> Response:
    """All parameter sets."""
    items, more = page_of_names(app.lake.params.names, cursor, _PAGE, app.lake.params.get)
    return render(request, "params_list.html", items=items, next=more)


@router.get("/{name}")
def params_name_page(
    request: Request, app: ServedDep, _who: PageReader, name: Name, before: str = "", after: str = ""
) -> Response:
    """One set: its latest spec, its history, and the difference of two versions (the last two, unless asked)."""
    history, count = app.lake.params.newest(name, _PAGE)
    old, new = _version(before, count), _version(after, count)
    if not (old and new) and count > 1:
        old, new = count - 1, count
    changes = app.lake.params.diff(f"{name}@{old}", f"{name}@{new}") if old and new else None
    return render(
        request,
        "params_name.html",
        name=name,
        history=history,
        count=count,
        latest=history[-1],
        fields=spec_rows(history[-1].spec),
        aliases=app.lake.params.aliases(name),
        before=old,
        after=new,
        changes=changes,
    )


@router.get("/{name}/{selector}")
def params_version_page(request: Request, app: ServedDep, _who: PageReader, name: Name, selector: Selector) -> Response:
    """One version: its spec, and the datasets made by it."""
    version = app.lake.params.get(reference(name, selector))
    made = _datasets_of(app.lake, version.ref)
    return render(request, "params_version.html", version=version, fields=spec_rows(version.spec), datasets=made)


def _datasets_of(lake: Lake, ref: str) -> list[str]:
    """Latest dataset versions that name ``ref`` as what they were made by."""
    return [version.ref for version in lake.datasets.list() if version.params == ref]


def _version(text: str, latest: int) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= latest):
        raise InvalidRequestError(f"version {text[:40]!r}: expected 1 to {latest}; choose one of these")
    return int(text)
