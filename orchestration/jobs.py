"""Every kind of job, run to its end with progress shown; and going on with a run from its record alone.

Commands call these with parsed arguments; `resume_run` calls them with what the run's record says: its kind which job,
its config what, its settings how.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from datalake import DamagePolicy, Lake, Repairer
from datalake.runs.repository import retired_error
from orchestration.console.progress import console, stage
from orchestration.errors import ExperimentError, InvalidRequestError, refuse_without_ray
from orchestration.folders import writing
from orchestration.runs.signals import GraceOver, Stop, stoppable, unwrapping

# Ray takes seconds to import: what needs it is imported once a job is sure to begin.
if TYPE_CHECKING:
    from orchestration.experiment.analysis.analyse import Analysis
    from orchestration.experiment.config.file import ExperimentFile
    from orchestration.experiment.result import ExperimentResult
    from orchestration.generation.request import GenerateRequest
    from orchestration.live.config import LiveRequest
    from orchestration.pipeline.config import PipelineConfig
    from orchestration.tune.settings import TuneSettings
    from orchestration.tune.tuning import TuneResult
    from trainer import TrainJob, TrainResult
    from trainer.lattice.train_config import LatticeTrainConfig


@contextmanager
def resumable() -> Iterator[None]:
    """End an interrupted job with what to do next, and the exit code that shells expect of SIGINT."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("interrupted; what is done is kept: run the same command again to go on")
        raise typer.Exit(130) from None


@contextmanager
def job() -> Iterator[Stop]:
    """Run a job that SIGTERM and SIGINT stop well; leave at once at a second SIGINT or when the grace is over."""
    with resumable(), stoppable() as stop:
        try:
            with unwrapping():
                yield stop
        except GraceOver:
            console.print(
                f"stopped at once ({stop.reason}, and its grace is over); what was checkpointed is kept: "
                "run the same command again to go on"
            )
            raise typer.Exit(stop.exit_code) from None


def generate_run(lake: Lake, request: GenerateRequest, run: str | None, *, ray: bool = True) -> dict[str, Any]:
    """Generate with progress shown, on Ray or in this process; returns what is to be printed."""
    started = time.monotonic()
    with ExitStack() as stack:
        stop = stack.enter_context(job())
        if ray:
            from orchestration.cluster.session import ray_session
            from orchestration.generation.job import run_generation as make

            stack.enter_context(ray_session((request.actors or 1) * (request.cpus_per_actor or 1)))
        else:
            from orchestration.generation.local import generate_here as make
        advance = stack.enter_context(stage(f"generate {request.params.ref}", request.tokens))
        result = make(lake, request, advance, run=run, stop=stop)
    return {**result.to_record(), "seconds": round(time.monotonic() - started, 2)}


def train_run(
    training: TrainJob,
    *,
    workers: int | str | None = None,
    gpu: bool | None = None,
    ray: bool = True,
    live: LiveRequest | None = None,
    wandb: str | None = None,
) -> TrainResult:
    """Train with progress shown, on Ray (also while generating) or in this process; ``workers``: ``4`` or ``2..8``.

    InvalidRequestError for ``workers`` or ``gpu`` where this process trains alone.
    """
    from orchestration.console.training import training_display
    from orchestration.training.worker_range import parse_workers
    from trainer.wandb_run import wandb_listening

    wanted = parse_workers(workers)
    if not ray:
        refuse_without_ray(workers=wanted, gpu=gpu)
    with (
        job() as stop,
        wandb_listening(wandb, training.run, console.print) if wandb else nullcontext(lambda _event: None) as logged,
        training_display(f"train {training.run}", training.config.steps) as shown,
    ):

        def on_event(event: dict[str, Any]) -> None:
            shown(event)
            logged(event)

        if not ray:
            from orchestration.training.local import train_here

            return train_here(training, on_event=on_event, stop=stop)
        from orchestration.cluster.session import ray_session
        from orchestration.live.job import train_live
        from orchestration.training.ray_train import cpus_of_training, default_workers

        with ray_session(cpus_of_training(wanted, 0 if live is None else live.actors or 1)):
            count, on_gpu = default_workers(training.config, wanted, gpu)
            return train_live(
                training,
                live,
                workers=count,
                use_gpu=on_gpu,
                on_event=on_event,
                stop=stop,
                settings={"live": live.model_dump(mode="json") if live else None, "wandb": wandb},
            )


def report_live(result: TrainResult, report: Path | None, as_json: bool) -> dict[str, Any]:
    """Write the report of a live run; its record for printing, which as text leaves the long timeline out."""
    record = result.to_record()
    live = record["facts"].get("live")
    if live is None:  # the dataset was there already
        return record
    from orchestration.reports.live_page import render_live

    path = report or Path(f"{result.run}-live.html")
    try:
        path.write_text(render_live(result.run, live), encoding="utf-8")
        where = str(path)
    except OSError as error:  # the run is finished, and its figures are in the lake
        where = f"the page {path} could not be written ({error.strerror})"
    held = f"at most {live['peak_bytes']:,} of {live['buffer_bytes']:,} bytes"
    console.print(
        f"  generated {live['generated_tokens_per_s']:,.0f} tokens/s, consumed {live['consumed_tokens_per_s']:,.0f}, "
        f"starved {live['starvation_s']:.1f}s, {held}: {where}"
    )
    if not as_json:
        record["facts"]["live"] = {key: value for key, value in live.items() if key not in ("columns", "timeline")}
    return record


def pipeline_run(lake: Lake, config: PipelineConfig, run: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Run a pipeline with progress shown; returns its result."""
    from orchestration.pipeline.job import PipelineSettings, run_pipeline

    how = PipelineSettings(**settings)
    with ExitStack() as stack:
        stop = stack.enter_context(job())
        if how.ray:
            from orchestration.cluster.session import ray_session
            from orchestration.training.ray_train import cpus_of_training
            from orchestration.training.worker_range import parse_workers

            stack.enter_context(ray_session(max(how.actors or 1, cpus_of_training(parse_workers(how.workers)))))
        return run_pipeline(lake, config, run, settings=how, stop=stop)


def experiment_run(
    lake: Lake, file: ExperimentFile, report: Path | None = None, *, ray: bool = True
) -> tuple[ExperimentResult, Analysis]:
    """Run an experiment with progress shown, on Ray or in this process, and write its report; returns what it came to,
    and what that shows."""
    from orchestration.cluster.session import ray_session
    from orchestration.experiment.analysis.analyse import analyse
    from orchestration.experiment.report.page import write_report
    from orchestration.experiment.run.runner import run_experiment

    folder = report or Path(f"{file.name}-report")
    with writing(folder, "report"):  # told before hours of runs
        folder.mkdir(parents=True, exist_ok=True)
    with job() as stop, ray_session(file.machine.threads) if ray else nullcontext():
        result = run_experiment(lake, file, stop=stop, ray=ray)
    analysis = analyse(result)
    try:
        for path in write_report(result, analysis, folder):
            console.print(f"report: {path.resolve()}")
    except OSError as error:
        raise ExperimentError(
            f"the report cannot be written ({error}): all runs are in the lake; run the command again with a --report "
            "folder that can be written"
        ) from error
    return result, analysis


def tune_run(lake: Lake, params: str, target: str, settings: TuneSettings) -> TuneResult:
    """Tune a parameter set on a corpus with progress shown; returns what `run_tune` does."""
    from orchestration.cluster.session import ray_session

    try:
        from orchestration.tune.runner import run_tune
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise InvalidRequestError(
            "optuna is not installed, which proposes what to try: run pip install 'morphogen[tune]'"
        ) from error

    with job() as stop, ray_session(settings.threads):
        return run_tune(lake, params, target, settings, stop=stop)


State = Mapping[str, Any]


def resume_run(lake: Lake, run: str, state: State, changes: State) -> dict[str, Any]:
    """Run the job of ``run`` to its end and return what it prints; ``changes`` replace settings of the last attempt.

    Raises RetiredError for a retired run, InvalidRequestError for a kind that cannot go on by itself, and for settings
    that its job does not have; otherwise what the job raises.
    """
    if state.get("retired"):
        raise retired_error(run)
    kind, parent = state["kind"], state.get("parent")
    if parent is not None and (above := lake.runs.get(parent)).status != "finished" and not above.retired:
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
    from orchestration.generation.request import GenerateRequest

    params = lake.params.usable(config["params"])
    on_ray = settings.pop("ray", True) or settings.get("actors") is not None  # asked for now: those are Ray's
    return generate_run(lake, GenerateRequest(**{**config, **settings, "params": params}), run, ray=on_ray)


def _train(lake: Lake, run: str, config: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    from orchestration.evaluation.harness_tasks import HarnessTasks
    from orchestration.live.config import parse_live
    from trainer import TrainJob, parse_config

    repairer = Repairer(DamagePolicy(**settings.pop("damage", {})))
    live, parallel = settings.pop("live", None), settings.pop("parallel", "ddp")
    request = None if live is None else parse_live(live)
    training = TrainJob(parse_config(config), lake, run, parallel, repairer=repairer, score_tasks=HarnessTasks())
    on_ray = settings.pop("ray", True) or settings.get("workers") is not None  # asked for now: those are Ray's
    result = train_run(training, live=request, ray=on_ray, **settings)
    return {"run": run, **report_live(result, None, as_json=False)}


def _pipeline(lake: Lake, run: str, config: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    from orchestration.pipeline.config import parse_pipeline

    return pipeline_run(lake, parse_pipeline(config, config["name"]), run, settings)


def _experiment(lake: Lake, run: str, config: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    from orchestration.experiment.config.load import parse_experiment

    file = parse_experiment(config, Path(settings.get("folder", "")), settings.get("file_digest", ""))
    result, analysis = experiment_run(lake, file, ray=settings.get("ray", True))
    return {"run": run, "arms": {arm.name: arm.status for arm in result.arms}, "verdict": analysis.verdict}


def _tune(lake: Lake, run: str, config: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    from orchestration.tune.settings import parse_settings

    told = dict(config["settings"])
    corpus = told.pop("train_data")
    del told["heldout"], settings
    result = tune_run(lake, config["target"]["incumbent"], corpus, parse_settings(told))
    return {"run": run, "promoted": result.promoted, "verdict": result.verdict}


def lattice_run(
    lake: Lake, config: LatticeTrainConfig, run: str, threads: int | None = None, workers: int | None = None
) -> TrainResult:
    """Train a lattice with progress shown: in this process, or on ``workers`` workers of Ray."""
    from orchestration.console.training import training_display
    from orchestration.lattice.train import train_lattice

    if workers is not None:
        config.check_world(workers)
    with job() as stop, training_display(f"lattice {run}", config.steps) as shown:
        if workers is None:
            return train_lattice(lake, config, run, on_event=shown, stop=stop, threads=threads)
        from orchestration.cluster.session import ray_session
        from orchestration.lattice.ray_train import train_lattice_on_ray

        with ray_session(workers):
            return train_lattice_on_ray(lake, config, run, workers, on_event=shown, stop=stop)


def _lattice(lake: Lake, run: str, config: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    from trainer.lattice.train_config import parse_lattice_config

    result = lattice_run(lake, parse_lattice_config(config), run, workers=settings.get("workers"))
    return {"run": run, "step": result.step, "model": result.model}


Job = Callable[[Lake, str, dict[str, Any], dict[str, Any]], dict[str, Any]]
KINDS: dict[str, tuple[frozenset[str], Job]] = {
    "generate": (frozenset({"actors"}), _generate),
    "train": (frozenset({"workers"}), _train),
    "pipeline": (frozenset({"workers", "actors"}), _pipeline),
    "experiment": (frozenset(), _experiment),
    "tune": (frozenset(), _tune),
    "lattice": (frozenset({"workers"}), _lattice),
}
