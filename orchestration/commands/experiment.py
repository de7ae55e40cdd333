"""`morphogen experiment`: run the arms of a TOML file, or go on with them, and report what they show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestration.commands.common import (
    DEFAULT_LAKE,
    AsJson,
    LakeUri,
    job,
    open_lake,
    print_json,
    print_table,
    writing,
)
from orchestration.console.output import say
from orchestration.errors import ExperimentError

if TYPE_CHECKING:
    from datalake import Lake
    from orchestration.experiment.analysis.analyse import Analysis
    from orchestration.experiment.config.file import ExperimentFile
    from orchestration.experiment.result import ExperimentResult


def experiment(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="The experiment; see experiments/.")],
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for report.html and report.json; NAME-report by default.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the summary for a pull request.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print arms, costs and hashes.")] = False,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Run every arm of FILE.toml that the lake does not hold, then say what they show.

    Exit status 1 if an arm failed; run the same command again to try it once more.
    """
    from orchestration.experiment.config.load import load_experiment

    loaded = load_experiment(file)
    opened = open_lake(lake)
    if dry_run:
        _print_plan(loaded, opened, as_json)
        return
    from orchestration.experiment.report.markdown import to_markdown

    result, analysis = experiment_run(opened, loaded, report)
    if as_json:
        print_json({"result": result.model_dump(mode="json"), "analysis": analysis.model_dump(mode="json")})
    elif markdown:
        for line in to_markdown(result, analysis).split("\n"):
            say(line)
    else:
        print_table(
            ["arm", "seed", "status", "loss, nats", "run"],
            [
                [arm.arm.label, str(arm.arm.seed), arm.status, "" if loss is None else f"{loss:.4f}", arm.run]
                for arm in result.arms
                for loss in [arm.final_loss]
            ],
        )
        say(analysis.verdict)
    if any(arm.status != "finished" for arm in result.arms):
        raise typer.Exit(1)


def experiment_run(lake: Lake, file: ExperimentFile, report: Path | None = None) -> tuple[ExperimentResult, Analysis]:
    """Run an experiment with progress shown and write its report; what it came to, and what that shows."""
    from orchestration.cluster.session import ray_session
    from orchestration.console.progress import console
    from orchestration.experiment.analysis.analyse import analyse
    from orchestration.experiment.report.write import write_report
    from orchestration.experiment.run.runner import run_experiment

    folder = report or Path(f"{file.name}-report")
    with writing(folder, "report"):  # told before hours of runs
        folder.mkdir(parents=True, exist_ok=True)
    with job() as stop, ray_session(file.machine.threads):
        result = run_experiment(lake, file, stop=stop)
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


def _print_plan(loaded: Any, opened: Any, as_json: bool) -> None:
    from orchestration.experiment.run.dryrun import dry_run
    from orchestration.experiment.run.runner import detectable_effect, say_effect

    plan = dry_run(opened, loaded) | {"detectable_effect": say_effect(detectable_effect(loaded))}
    if as_json:
        print_json(plan)
        return
    say(f"{plan['name']}: {plan['question']}" if plan["question"] else plan["name"])
    say(plan["detectable_effect"])
    names = list(plan["arms"][0]["factors"])
    print_table(
        [*names, "seed", "language tokens", "tokens before", "shared hash"],
        [
            [
                *arm["factors"].values(),
                str(arm["seed"]),
                arm["language_tokens"],
                arm["pre_tokens"],
                arm["shared_hash"][:12],
            ]
            for arm in plan["arms"]
        ],
    )
    for stage, size in plan["runs"].items():
        say(f"{stage:>18}  {size['runs']} runs, {size['tokens']:,} tokens, {size['flops']:.3g} FLOPs")
    if len(plan["shared_hashes"]) > 1:
        say("the arms do not share one configuration: their hashes differ, and the report would refuse them")
