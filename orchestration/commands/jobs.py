"""The commands that compute: generate, train, demo. All can be interrupted and run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from datalake import DamagePolicy, Repairer
from datalake.maintenance.damage_policy import OnDamage
from orchestration.commands.common import (
    DEFAULT_LAKE,
    AsJson,
    LakeUri,
    Message,
    open_lake,
    print_json,
    print_summary,
)
from orchestration.errors import InvalidRequestError
from orchestration.folders import check_output
from orchestration.generation.request import GenerateRequest, commit_computed
from orchestration.jobs import generate_run, job, report_live, train_run
from orchestration.live.config import LiveRequest, parse_live
from orchestration.toml_files import read_toml

OnDamageOption = Annotated[
    OnDamage | None,
    typer.Option(help="What a lost or corrupt shard leads to; by default heal what can be computed, fail on text."),
]
HealBudget = Annotated[int, typer.Option(min=0, metavar="SHARDS", help="Shards that may be healed in the run.")]
WaitBudget = Annotated[
    float, typer.Option(min=0, metavar="SECONDS", help="How long each process may wait for an absent store in all.")
]

LiveFlag = Annotated[
    bool, typer.Option("--live", help="Make the dataset that the config's table [live] describes while training on it.")
]
BufferBytes = Annotated[
    int | None, typer.Option(min=1, help="With --live: bytes generated and not yet trained on, at most (256 MiB).")
]
LiveReport = Annotated[
    Path | None, typer.Option(help="With --live: HTML file for rates and buffer depth; RUN-live.html by default.")
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
    no_ray: Annotated[bool, typer.Option("--no-ray", help="In this process, on this machine's cores.")] = False,
    computed: Annotated[
        bool, typer.Option("--computed", help="Make and store nothing: rows are computed where they are read.")
    ] = False,
    message: Message = "",
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Generate a dataset version; what the lake already holds is not made again."""
    opened = open_lake(lake, to_write=True)
    registered = opened.params.usable(params)
    how = {"actors": actors, "cpus-per-actor": cpus_per_actor, "gpus-per-actor": gpus_per_actor, "run": run}
    if computed and (given := [name for name, value in how.items() if value is not None]):
        raise InvalidRequestError(f"--{given[0]}: nothing is made for a computed dataset; leave it out")
    request = GenerateRequest(
        registered,
        tokens,
        dataset=dataset,
        seed=seed,
        shard_sequences=shard_sequences,
        actors=actors,
        backend=backend,
        message=message,
        cpus_per_actor=cpus_per_actor,
        gpus_per_actor=gpus_per_actor,
    )
    if computed:
        version, manifest = commit_computed(opened, request)
        sizes = {"sequences": manifest.sequences, "tokens": manifest.tokens}
        summary = {"dataset": version.ref, "digest": manifest.digest, "identity": manifest.identity, **sizes}
        print_summary({**summary, "same_rows_as": version.same_rows_as}, as_json)
    else:
        print_summary(generate_run(opened, request, run, ray=not no_ray), as_json)


def train(
    config_file: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="TOML file with the training config.")],
    run: Annotated[str | None, typer.Option(help="Run name; made of the config's digest by default.")] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N|LOW..HIGH",
            help="Workers, or a range such as 2..8 that follows the cluster; by default one per GPU, or two.",
        ),
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
    from orchestration.evaluation.harness_tasks import HarnessTasks
    from orchestration.runs.names import default_run_name, say_if_new
    from trainer import TrainJob, parse_config

    table = read_toml(config_file)
    request = take_live(table, live, no_ray, buffer_bytes)
    if table.get("init") is None:
        config = parse_config(table)  # a mistake in it is said before the lake is asked
    damage = DamagePolicy(on_damage, heal_budget, wait_seconds=wait_budget)
    opened = open_lake(lake, to_write=True)
    if table.get("init") is not None:
        from trainer.foreign import with_init

        config = parse_config(with_init(table, opened))
    if extend:
        from trainer.extend import extend_run

        if run is None:
            raise InvalidRequestError("--extend: which run is to go on? name it with --run")
        config = extend_run(opened, run, config)
    elif run is None:
        run = default_run_name(config_file.stem, config)
        say_if_new(opened, run, config_file.stem, config)
    if live_report is not None:
        check_output(live_report, "live-report")
    training = TrainJob(config, opened, run, parallel, repairer=Repairer(damage), score_tasks=HarnessTasks())
    result = train_run(training, workers=workers, gpu=gpu, ray=not no_ray, live=request, wandb=wandb)
    print_summary({"run": run, **report_live(result, live_report, as_json)}, as_json)


def take_live(table: dict[str, Any], live: bool, no_ray: bool, buffer_bytes: int | None) -> LiveRequest | None:
    """Take [live] out of a config's table, which is then the same for either way of running; what it asks for."""
    described = table.pop("live", None)
    if not live:
        if buffer_bytes is not None:
            raise InvalidRequestError(f"buffer-bytes = {buffer_bytes}: only --live has a buffer; add it")
        return None
    if no_ray:
        raise InvalidRequestError("no-ray: --live makes data on Ray's actors; leave one of them out")
    return parse_live(described, buffer_bytes=buffer_bytes)


def demo(
    lake: LakeUri = DEFAULT_LAKE,
    report: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    toy: Annotated[
        bool, typer.Option("--toy", help="Only see that all of it works here: sizes too small to learn anything.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Do the whole job at laptop size: parameters, sequences, text, pre-pre-training, transfer, report."""
    from orchestration.cluster.session import ray_session
    from orchestration.pipeline.demo import DEMO, TOY, run_demo

    opened = open_lake(lake, to_write=True)
    check_output(report, "report")
    with job() as stop, ray_session():
        outcome = run_demo(opened, TOY if toy else DEMO, report, stop)
    if as_json:
        print_json(outcome)
