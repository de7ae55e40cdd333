"""`morphogen data`: list, show, head, verify, heal, delete, gc; what goes in and out as files is in data_files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any

import numpy as np
import typer
from rich.text import Text

from datalake import (
    Lake,
    Ledger,
    Manifest,
    RateLimit,
    ShardProblem,
    Store,
    VerifyOptions,
    digest_of,
    heal_dataset,
    verify_dataset,
)
from datalake.log import claims
from datalake.maintenance.garbage import find_garbage, sweep
from datalake.reading.tables import tables_of_rows
from datalake.registry.datasets import DatasetVersion
from generator import decode_tokens, parse_spec
from generator.cache_folder import cache_folder
from orchestration.commands import data_files
from orchestration.commands.common import (
    DEFAULT_LAKE,
    AsJson,
    LakeUri,
    open_lake,
    print_json,
    print_table,
    version_shown,
)
from orchestration.commands.delete import delete_version
from orchestration.console.cells import draw_frames
from orchestration.console.foreign import shown_lines
from orchestration.console.output import SafeConsole, print_fields, print_line, result_console, say
from orchestration.console.progress import console, stage
from orchestration.generation.recompute import lake_generator

app = typer.Typer(no_args_is_help=True)
app.command()(data_files.export)
app.command("import")(data_files.import_)
app.command()(data_files.materialize)
app.command()(data_files.index)
app.command("delete")(delete_version("datasets"))

Reference = data_files.Reference

TEXT_SHOWN = 400  # letters of each sequence of text


@app.command("list")
def list_(lake: LakeUri = DEFAULT_LAKE, as_json: AsJson = False) -> None:
    """List the datasets with their latest versions."""
    latest = open_lake(lake).datasets.list()
    if as_json:
        print_json([asdict(each) for each in latest])
        return
    rows = [(each.name, _kept(each), each.sequences, each.tokens, each.params or "", each.created) for each in latest]
    print_table(["dataset", "latest", "sequences", "tokens", "parameters", "created"], rows)


def _kept(version: DatasetVersion) -> str:
    return version_shown(version) + (" (computed)" if version.computed else "")


@app.command()
def show(reference: Reference, lake: LakeUri = DEFAULT_LAKE, as_json: AsJson = False) -> None:
    """Show one version: digests, size, spec, shards."""
    opened = open_lake(lake)
    version = opened.datasets.get(reference)
    manifest = opened.datasets.manifest(version)
    document = describe_dataset(version, manifest)
    if as_json:
        print_json(document)
        return
    about = {field: value for field, value in document.items() if field not in ("shards", "retired")}
    print_fields(about, title=f"{version.name}@{version_shown(version)}")
    if manifest.is_computed:
        say("no shards: its rows are computed where they are read (`morphogen data materialize` stores them)")
        return
    shards = [(each.key, each.first, each.rows, each.bytes, each.sha256[:12]) for each in manifest.shards]
    print_table(["shard", "first", "rows", "bytes", "sha256"], shards)


def describe_dataset(version: DatasetVersion, manifest: Manifest) -> dict[str, Any]:
    """The version's record and manifest as one JSON-able document."""
    return {
        "name": version.name,
        "version": version.version,
        "digest": manifest.digest,
        "content_digest": manifest.content_digest,
        "identity": manifest.identity,
        "computed": manifest.is_computed,
        "same_rows_as": version.same_rows_as,
        "kind": manifest.kind,
        "sequences": manifest.sequences,
        "seq_len": manifest.seq_len,
        "vocab_size": manifest.vocab_size,
        "tokens": manifest.tokens,
        "params": version.params,
        "created": version.created,
        "message": version.message,
        "retired": version.retired,
        "source": manifest.source.model_dump(mode="json"),
        "shards": [asdict(each) for each in manifest.shards],
    }


@app.command()
def head(
    reference: Reference,
    sequences: Annotated[int, typer.Option("-n", "--sequences", min=1, max=1000, help="How many.")] = 3,
    frames: Annotated[int, typer.Option(min=1, max=32, help="Frames to draw of each.")] = 6,
    plain: Annotated[bool, typer.Option("--plain", help="Cells as digits, as in a file, on a terminal too.")] = False,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Look at the first sequences: their tokens, scores and (for grids) frames."""
    opened = open_lake(lake)
    manifest = opened.datasets.manifest(opened.datasets.usable(reference))
    rows = list(_rows(opened, manifest, sequences))
    if as_json:
        print_json([row | {"tokens": row["tokens"].tolist()} for row in rows])
        return
    console = result_console(plain=plain)
    for row in rows:
        say("  ".join(f"{name}={value}" for name, value in row.items() if name != "tokens"))
        for line in _drawing(opened.store, manifest, row["tokens"], frames, console):
            print_line(line, console)


def _rows(lake: Lake, manifest: Manifest, count: int) -> Iterator[dict[str, Any]]:
    """The dataset's first rows, `tokens` as the manifest's `token_dtype` [seq_len]."""
    for table in tables_of_rows(lake.store, manifest, 0, count, lake_generator(lake.store.uri)):
        for row in table.to_pylist():
            yield row | {"tokens": np.frombuffer(row["tokens"], dtype=manifest.token_dtype)}


def _drawing(
    store: Store, manifest: Manifest, tokens_T: np.ndarray, frames: int, console: SafeConsole
) -> Sequence[Text | str]:
    """Grid frames side by side, or the text itself, or plain token numbers."""
    if manifest.kind == "synthetic":
        spec = parse_spec(manifest.source.spec)
        if (grid := spec.frames_of) is not None:
            from orchestration.reports.picture import palette  # brings matplotlib

            cells = decode_tokens(spec, tokens_T)
            # All of time is one picture where the grid is a line; a solid is shown slice by slice.
            images_NHW = cells[None] if cells.ndim == 2 else cells[:frames].reshape(-1, *cells.shape[-2:])
            return draw_frames(images_NHW, palette(grid.colors), console)
    elif "tokenizer" in manifest.source.spec:
        from orchestration.corpus.tokenizers import load_tokenizer  # takes a tenth of a second to import

        documents = load_tokenizer(store, manifest.source.spec).decode(tokens_T)
        return shown_lines(b"\n".join(documents).decode("utf-8", errors="replace")[:TEXT_SHOWN])
    return [" ".join(map(str, tokens_T[:64])) + " …"]


Rate = Annotated[float | None, typer.Option(min=0.001, metavar="MB_PER_S", help="Read no faster than this.")]
Resume = Annotated[bool, typer.Option("--resume", help="Skip shards that verified before an interruption.")]


@app.command()
def verify(
    reference: Reference,
    resume: Resume = False,
    rate: Rate = None,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Shards read at once.")] = 8,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Check every shard's size and digest against the manifest; exit code 2 if one is lost or corrupt."""
    opened = open_lake(lake)
    manifest = opened.datasets.manifest(opened.datasets.usable(reference))
    with (
        stage(f"verify {reference}", len(manifest.shards)) as advance,
        _options(opened, manifest, resume, rate, threads) as options,
    ):
        report = verify_dataset(opened.store, manifest, lambda done, _all: advance(done, ""), options=options)
    if as_json:
        print_json(asdict(report))
    elif manifest.is_computed:
        say("no shards to check: its rows are computed where they are read")
    else:
        skipped = f", {report.skipped} verified before" if report.skipped else ""
        say(f"{report.checked} shards checked{skipped}, {len(report.problems)} lost or corrupt")
    _complain(report.problems)


@app.command()
def heal(
    reference: Reference,
    resume: Resume = False,
    rate: Rate = None,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Verify, and compute again what is lost or corrupt; exit code 2 if something cannot be restored."""
    opened = open_lake(lake, to_write=True)
    manifest = opened.datasets.manifest(opened.datasets.usable(reference))
    with (
        stage(f"heal {reference}", len(manifest.shards)) as advance,
        _options(opened, manifest, resume, rate) as options,
    ):
        report = heal_dataset(
            opened.store,
            manifest,
            lake_generator(opened.store.uri),
            opened.system,
            options=options,
            progress=lambda done, _all: advance(done, ""),
            on_repair=lambda repair: console.print(f"  restored {repair.key} ({repair.problem})"),
        )
    if as_json:
        print_json(asdict(report))
    else:
        say(f"{report.checked} shards checked, {len(report.repaired)} restored, {len(report.lost)} lost")
    _complain(report.lost)


@contextmanager
def _options(
    lake: Lake, manifest: Manifest, resume: bool, rate: float | None, threads: int = 8
) -> Iterator[VerifyOptions]:
    """What verified is noted on this machine until the verification has come to its end."""
    limit = RateLimit(rate * 1e6, lake.system) if rate else None
    folder = cache_folder("verified")
    if folder is None:  # nowhere to note it: an interruption begins anew
        yield VerifyOptions(threads, None, limit)
        return
    ledger = Ledger(folder / digest_of([lake.uri, manifest.digest]))
    if not resume:
        ledger.clear()
    yield VerifyOptions(threads, ledger, limit)
    ledger.clear()


def _complain(problems: Sequence[ShardProblem]) -> None:
    for problem in problems:
        say(f"error: shard {problem.key}: {problem.problem}", err=True)
    if problems:
        raise typer.Exit(2)


@app.command()
def gc(
    grace: Annotated[float, typer.Option(min=1, max=876_000, metavar="HOURS", help="Keep what is younger.")] = 168,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; without this, only say what would go.")] = False,
    forget: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Only take away this claim or collection, whose process is known to be gone."),
    ] = None,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Find objects that no dataset, model, run or parameter set names, and what dead writers left half-written."""
    opened = open_lake(lake)
    if forget is not None:
        claims.forget(opened.store, forget)
        say(f"{forget} is gone: what waited for it goes on")
        return
    garbage = find_garbage(opened, timedelta(hours=grace))
    found = [*garbage.objects, *garbage.leftovers]
    if delete:
        with stage(f"remove from {opened.uri}", len(found)) as advance:
            gone = sweep(opened, garbage, lambda done, _all: advance(done, ""))
        found = [info for info in found if info.key in gone]
    size = sum(info.size for info in found)
    if as_json:
        document = asdict(garbage) | {
            kind: [{**asdict(note), "groups": sorted(note.groups)} for note in getattr(garbage, kind)]
            for kind in ("claims", "collections")
        }
        print_json({**document, "bytes": garbage.bytes, "deleted": delete, "removed": len(found) if delete else 0})
        return
    rows = [(info.key, info.size, f"{info.written:%Y-%m-%d %H:%M}") for info in found]
    print_table(["removed" if delete else "would be removed", "bytes", "written"], rows)
    if garbage.claims or garbage.collections:
        notes = (*garbage.claims, *garbage.collections)
        print_table(
            ["honoured", "for", "by", "since", "keeps out of"],
            [(note.key, note.what, note.author, note.time, ", ".join(sorted(note.groups))) for note in notes],
        )
        say("no object beside those that a claim names is removed; of a note whose process is gone: --forget KEY")
    done = "removed" if delete else "are garbage: remove with --delete"
    say(
        f"{len(rows)} objects of {size:,} bytes {done}; {garbage.live} are in use, {garbage.young} unnamed ones are "
        f"younger than {grace:g} h, beside such or claimed"
    )
