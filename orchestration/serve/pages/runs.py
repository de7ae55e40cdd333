"""Pages of runs: what a job is doing, its configuration, and its loss curves."""

from __future__ import annotations

import math
from typing import Any

from fastapi import APIRouter, Request, Response
from markupsafe import Markup

from orchestration.console.output import flat_rows
from orchestration.reports.run_charts import Series, curves
from orchestration.serve.api.paging import Cursor, page_of_names
from orchestration.serve.api.routing import Name
from orchestration.serve.api.runs import run_state
from orchestration.serve.api.schemas import RunOut
from orchestration.serve.pages.render import PageReader, or_note, render
from orchestration.serve.settings import ServedDep

router = APIRouter(prefix="/runs")
_PAGE = 50
_CHECKPOINTS = 100  # whose metrics a page reads
_POINTS = 600  # of a curve: more than there are pixels across


@router.get("")
def runs_page(request: Request, app: ServedDep, _who: PageReader, cursor: Cursor = None) -> Response:
    """All runs."""
    items, more = page_of_names(app.lake.runs.names, cursor, _PAGE, lambda name: run_state(app.lake, name, shown=0))
    return render(request, "runs_list.html", items=items, next=more)


@router.get("/{name}")
def run_page(request: Request, app: ServedDep, _who: PageReader, name: Name) -> Response:
    """One run."""
    run = run_state(app.lake, name)
    found, note = or_note(app, lambda: app.lake.runs.get(name).metrics_sample(_CHECKPOINTS))
    records, count = found or ([], 0)
    if count > _CHECKPOINTS:
        note = f"The curve is drawn from what was logged up to {_CHECKPOINTS} of {count:,} checkpoints, evenly spread."
    training, held_out = split_records(records)
    return render(
        request,
        "runs_name.html",
        run=run,
        chart=loss_chart(training, held_out),
        held_out={ref: points[-1] for ref, points in held_out.items()},
        last=training[-1] if training else None,
        config=flat_rows(run.config),
        resources=flat_rows(run.settings | run.resources),
        inputs=flat_rows(run.inputs),
        result=flat_rows(run.result) if run.result else [],
        met=met(run),
        note=note,
    )


def met(run: RunOut) -> list[tuple[str, str, str]]:
    """(time, what, details) of every repair and fault of a run, oldest first."""
    items = [{"kind": "repair", **repair} for repair in run.repairs] + run.faults
    rows = [
        (item.get("time", ""), item.get("kind", ""), [pair for pair in item.items() if pair[0] not in ("time", "kind")])
        for item in items
    ]
    return sorted((time, kind, ", ".join(f"{name}: {value}" for name, value in rest)) for time, kind, rest in rows)


Point = tuple[float, float]


def split_records(records: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, list[Point]]]:
    """The step records, and (step, held-out loss) by dataset."""
    training = [record for record in records if "loss" in record]
    held_out: dict[str, list[Point]] = {}
    for record in records:
        for ref, scores in record.get("eval", {}).items():
            if "loss" in scores:  # and not a task's metrics
                held_out.setdefault(ref, []).append((record["step"], scores["loss"]))
    return training, held_out


def loss_chart(training: list[dict[str, Any]], held_out: dict[str, list[Point]]) -> Markup | None:
    """Training and held-out loss over steps; None before the first record."""
    every = max(1, math.ceil(len(training) / _POINTS))
    points = [(float(row["step"]), float(row["loss"])) for row in training[::every]]
    series = [Series("training", points)] if points else []
    series += [Series(f"held-out {ref}", points, marks=True) for ref, points in held_out.items()]
    if not series:
        return None
    return curves(series, "Loss over steps", "step", "loss, nats per token")
