"""Pages of datasets: versions, score histograms, shards, and the sequences themselves."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from cachetools import LRUCache
from fastapi import APIRouter, Query, Request, Response
from markupsafe import Markup

from datalake import Lake, Manifest, read_shard
from datalake.errors import ManifestError
from datalake.reading.tables import tables_of_rows
from orchestration.reports.run_charts import histogram
from orchestration.serve.api.paging import Cursor, page_of_names
from orchestration.serve.api.routing import Name, Selector, reference
from orchestration.serve.pages.draw_frames import Drawing, draw_sequence
from orchestration.serve.pages.render import PageReader, or_note, render
from orchestration.serve.pages.tables import spec_rows
from orchestration.serve.settings import ServedDep

router = APIRouter(prefix="/datasets")

_PAGE = 50
_SHARDS_PAGE = 100
_SEQUENCES_PAGE = 4
_SAMPLED_SHARDS = 8  # enough for a histogram's shape; reading all of a large dataset for one page would not be
_KEPT_HISTOGRAMS = 64
_TITLES = {"score": "gzip-int32-v1 ratio", "score_normalized": "normalised gzip-int32-v1 ratio"}
_BANDS = {"score": "gzip-int32-v1", "score_normalized": "gzip-int32-v1-normalized"}

_charts: LRUCache[str, Histograms] = LRUCache(_KEPT_HISTOGRAMS)
_charts_lock = threading.Lock()


@dataclass(frozen=True)
class Histograms:
    """Drawn score histograms, and of how many shards of how many."""

    charts: tuple[Markup, ...]
    sampled: int
    shards: int


@dataclass(frozen=True)
class Sequence:
    """A row as the page shows it."""

    index: int
    facts: dict[str, Any]
    drawing: Drawing


@router.get("")
def datasets_page(request: Request, app: ServedDep, _who: PageReader, cursor: Cursor = None) -> Response:
    """All datasets."""
    items, more = page_of_names(app.lake.datasets.names, cursor, _PAGE, app.lake.datasets.get)
    return render(request, "datasets_list.html", items=items, next=more)


@router.get("/{name}")
def dataset_name_page(request: Request, app: ServedDep, _who: PageReader, name: Name) -> Response:
    """One dataset: its versions."""
    history, count = app.lake.datasets.newest(name, _PAGE)
    aliases = app.lake.datasets.aliases(name)
    return render(request, "datasets_name.html", name=name, history=history, count=count, aliases=aliases)


@router.get("/{name}/{selector}")
def dataset_version_page(
    request: Request,
    app: ServedDep,
    _who: PageReader,
    name: Name,
    selector: Selector,
    shard: Annotated[int, Query(ge=0, le=10**9)] = 0,
) -> Response:
    """One version: facts, histograms, its first sequences, its shards."""
    version = app.lake.datasets.get(reference(name, selector))
    manifest = app.lake.datasets.manifest(version)
    usable, retired = or_note(app, lambda: app.lake.datasets.check_usable(version))
    charts, chart_note = or_note(app, lambda: score_histograms(app.lake, manifest)) if usable else (None, None)
    sequences, note = or_note(app, lambda: read_sequences(app.lake, manifest, 0, 2)) if usable else (None, retired)
    end = min(shard + _SHARDS_PAGE, len(manifest.shards))
    return render(
        request,
        "datasets_version.html",
        version=version,
        manifest=manifest,
        fields=spec_rows(manifest.source.spec),
        histograms=charts,
        sequences=sequences or [],
        notes=list(dict.fromkeys(text for text in (chart_note, note) if text)),
        shards=list(enumerate(manifest.shards))[shard:end],
        first_shard=shard,
        before=max(0, shard - _SHARDS_PAGE) if shard else None,
        after=end if end < len(manifest.shards) else None,
    )


@router.get("/{name}/{selector}/sequences")
def sequences_page(
    request: Request,
    app: ServedDep,
    _who: PageReader,
    name: Name,
    selector: Selector,
    first: Annotated[int, Query(ge=0, le=2**62)] = 0,
) -> Response:
    """Four sequences at a time, drawn."""
    version = app.lake.datasets.get(reference(name, selector))
    manifest = app.lake.datasets.manifest(version)
    first = min(first, manifest.sequences - 1)
    usable, retired = or_note(app, lambda: app.lake.datasets.check_usable(version))
    sequences, note = (
        or_note(app, lambda: read_sequences(app.lake, manifest, first, _SEQUENCES_PAGE)) if usable else (None, retired)
    )
    after = first + _SEQUENCES_PAGE
    return render(
        request,
        "datasets_sequences.html",
        version=version,
        manifest=manifest,
        sequences=sequences or [],
        notes=[note] if note else [],
        first=first,
        last=min(after, manifest.sequences) - 1,
        before=max(0, first - _SEQUENCES_PAGE) if first else None,
        after=after if after < manifest.sequences else None,
    )


def read_sequences(lake: Lake, manifest: Manifest, first: int, count: int) -> list[Sequence]:
    """Rows ``first`` … of a dataset, drawn. Raises MissingShardError or CorruptShardError naming the shard,
    and ManifestError for rows that nobody has stored."""
    _check_stored(manifest)
    found: list[Sequence] = []
    for table in tables_of_rows(lake.store, manifest, first, count, None):
        for row in table.to_pylist():
            tokens_T = np.frombuffer(row.pop("tokens"), dtype=manifest.token_dtype)
            facts = {key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()}
            facts.pop("sequence_id", None)
            found.append(Sequence(first + len(found), facts, draw_sequence(lake.store, manifest, tokens_T)))
    return found


def score_histograms(lake: Lake, manifest: Manifest) -> Histograms:
    """Histograms of the score columns over evenly spaced shards; kept by digest, since a manifest never changes.

    Raises as ``read_sequences``.
    """
    _check_stored(manifest)
    with _charts_lock:
        if manifest.digest in _charts:
            return _charts[manifest.digest]
    shards = manifest.shards
    count = min(_SAMPLED_SHARDS, len(shards))
    chosen = [shards[place] for place in sorted({round(at) for at in np.linspace(0, len(shards) - 1, count).tolist()})]
    tables = [read_shard(lake.store, ref) for ref in chosen]
    charts = []
    for column, title in _TITLES.items():
        if all(column in table.column_names for table in tables):
            values = np.concatenate([table.column(column).to_numpy() for table in tables])
            charts.append(histogram(values, title, f"Scores: {title}", _band(manifest, _BANDS[column])))
    made = Histograms(tuple(charts), len(chosen), len(shards))
    with _charts_lock:
        _charts[manifest.digest] = made
    return made


def _check_stored(manifest: Manifest) -> None:
    """A spec may take a minute for a row: no request for a page computes any."""
    if manifest.is_computed:
        raise ManifestError(
            "the rows are computed where they are read, and this server computes none: `morphogen data head` shows "
            "them, `morphogen data materialize` stores them"
        )


def _band(manifest: Manifest, definition: str) -> tuple[float, float] | None:
    """The spec's band, if it is in this score."""
    band = manifest.source.spec.get("band")
    if not isinstance(band, dict) or band.get("score") != definition:
        return None
    return float(band["low"]), float(band["high"])
