"""The commands that compute: preview, generate, train, demo. All can be interrupted and run again."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from datalake import DamagePolicy
from datalake.caretaker import OnDamage
from orchestration.commands.common import (
    DEFAULT_LAKE,
    AsJson,
    LakeUri,
    Message,
    open_lake,
    print_json,
    read_toml,
    resumable,
)
from orchestration.commands.live import BufferBytes, LiveFlag, LiveReport, report_live, take_live
from orchestration.progress import stage

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
    actors: Annotated[int | None, typer.Option(help="Generator actors; one per core by default.")] = None,
    backend: Annotated[
        str, typer.Option(help="auto, numba, triton (one GPU per actor), reference; same bytes.")
    ] = "auto",
    message: Message = "",
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Generate a dataset version on Ray; what the lake already holds is not made again."""
    opened = open_lake(lake, to_write=True)
    registered = opened.params.get(params)
    # Ray takes seconds to import: everything that a typo could spoil has been checked before.
    from orchestration.generate_job import GenerateRequest, run_generation
    from orchestration.ray_session import ray_session

    request = GenerateRequest(registered, tokens, dataset, seed, shard_sequences, actors, backend, message)
    started = time.monotonic()
    with resumable(), ray_session(), stage(f"generate {params}", tokens) as advance:
        result = run_generation(opened, request, advance)
    manifest = result.manifest
    summary = {
        "dataset": f"{result.dataset.name}@{result.dataset.version}",
        "digest": manifest.digest,
        "content_digest": manifest.content_digest,
        "sequences": manifest.sequences,
        "tokens": manifest.tokens,
        "shards": len(manifest.shards),
        "shards_written": result.shards_written,
        "shards_reused": result.shards_reused,
        "seconds": round(time.monotonic() - started, 2),
    }
    _print_summary(summary, as_json)


def _print_summary(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(summary)
    else:
        for key, value in summary.items():
            typer.echo(f"{key:>15}  {value:,}" if isinstance(value, int) else f"{key:>15}  {value}")


def train(
    config_file: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="TOML file with the training config.")],
    run: Annotated[str | None, typer.Option(help="Run name; made of the config's digest by default.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="DDP workers under Ray Train.")] = 2,
    gpu: Annotated[bool, typer.Option("--gpu", help="One GPU per worker.")] = False,
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
    from orchestration.run_names import default_run_name
    from orchestration.training_view import training_display
    from trainer import parse_config, run_training
    from trainer.wandb_run import wandb_listening

    table = read_toml(config_file)
    request = take_live(table, live, no_ray, buffer_bytes)
    config = parse_config(table)
    damage = DamagePolicy(on_damage, heal_budget, wait_seconds=wait_budget)
    opened = open_lake(lake, to_write=True)
    if run is None:
        run = default_run_name(config_file.stem, config)
    with (
        resumable(),
        wandb_listening(wandb, run) if wandb else nullcontext(lambda _event: None) as logged,
        training_display(f"train {run}", config.steps) as shown,
    ):

        def on_event(event: dict[str, Any]) -> None:
            shown(event)
            logged(event)

        if no_ray:
            from orchestration.heal import caretaker

            result = run_training(config, opened, run, on_event=on_event, care=caretaker(damage, on_event))
        else:
            from orchestration.live_job import train_live
            from orchestration.ray_session import ray_session

            with ray_session():
                result = train_live(
                    *(opened, config, request, run), workers=workers, use_gpu=gpu, on_event=on_event, damage=damage
                )
    _print_summary({"run": run, **report_live(result, live_report, as_json)}, as_json)


def demo(
    lake: LakeUri = DEFAULT_LAKE,
    report: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    as_json: AsJson = False,
) -> None:
    """Do the whole job at laptop size: parameters, sequences, text, pre-pre-training, transfer, report."""
    from orchestration.demo import DEMO, run_demo
    from orchestration.ray_session import ray_session

    opened = open_lake(lake, to_write=True)
    with resumable(), ray_session():
        outcome = run_demo(opened, DEMO, report)
    if as_json:
        print_json(outcome)
