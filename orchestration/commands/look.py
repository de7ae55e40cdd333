"""`morphogen preview` and `morphogen profile`: what a spec's sequences look like, in pictures and in numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from generator import generate_batch
from generator.profile import profile_spec
from orchestration.commands.common import (
    DEFAULT_LAKE,
    AsJson,
    LakeUri,
    print_json,
    print_table,
    spec_from,
)
from orchestration.console.output import say
from orchestration.console.progress import console
from orchestration.folders import check_output, writing

Source = Annotated[
    str, typer.Argument(metavar="SPEC.toml|PRESET|NAME@V", help="A spec file, a preset, or a registered version.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the random streams.")]


def preview(
    source: Source,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, without its ending if animated.")] = Path(
        "preview.png"
    ),
    sequences: Annotated[int, typer.Option("-n", min=1, max=64, help="Trajectories to draw.")] = 8,
    seed: Seed = 0,
    gif: Annotated[bool, typer.Option("--gif", help="Animate as GIF.")] = False,
    apng: Annotated[bool, typer.Option("--apng", help="Animate as APNG.")] = False,
    lake: LakeUri = DEFAULT_LAKE,
) -> None:
    """Draw accepted trajectories: frames over time, the score beside each; or let them play."""
    from orchestration.reports.picture import animation_of, sheet_of  # brings matplotlib

    spec = spec_from(source, lake)
    animated: dict[Literal["gif", "apng"], bool] = {"gif": gif, "apng": apng}
    formats = [each for each, wanted in animated.items() if wanted]
    paths = [out.with_suffix(f".{each}") for each in formats] if out.name else []
    for path in paths or [out]:
        check_output(path, "out")
    table = generate_batch(spec, seed, 0, sequences)
    pictures = [animation_of(spec, table, format=each) for each in formats] or [sheet_of(spec, table)]
    for path, picture in zip(paths or [out], pictures, strict=True):
        with writing(path, "out"):
            path.write_bytes(picture)
        say(str(path))


def profile(
    source: Source,
    candidates: Annotated[int, typer.Option("-n", min=16, max=1_000_000, help="Random candidates to look at.")] = 4096,
    seed: Seed = 0,
    backend: Annotated[str, typer.Option(help="auto, numba, triton or reference.")] = "auto",
    plot: Annotated[Path | None, typer.Option(help="PNG file for the score histogram.")] = None,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Describe a spec: scores, acceptance by band, periods, entropies, and the speed of each stage."""
    spec = spec_from(source, lake)
    if plot is not None:
        check_output(plot, "plot")
    console.print(f"simulating and scoring {candidates:,} candidates …")
    found = profile_spec(spec, seed, candidates, backend=backend)
    if plot is not None:
        with writing(plot, "plot"):
            _plot(found["histogram"], plot)
    if as_json:
        print_json(found)
        return
    rows: list[tuple[str, Any]] = [("candidates", candidates)]
    if found["accepted"] is not None:
        rows.append(("accepted by the spec's band", f"{found['accepted']:.2%}"))
    rows += [
        (f"unigram entropy {scope} sequences, nats", f"{value:.3f}") for scope, value in found["entropy_nats"].items()
    ]
    rows += [(f"{stage}, tokens/s on one thread", f"{value:,.0f}") for stage, value in found["tokens_per_s"].items()]
    for period, share in (found["periods"] or {}).items():
        if share and period != "none":
            rows.append(("fixed points" if period == "1" else f"period {period}", f"{share:.2%}"))
    print_table(["figure", "value"], rows)
    for name, bands in found["bands"].items():
        print_table(["band", "candidates"], [(band, f"{share:.2%}") for band, share in bands.items()], title=name)
    _print_histogram(found["histogram"]["gzip-int32-v1"])


def _print_histogram(histogram: dict[str, Any], width: int = 50) -> None:
    counts = histogram["counts"]
    highest = max(max(counts), 1)
    for low, count in zip(histogram["edges"], counts, strict=False):
        if count:
            say(f"{low:6.3f} {'█' * max(1, round(width * count / highest))} {count:,}")


def _plot(histograms: dict[str, dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2 * len(histograms)), layout="constrained")
    for axes, (name, histogram) in zip(figure.subplots(len(histograms), 1), histograms.items(), strict=True):
        axes.stairs(histogram["counts"], histogram["edges"], fill=True, color="#0072B2")
        axes.set_xlabel(name)
        axes.set_ylabel("candidates")
    figure.savefig(path, dpi=110)
