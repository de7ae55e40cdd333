"""`morphogen experiment`: run the arms of a TOML file, or go on with them, and report what they show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orchestration.commands.common import (
    DEFAULT_LAKE,
    AsJson,
    LakeUri,
    open_lake,
    print_json,
    print_table,
)
from orchestration.console.output import say
from orchestration.jobs import experiment_run


def experiment(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="The experiment; see experiments/.")],
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder for the report (page, Markdown, JSON, figures); NAME-report by default."
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the summary for a pull request.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print arms, costs and hashes.")] = False,
    no_ray: Annotated[bool, typer.Option("--no-ray", help="In this process, one run after another.")] = False,
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

    result, analysis = experiment_run(opened, loaded, report, ray=not no_ray)
    if as_json:
        print_json({"result": result.model_dump(mode="json"), "analysis": analysis.model_dump(mode="json")})
    elif markdown:
        for line in to_markdown(result, analysis).split("\n"):
            say(line)
    else:
        print_table(
            ["arm", "seed", "status", "loss, nats" if loaded.metric == "loss" else "accuracy", "run"],
            [
                [arm.arm.label, str(arm.arm.seed), arm.status, "" if loss is None else f"{loss:.4f}", arm.run]
                for arm in result.arms
                for loss in [arm.score(loaded.metric)]
            ],
        )
        say(analysis.verdict)
    if any(arm.status != "finished" for arm in result.arms):
        raise typer.Exit(1)


def _print_plan(loaded: Any, opened: Any, as_json: bool) -> None:
    from orchestration.experiment.run.auto import describe
    from orchestration.experiment.run.dryrun import dry_run
    from orchestration.experiment.run.runner import detectable_effect, say_effect

    if loaded.auto is None:
        said = [say_effect(detectable_effect(loaded), loaded.metric)]
        plan = dry_run(opened, loaded) | {"detectable_effect": said[0]}
    else:
        # What is listed is one pair: how many there will be is what the sentences say.
        said = describe(opened, loaded)
        plan = dry_run(opened, loaded.model_copy(update={"seeds": (1,)})) | {"auto": said}
    if as_json:
        print_json(plan)
        return
    say(f"{plan['name']}: {plan['question']}" if plan["question"] else plan["name"])
    for line in said:
        say(line)
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
