"""`morphogen data`: list, show, head, verify."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Annotated, Any

import numpy as np
import typer

from datalake import Manifest, Store, read_shard, verify_dataset
from datalake.datasets import DatasetVersion
from generator import decode_tokens, parse_spec
from orchestration.commands.common import DEFAULT_LAKE, AsJson, LakeUri, open_lake, print_json, print_table
from orchestration.progress import stage

app = typer.Typer(no_args_is_help=True)

Reference = Annotated[str, typer.Argument(help="DATASET, DATASET@VERSION or DATASET@ALIAS.")]


@app.command("list")
def list_(lake: LakeUri = DEFAULT_LAKE, as_json: AsJson = False) -> None:
    """List the datasets with their latest versions."""
    latest = open_lake(lake).datasets.list()
    if as_json:
        print_json([asdict(each) for each in latest])
        return
    rows = [(each.name, each.version, each.sequences, each.tokens, each.params or "", each.created) for each in latest]
    print_table(["dataset", "latest", "sequences", "tokens", "parameters", "created"], rows)


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
    rows = [(key, value) for key, value in document.items() if key not in ("shards", "source")]
    print_table(["field", "value"], [*rows, ("spec", manifest.source.spec)], title=f"{version.name}@{version.version}")
    shards = [(each.key, each.first, each.rows, each.bytes, each.sha256[:12]) for each in manifest.shards]
    print_table(["shard", "first", "rows", "bytes", "sha256"], shards)


def describe_dataset(version: DatasetVersion, manifest: Manifest) -> dict[str, Any]:
    """The version's record and manifest as one JSON-able document."""
    return {
        "name": version.name,
        "version": version.version,
        "digest": manifest.digest,
        "content_digest": manifest.content_digest,
        "kind": manifest.kind,
        "sequences": manifest.sequences,
        "seq_len": manifest.seq_len,
        "vocab_size": manifest.vocab_size,
        "tokens": manifest.tokens,
        "params": version.params,
        "created": version.created,
        "message": version.message,
        "source": manifest.source.model_dump(mode="json"),
        "shards": [each.model_dump(mode="json") for each in manifest.shards],
    }


@app.command()
def head(
    reference: Reference,
    sequences: Annotated[int, typer.Option("-n", "--sequences", min=1, max=1000, help="How many.")] = 3,
    frames: Annotated[int, typer.Option(min=1, max=32, help="Frames to draw of each.")] = 6,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Look at the first sequences: their tokens, scores and (for grids) frames."""
    opened = open_lake(lake)
    manifest = opened.datasets.manifest(reference)
    rows = list(islice(_rows(opened.store, manifest), sequences))
    if as_json:
        print_json([row | {"tokens": row["tokens"].tolist()} for row in rows])
        return
    for row in rows:
        typer.echo("  ".join(f"{name}={value}" for name, value in row.items() if name != "tokens"))
        typer.echo(_drawing(manifest, row["tokens"], frames))


def _rows(store: Store, manifest: Manifest) -> Iterator[dict[str, Any]]:
    """The dataset's rows in order, `tokens` as uint16 [seq_len]."""
    for shard in manifest.shards:
        for row in read_shard(store, shard).to_pylist():
            yield row | {"tokens": np.frombuffer(row["tokens"], dtype="<u2")}


def _drawing(manifest: Manifest, tokens_T: np.ndarray, frames: int) -> str:
    """Grid frames side by side as digits, or the text itself, or plain token numbers."""
    if manifest.kind == "synthetic":
        spec = parse_spec(manifest.source.spec)
        if spec.family == "nca" and len(spec.grid) == 2:
            cells_FHW = decode_tokens(spec, tokens_T)[:frames]
            rows_HFW = cells_FHW.swapaxes(0, 1)
            return "\n".join("  ".join("".join(f"{cell:x}" for cell in row) for row in row_FW) for row_FW in rows_HFW)
    elif manifest.source.spec.get("tokenizer") == "bytes":
        return bytes(int(token) for token in tokens_T if token < 256).decode("utf-8", errors="replace")[:400]
    return " ".join(map(str, tokens_T[:64])) + " …"


@app.command()
def verify(reference: Reference, lake: LakeUri = DEFAULT_LAKE, as_json: AsJson = False) -> None:
    """Check every shard's size and digest against the manifest; exit code 2 if one is lost or corrupt."""
    opened = open_lake(lake)
    manifest = opened.datasets.manifest(reference)
    with stage(f"verify {reference}", len(manifest.shards)) as advance:
        report = verify_dataset(opened.store, manifest, progress=lambda done, _all: advance(done, ""))
    if as_json:
        print_json(asdict(report))
    else:
        typer.echo(f"{report.checked} shards checked, {len(report.problems)} lost or corrupt")
    for problem in report.problems:
        typer.echo(f"error: shard {problem.key}: {problem.problem}", err=True)
    if not report.ok:
        raise typer.Exit(2)
