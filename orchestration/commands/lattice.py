"""`morphogen lattice`: train, evaluate and play a 3-D lattice of cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from orchestration.commands.common import (
    DEFAULT_LAKE,
    AsJson,
    LakeUri,
    open_lake,
    print_json,
    print_summary,
    print_table,
)
from orchestration.console.output import say
from orchestration.errors import InvalidRequestError
from orchestration.folders import check_output, writing
from orchestration.jobs import lattice_run
from orchestration.toml_files import read_toml

app = typer.Typer(no_args_is_help=True)

Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; by default torch's own number.")]
ModelRef = Annotated[str, typer.Argument(metavar="MODEL@V", help="A published lattice.")]


@app.command()
def train(
    config_file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="TOML file with the lattice and its task.")],
    run: Annotated[str | None, typer.Option(help="Run name; made of the config's digest by default.")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML file to write at the end.")] = None,
    profile: Annotated[
        Path | None, typer.Option(metavar="TRACE.json", help="Only profile two updates: a trace and a table.")
    ] = None,
    threads: Threads = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="DDP workers under Ray Train; by default none, in this process.")
    ] = None,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Train (or resume, or show the finished) lattice described by FILE.toml."""
    from orchestration.runs.names import default_run_name, say_if_new
    from trainer.lattice.train_config import parse_lattice_config

    config = parse_lattice_config(read_toml(config_file))
    if threads is not None and workers is not None:
        raise InvalidRequestError(
            f"--threads {threads}: is for a training in this process; workers of Ray share the cores; leave one out"
        )
    for path, option in ((report, "report"), (profile, "profile")):
        if path is not None:
            check_output(path, option)
    if profile is not None:
        _profile(config, profile, as_json)
        return
    opened = open_lake(lake, to_write=True)
    if run is None:
        run = default_run_name(config_file.stem, config)
        say_if_new(opened, run, config_file.stem, config)
    result = lattice_run(opened, config, run, threads, workers)
    if report is not None:
        _write_report(opened, run, report)
    scores = {f"goal {name}": value for name, value in result.evals.get("goal", {}).items()}
    print_summary({"run": run, "step": result.step, "model": result.model, **scores}, as_json)


@app.command()
def evaluate(
    model: ModelRef,
    report: Annotated[Path | None, typer.Option(help="HTML file to write.")] = None,
    sparse: Annotated[
        float | None,
        typer.Option(min=0, help="Compute a cell again only when what it sees has moved by more than this."),
    ] = None,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Score a lattice: over time, kept up, after damage, and with the links between cells cut."""
    from trainer.lattice.evaluate import evaluate_lattice
    from trainer.lattice.publish import open_lattice
    from trainer.lattice.targets import make_target

    if report is not None:
        check_output(report, "report")
    opened = open_lake(lake)
    version = opened.models.get(model)
    config, lattice = open_lattice(opened, version)
    target = make_target(config.lattice, config.target)
    scores = evaluate_lattice(config, lattice, target, "fp32", full=True, sparse=sparse)
    if report is not None:
        _write_page(opened, version.run, version.ref, report, config, lattice, scores)
    if as_json:
        print_json(scores)
        return
    print_summary({name: value for name, value in scores.items() if not isinstance(value, list)}, as_json=False)
    print_table(["steps", "score"], [(str(at), f"{value:.3f}") for at, value in enumerate(scores["by_time"], 1)])


@app.command()
def play(
    model: ModelRef,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .gif or .png (animated).")] = Path("out.gif"),
    volumes: Annotated[int, typer.Option("-n", min=1, max=64, help="Volumes, side by side.")] = 4,
    steps: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Steps; by default twice the trained time.")
    ] = None,
    lake: LakeUri = DEFAULT_LAKE,
) -> None:
    """Let a lattice grow from its goals, and draw it: slices of depth side by side, over time."""
    from orchestration.lattice.show import grown_frames
    from orchestration.reports.picture import animation
    from trainer.lattice.publish import open_lattice

    check_output(out, "out")
    opened = open_lake(lake)
    config, lattice = open_lattice(opened, opened.models.get(model))
    frames = grown_frames(config, lattice, volumes, steps or 2 * config.time[1])
    kind: Literal["gif", "apng"] = "apng" if out.suffix.lower() in (".png", ".apng") else "gif"
    picture = animation(frames, frames[:, -1].mean(axis=(1, 2, 3)), 2, format=kind)
    with writing(out, "out"):
        out.write_bytes(picture)
    say(str(out))


def _profile(config: Any, path: Path, as_json: bool) -> None:
    """Trace one update and print what it takes; no run is begun."""
    from torch.profiler import ProfilerActivity, profile, supported_activities

    from trainer.lattice.measure import measure_updates

    found = measure_updates(config)
    wanted = supported_activities() & {ProfilerActivity.CPU, ProfilerActivity.CUDA}
    with profile(activities=list(wanted)) as traced:
        measure_updates(config)
    with writing(path, "profile"):
        traced.export_chrome_trace(str(path))
    if as_json:
        print_json(found)
        return
    rows = [(name, f"{value / 1e6:,.1f} MB") for name, value in found["bytes"].items()]
    rows += [(f"{name}, an update", f"{value:.3f} s") for name, value in found["seconds"].items()]
    rows += [("cell updates/s", f"{found['cell_updates_per_s']:,.0f}"), ("FLOP/s", f"{found['flops_per_s']:.3g}")]
    print_table(["what", "takes"], rows)


def _write_report(lake: Any, run: str, path: Path) -> None:
    """The page of a finished run's published model, or a line that says why there is none."""
    from trainer.lattice.evaluate import evaluate_lattice
    from trainer.lattice.publish import open_lattice
    from trainer.lattice.targets import make_target

    ref = lake.runs.get(run).state["result"]["model"]
    if ref is None:
        say("no report: the run publishes no model; set publish in its file")
        return
    config, lattice = open_lattice(lake, lake.models.get(ref))
    scores = evaluate_lattice(config, lattice, make_target(config.lattice, config.target), "fp32", full=True)
    _write_page(lake, run, ref, path, config, lattice, scores)


def _write_page(lake: Any, run: str, ref: str, path: Path, config: Any, lattice: Any, scores: dict[str, Any]) -> None:
    from orchestration.lattice.page import lattice_page
    from orchestration.lattice.show import grown_frames
    from orchestration.reports.picture import animation
    from trainer import load_metrics

    frames = grown_frames(config, lattice, 4, 2 * config.time[1])
    picture = animation(frames, frames[:, -1].mean(axis=(1, 2, 3)), 2)
    page = lattice_page(f"{ref}, run {run}", config, json.loads(json.dumps(scores)), load_metrics(lake, run), picture)
    with writing(path, "report"):
        path.write_text(page, encoding="utf-8")
    say(str(path))
