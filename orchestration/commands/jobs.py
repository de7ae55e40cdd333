"""The commands that compute: generate, train, demo. All can be interrupted and run again."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from datalake import DamagePolicy
from datalake.maintenance.damage_policy import OnDamage
from orchestration.commands.common import (
    DEFAULT_LAKE,
    AsJson,
    LakeUri,
    Message,
    check_output,
    job,
    open_lake,
    print_json,
    print_summary,
)
from orchestration.commands.live import BufferBytes, LiveFlag, LiveReport, report_live, take_live
from orchestration.console.progress import console, stage
from orchestration.errors import InvalidRequestError
from orchestration.toml_files import read_toml

if TYPE_CHECKING:
    from datalake import Lake
    from orchestration.generation.job import GenerateRequest
    from orchestration.live.config import LiveRequest
    from trainer import TrainConfig, TrainResult
    from trainer.parallel import Parallel


OnDamageOption = Annotated[
    OnDamage | None,
    typer.Option(help="What a lost or corrupt shard leads to; by default heal what can be computed, fail on text."),
]
HealBudget = Annotated[int, typer.Option(min=0, metavar="SHARDS", help="Shards that may be healed in the run.")]
WaitBudget = Annotated[
    float, typer.Option(min=0, metavar="SECONDS", help="How long each process may wait for an absent store in all.")
]


def generate(
    params: Annotated[str, typer.Argument(help="NAME@VERSION (or NAME@ALIAS) of a parameter set.")],
    tokens: Annotated[int, typer.Option(help="Tokens to have, rounded up to whole sequences.")],
    dataset: Annotated[str | None, typer.Option(help="Dataset name; the parameter set's by default.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random streams.")] = 0,
    shard_sequences: Annotated[int, typer.Option(help="Sequences per Parquet shard.")] = 4096,
    actors: Annotated[
        int | None, typer.Option(help="Generator actors; by default what the cluster has room for.")
    ] = None,
    cpus_per_actor: Annotated[int | None, typer.Option(help="CPUs (threads) of each; with GPUs they score.")] = None,
    gpus_per_actor: Annotated[
        float | None, typer.Option(help="GPUs of each; 1 by default where there are any.")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="auto, numba, triton (one GPU per actor), reference; same bytes.")
    ] = "auto",
    run: Annotated[str | None, typer.Option(help="Run name; made of the request's digest by default.")] = None,
    message: Message = "",
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Generate a dataset version on Ray; what the lake already holds is not made again."""
    opened = open_lake(lake, to_write=True)
    registered = opened.params.get(params)
    # Ray takes seconds to import: everything that a typo could spoil has been checked before.
    from orchestration.generation.job import GenerateRequest

    request = GenerateRequest(
        *(registered, tokens, dataset, seed, shard_sequences, actors, backend, message),
        cpus_per_actor=cpus_per_actor,
        gpus_per_actor=gpus_per_actor,
    )
    print_summary(generate_run(opened, request, run), as_json)


def generate_run(lake: Lake, request: GenerateRequest, run: str | None) -> dict[str, Any]:
    """Generate with progress shown; returns what is to be printed."""
    from orchestration.cluster.session import ray_session
    from orchestration.generation.job import run_generation

    started = time.monotonic()
    cpus = (request.actors or 1) * (request.cpus_per_actor or 1)
    with job() as stop, ray_session(cpus), stage(f"generate {request.params.ref}", request.tokens) as advance:
        result = run_generation(lake, request, advance, run=run, stop=stop)
    return {**result.to_record(), "seconds": round(time.monotonic() - started, 2)}


def train(
    config_file: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="TOML file with the training config.")],
    run: Annotated[str | None, typer.Option(help="Run name; made of the config's digest by default.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers under Ray Train; by default one per GPU, or two.")
    ] = None,
    parallel: Annotated[
        Literal["ddp", "fsdp"], typer.Option(help="Each worker holds the whole model, or its share of it.")
    ] = "ddp",
    gpu: Annotated[bool | None, typer.Option("--gpu/--no-gpu", help="One GPU per worker; if there are any.")] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Let a finished run go on to more steps; see schedule.after.")
    ] = False,
    no_ray: Annotated[bool, typer.Option("--no-ray", help="One process, reading the lake directly.")] = False,
    on_damage: OnDamageOption = None,
    heal_budget: HealBudget = DamagePolicy.heal_shards,
    wait_budget: WaitBudget = DamagePolicy.wait_seconds,
    wandb: Annotated[str | None, typer.Option(metavar="PROJECT", help="Log to Weights & Biases, too.")] = None,
    live: LiveFlag = False,
    buffer_bytes: BufferBytes = None,
    live_report: LiveReport = None,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Train (or resume, or show the finished) run described by CONFIG.toml."""
    from orchestration.runs.names import default_run_name, say_if_new
    from trainer import parse_config
    from trainer.extend import extend_run
    from trainer.foreign import with_init

    table = read_toml(config_file)
    request = take_live(table, live, no_ray, buffer_bytes)
    if table.get("init") is None:
        parse_config(table)  # a mistake in it is said before the lake is asked
    damage = DamagePolicy(on_damage, heal_budget, wait_seconds=wait_budget)
    opened = open_lake(lake, to_write=True)
    config = parse_config(with_init(table, opened))
    if extend:
        if run is None:
            raise InvalidRequestError("--extend: which run is to go on? name it with --run")
        config = extend_run(opened, run, config)
    elif run is None:
        run = default_run_name(config_file.stem, config)
        say_if_new(opened, run, config_file.stem, config)
    if live_report is not None:
        check_output(live_report, "live-report")
    how: dict[str, Any] = {"workers": workers, "gpu": gpu, "parallel": parallel, "ray": not no_ray, "wandb": wandb}
    result = train_run(opened, config, run, damage=damage, live=request, **how)
    print_summary({"run": run, **report_live(result, live_report, as_json)}, as_json)


def train_run(
    lake: Lake,
    config: TrainConfig,
    run: str,
    *,
    workers: int | None = None,
    gpu: bool | None = None,
    parallel: Parallel = "ddp",
    ray: bool = True,
    damage: DamagePolicy | None = None,
    live: LiveRequest | None = None,
    wandb: str | None = None,
) -> TrainResult:
    """Train with progress shown, on Ray (also while generating) or in this process."""
    from orchestration.console.training import training_display
    from trainer.wandb_run import wandb_listening

    with (
        job() as stop,
        wandb_listening(wandb, run, console.print) if wandb else nullcontext(lambda _event: None) as logged,
        training_display(f"train {run}", config.steps) as shown,
    ):

        def on_event(event: dict[str, Any]) -> None:
            shown(event)
            logged(event)

        if not ray:
            from orchestration.training.local import train_here

            return train_here(lake, config, run, on_event=on_event, damage=damage, stop=stop)
        from orchestration.cluster.session import ray_session
        from orchestration.live.job import train_live
        from orchestration.training.ray_train import cpus_of_training, default_workers

        with ray_session(cpus_of_training(workers, live)):
            count, on_gpu = default_workers(config, workers, gpu)
            return train_live(
                *(lake, config, live, run),
                workers=count,
                use_gpu=on_gpu,
                parallel=parallel,
                on_event=on_event,
                damage=damage,
                stop=stop,
                settings={"live": live.model_dump(mode="json") if live else None, "wandb": wandb},
            )


def demo(
    lake: LakeUri = DEFAULT_LAKE,
    report: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    as_json: AsJson = False,
) -> None:
    """Do the whole job at laptop size: parameters, sequences, text, pre-pre-training, transfer, report."""
    from orchestration.cluster.session import ray_session
    from orchestration.pipeline.demo import DEMO, run_demo

    opened = open_lake(lake, to_write=True)
    check_output(report, "report")
    with job() as stop, ray_session():
        outcome = run_demo(opened, DEMO, report, stop)
    if as_json:
        print_json(outcome)
