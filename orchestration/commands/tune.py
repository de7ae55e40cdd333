"""`morphogen tune`: let scores on a target corpus retune a parameter set, and promote only what is better for sure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
from orchestration.jobs import tune_run
from orchestration.toml_files import read_toml


def tune(
    params: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or NAME@ALIAS of a parameter set of family nca.")],
    target: Annotated[str, typer.Option(help="Corpus in the lake to score on; its held-out part is NAME-heldout.")],
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Space, proxy, budget, seeds: the fields of TuneSettings.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Proposals to score, over the settings'.")] = None,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Search for better parameters, confirm the best on fresh seeds, and move alias tuned-CORPUS if it holds.

    Otherwise nothing moves. Run the same command again to go on with an interrupted tuning.
    """
    from orchestration.tune.settings import parse_settings

    table = read_toml(settings) if settings else {}
    parsed = parse_settings(table | ({"trials": trials} if trials else {}))
    opened = open_lake(lake)
    opened.params.usable(params)
    opened.datasets.usable(target)
    result = tune_run(opened, params, target, parsed)
    if as_json:
        print_json(result.model_dump(mode="json") | {"latency": result.latency})
        return
    names = sorted({name for trial in result.trials for name in trial.values})
    print_table(
        [*names, "loss, nats", "seconds"],
        [
            [
                *(f"{trial.values[name]:g}" for name in names),
                trial.refused or f"stopped at {trial.spent:.0%}" if trial.loss is None else f"{trial.loss:.4f}",
                f"{trial.seconds.get('total', 0.0):.1f}",
            ]
            for trial in sorted(result.trials, key=lambda trial: (trial.loss is None, trial.loss or 0.0))
        ],
    )
    latency = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.latency.items())
    say(f"median latency from spec to score: {latency or 'none scored'}")
    say(result.verdict)
    if result.control is not None:
        say(result.control.verdict)
    say(f"{result.promoted}, alias {result.alias}" if result.promoted else "nothing moved")
