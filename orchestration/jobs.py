"""Going on with a run from its record alone: its kind says which job, its config what, its settings how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datalake import DamagePolicy, Lake
from orchestration.errors import InvalidRequestError

State = Mapping[str, Any]


def resume_run(lake: Lake, run: str, state: State, changes: State) -> dict[str, Any]:
    """Run the job of ``run`` to its end and return what it prints; ``changes`` replace settings of the last attempt.

    Raises InvalidRequestError for a kind that cannot go on by itself, and for settings that its job does not have;
    otherwise what the job raises.
    """
    kind, parent = state["kind"], state.get("parent")
    if parent is not None and lake.runs.get(parent).status != "finished":
        raise InvalidRequestError(
            f"run {run!r} is a stage of {parent}: `morphogen runs resume {parent}` goes on with it"
        )
    known = KINDS.get(kind)
    if known is None:
        raise InvalidRequestError(
            f"run {run!r} is of kind {kind!r}: only {', '.join(KINDS)} go on from their record; run its command again"
        )
    allowed, go_on = known
    if unknown := sorted(changes.keys() - allowed):
        raise InvalidRequestError(f"--{unknown[0]}: a run of kind {kind} has no such setting; leave it out")
    return go_on(lake, run, state["config"], {**state.get("settings", {}), **changes})


def _generate(lake: Lake, run: str, config: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    from orchestration.commands.jobs import generate_run
    from orchestration.generation.job import GenerateRequest

    params = lake.params.get(config["params"])
    return generate_run(lake, GenerateRequest(**{**config, **settings, "params": params}), run)


def _train(lake: Lake, run: str, config: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    from orchestration.commands.jobs import train_run
    from orchestration.commands.live import report_live
    from orchestration.live.config import parse_live
    from trainer import parse_config

    damage = DamagePolicy(**settings.pop("damage", {}))
    live = settings.pop("live", None)
    request = None if live is None else parse_live(live)
    result = train_run(lake, parse_config(config), run, damage=damage, live=request, **settings)
    return {"run": run, **report_live(result, None, as_json=False)}


def _pipeline(lake: Lake, run: str, config: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    from orchestration.commands.pipeline import pipeline_run
    from orchestration.pipeline.config import parse_pipeline

    return pipeline_run(lake, parse_pipeline(config, config["name"]), run, settings)


def _experiment(lake: Lake, run: str, config: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    from orchestration.commands.experiment import experiment_run
    from orchestration.experiment.config.load import parse_experiment

    file = parse_experiment(config, Path(settings.get("folder", "")), settings.get("file_digest", ""))
    result, analysis = experiment_run(lake, file)
    return {"run": run, "arms": {arm.name: arm.status for arm in result.arms}, "verdict": analysis.verdict}


def _tune(lake: Lake, run: str, config: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    from orchestration.cluster.session import ray_session
    from orchestration.commands.common import job
    from orchestration.tune.runner import run_tune
    from orchestration.tune.settings import parse_settings

    told = dict(config["settings"])
    corpus = told.pop("train_data")
    del told["heldout"], settings
    parsed = parse_settings(told)
    with job() as stop, ray_session(parsed.threads):
        result = run_tune(lake, config["target"]["incumbent"], corpus, parsed, stop=stop)
    return {"run": run, "promoted": result.promoted, "verdict": result.verdict}


Job = Callable[[Lake, str, dict[str, Any], dict[str, Any]], dict[str, Any]]
KINDS: dict[str, tuple[frozenset[str], Job]] = {
    "generate": (frozenset({"actors"}), _generate),
    "train": (frozenset({"workers"}), _train),
    "pipeline": (frozenset({"workers", "actors"}), _pipeline),
    "experiment": (frozenset(), _experiment),
    "tune": (frozenset(), _tune),
}
