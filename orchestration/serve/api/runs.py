"""The API of runs: what a job is doing, and its curve."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from datalake import Lake
from orchestration.runs.view import SHOWN, view_of
from orchestration.serve.api.etags import answer
from orchestration.serve.api.paging import DEFAULT_LIMIT, Cursor, Limit, page_of_names
from orchestration.serve.api.routing import Name, problems
from orchestration.serve.api.schemas import MetricsOut, RunOut, RunPage, RunSummary
from orchestration.serve.auth import Reader
from orchestration.serve.settings import ServedDep, without_place

router = APIRouter(prefix="/runs", tags=["runs"])


@router.get("", response_model=RunPage, responses=problems(304), operation_id="list_runs")
def list_runs(
    request: Request, app: ServedDep, _who: Reader, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Response:
    """Every run, by name."""
    items, more = page_of_names(app.lake.runs.names, cursor, limit, lambda name: run_state(app.lake, name, shown=0))
    summaries = [RunSummary(**item.model_dump(include=set(RunSummary.model_fields))) for item in items]
    return answer(request, RunPage(items=summaries, next=more))


@router.get("/{name}", response_model=RunOut, responses=problems(304, 404), operation_id="get_run")
def get_run(request: Request, app: ServedDep, _who: Reader, name: Name) -> Response:
    """A run's newest state, and what its owner last said."""
    return answer(request, run_state(app.lake, name))


@router.get("/{name}/metrics", response_model=MetricsOut, responses=problems(304, 404), operation_id="get_metrics")
def get_metrics(
    request: Request,
    app: ServedDep,
    _who: Reader,
    name: Name,
    checkpoints: Annotated[
        int, Query(ge=2, le=1000, description="Where the run has more checkpoints, as many of them, evenly spread.")
    ] = 200,
) -> Response:
    """What the step loop logged, up to the newest checkpoint."""
    records, count = app.lake.runs.get(name).metrics_sample(checkpoints)
    return answer(request, MetricsOut(run=name, records=records, sampled=count > checkpoints))


def run_state(lake: Lake, name: str, shown: int = SHOWN) -> RunOut:
    """A run as it may be shown, with the newest ``shown`` items of what grows; its lease, which lets a process write to
    it, stays inside.
    """
    run = lake.runs.get(name)
    view = view_of(lake, run, shown)
    view |= {
        "checkpoints": [each.model_dump(mode="json") for each in run.recorded_checkpoints(shown)],
        "checkpoint_count": view["checkpoints"],
    }
    if view.get("error"):
        view["error"] = without_place(lake, view["error"])
    return RunOut(**{field: view[field] for field in RunOut.model_fields if field in view})
