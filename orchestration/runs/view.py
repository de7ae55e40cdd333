"""A run as a person wants to see it: its log's newest state and its heartbeat, put together as one JSON document."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from datalake import Lake, Run
from orchestration.runs.lease import lease_seconds
from orchestration.runs.owner import describe, is_gone

# What the document leaves to others: the lease lets a process write to the run; checkpoints are summed up.
HIDDEN = {"lease", "checkpoints", "holder"}


def view_runs(lake: Lake) -> list[dict[str, Any]]:
    """``view_run`` of every run, by name."""
    return [view_run(lake, name) for name in lake.runs.names()]


def view_run(lake: Lake, name: str) -> dict[str, Any]:
    """The run's state, and: ``name``; ``state`` (its status, or "lost" where the owner of a running run gives no sign
    of life, or "retired"); ``progress`` (done, of, unit, note); ``seen`` (time of the last one); ``owner``;
    ``checkpoint`` (newest step); ``checkpoints`` (how many). Raises NotFoundError.
    """
    return view_of(lake, lake.runs.get(name))


def view_of(lake: Lake, run: Run) -> dict[str, Any]:
    """``view_run`` of a run that has been looked up."""
    state = run.state
    heartbeat = lake.runs.heartbeat(run.name)
    mine = heartbeat if heartbeat is not None and heartbeat.lease == state["lease"] else None
    owner = state.get("holder")
    kept = run.checkpoints
    return {
        "name": run.name,
        "state": _state(lake, state, mine.time if mine else None),
        "progress": (mine.progress if mine else None) or state.get("progress") or {},
        "seen": mine.time if mine else None,
        "owner": describe(owner) if owner else None,
        "checkpoint": kept[-1].step if kept else None,
        "checkpoints": len(kept),
        **{field: value for field, value in state.items() if field not in HIDDEN | {"progress"}},
    }


def _state(lake: Lake, state: dict[str, Any], seen: str | None) -> str:
    """Its status; "retired" if it is, "lost" if it runs, but its owner is gone or silent for longer than a lease."""
    if state.get("retired"):
        return "retired"
    if state["status"] != "running" or not state.get("holder"):
        return state["status"]
    if is_gone(state["holder"]):
        return "lost"
    if seen is None:  # taken this moment, or its heartbeat was deleted
        return "running"
    silent_s = (lake.system.clock() - datetime.fromisoformat(seen)).total_seconds()
    return "lost" if silent_s > lease_seconds() else "running"


def speed_text(progress: dict[str, Any]) -> str:
    """``12.5 steps/s, 3 min left`` of a running job; empty if its speed is not known."""
    speed = progress.get("per_second")
    if not speed:
        return ""
    rate = f"{speed:,.3g} {progress['unit']}/s" if speed >= 0.1 else f"{60 * speed:,.3g} {progress['unit']}/min"
    seconds = max(0.0, progress["of"] - progress["done"]) / speed
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{rate}, {seconds / size:,.0f} {unit} left"
    return f"{rate}, {seconds:.0f} s left"


def progress_text(progress: dict[str, Any]) -> str:
    """``40 of 600 steps, loss 2.31``; empty if nothing is known."""
    if not progress:
        return ""
    text = f"{progress['done']:,.0f} of {progress['of']:,.0f} {progress['unit']}"
    return f"{text}, {progress['note']}" if progress.get("note") else text
