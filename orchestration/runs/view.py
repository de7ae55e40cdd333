"""A run as a person wants to see it: its log's newest state and its heartbeat, put together as one JSON document."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from datalake import Lake, Run
from datalake.runs.run import GROWING
from orchestration.runs.lease import lease_seconds
from orchestration.runs.owner import describe, is_gone

# What the document leaves to others: the lease lets a process write to the run.
HIDDEN = {"lease", "holder"}
SHOWN = 64  # of a list that grows as long as the run goes on


def view_runs(lake: Lake) -> list[dict[str, Any]]:
    """``view_run`` of every run, by name, without what grows."""
    return [view_of(lake, lake.runs.get(name), shown=0) for name in lake.runs.names()]


def view_run(lake: Lake, name: str) -> dict[str, Any]:
    """The run's state, and: ``name``; ``state`` (its status, or "lost" where the owner of a running run gives no sign
    of life, or "retired"); ``progress`` (done, of, unit, note); ``seen`` (time of the last one); ``owner``;
    ``checkpoint`` (newest step); ``checkpoints`` (how many); the newest 64 of ``repairs``, ``trials`` and ``extended``
    where there are any, and how many: ``repair_count``, …. Raises NotFoundError.
    """
    return view_of(lake, lake.runs.get(name))


def view_of(lake: Lake, run: Run, shown: int = SHOWN) -> dict[str, Any]:
    """``view_run`` of a run that has been looked up, with the newest ``shown`` items of what grows."""
    state = run.state
    heartbeat = lake.runs.heartbeat(run.name)
    mine = heartbeat if heartbeat is not None and heartbeat.lease == state["lease"] else None
    owner = state.get("holder")
    newest = run.newest_checkpoint
    lists = {field: run.listed(field) for field in GROWING if field != "checkpoints"}
    return {
        "name": run.name,
        "state": _state(lake, state, mine.time if mine else None),
        "progress": (mine.progress if mine else None) or state.get("progress") or {},
        "seen": mine.time if mine else None,
        "owner": describe(owner) if owner else None,
        "checkpoint": newest.step if newest else None,
        "checkpoints": run.checkpoint_count,
        **{field: found.newest(shown) for field, found in lists.items() if found.count},
        **{f"{field.removesuffix('s')}_count": found.count for field, found in lists.items() if found.count},
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
