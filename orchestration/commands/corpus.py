"""`morphogen corpus`: add, profile."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestration.cluster.address import cluster_address
from orchestration.commands.common import (
    DEFAULT_LAKE,
    AsJson,
    LakeUri,
    Message,
    open_lake,
    print_json,
    print_table,
    resumable,
)
from orchestration.console.output import say
from orchestration.console.progress import corpus_stages
from orchestration.corpus.add import add_corpus
from orchestration.corpus.files import Mapper
from orchestration.corpus.profile import SCORED_TOKENS, CorpusProfile, known_bands, profile_corpus

app = typer.Typer(no_args_is_help=True)


class PackingChoice(StrEnum):
    CONCAT = "concat"
    BEST_FIT = "best-fit"


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of the dataset; held-out text goes to NAME-heldout.")],
    paths: Annotated[
        list[Path],
        typer.Argument(help="Folders or files: *.jsonl and *.parquet hold a document a record, others are UTF-8 text."),
    ],
    tokenizer: Annotated[
        str, typer.Option(help="`bytes`, `bpe:SIZE` trained here, or a file: tokenizer.json, *.tiktoken.")
    ] = "bytes",
    end_of_text: Annotated[
        str | None, typer.Option(help="The token that ends a document, if a tokenizer file names it unusually.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="Where a record of *.jsonl and *.parquet has its text.")] = "text",
    seq_len: Annotated[int, typer.Option(help="Tokens per sequence.")] = 1024,
    packing: Annotated[
        PackingChoice,
        typer.Option(
            help="Documents end to end and cut, or fitted whole into rows (loses some tokens, says how many)."
        ),
    ] = PackingChoice.CONCAT,
    heldout_fraction: Annotated[
        float, typer.Option(help="Share of documents held out, by a hash of path and record.")
    ] = 0.05,
    pattern: Annotated[
        list[str] | None, typer.Option(help="File name pattern to take from folders; all files by default.")
    ] = None,
    ray: Annotated[
        bool | None, typer.Option("--ray/--no-ray", help="Work on Ray; by default where RAY_ADDRESS names a cluster.")
    ] = None,
    message: Message = "",
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Tokenise documents into a dataset and its held-out part."""
    opened = open_lake(lake, to_write=True)
    with resumable(), ExitStack() as stack:
        mapper: Mapper = map
        if ray or (ray is None and cluster_address()):
            from orchestration.cluster.map import ray_map
            from orchestration.cluster.session import ray_session

            stack.enter_context(ray_session())
            mapper = ray_map
        progress = stack.enter_context(corpus_stages(name))
        result = add_corpus(
            opened,
            name,
            paths,
            text_column=text_column,
            tokenizer=tokenizer,
            end_of_text=end_of_text,
            seq_len=seq_len,
            packing=packing.value,
            heldout_fraction=heldout_fraction,
            patterns=tuple(pattern or ["*"]),
            message=message,
            progress=progress,
            mapper=mapper,
        )
    if as_json:
        print_json(asdict(result))
        return
    say(
        f"{result.documents:,} documents in {result.files:,} files, {result.bytes:,} bytes, "
        f"vocabulary of {result.vocab_size:,}"
    )
    for dataset in (result.train, result.heldout):
        say(f"{dataset.ref}  {dataset.digest}  {dataset.tokens:,} tokens")
    for note in result.notes():
        say(note)


@app.command()
def profile(
    dataset: Annotated[str, typer.Argument(metavar="NAME@V", help="A text dataset.")],
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Measure how compressible a corpus is, beside the bands of the presets and of the lake's parameter sets."""
    opened = open_lake(lake)
    found = profile_corpus(opened, dataset)
    bands = known_bands(opened)
    if as_json:
        print_json(asdict(found) | {"bands": dict(bands)})
        return
    rows = [("gzip of the text", f"{found.gzip_text:.3f}", f"{found.stretches} stretches of up to 1 MiB")]
    sample = f"{SCORED_TOKENS} tokens of each of {found.rows:,} rows"
    rows += [(score, f"{value:.3f}", sample) for score, value in found.scores.items()]
    print_table([f"compressibility of {found.dataset}", "compressed by raw", "measured on"], rows)
    shown = [(name, band["score"], f"{band['low']:g} to {band['high']:g}", _holds(found, band)) for name, band in bands]
    print_table(["spec", "score", "band", "holds this text"], shown)


def _holds(found: CorpusProfile, band: dict[str, object]) -> str:
    """Whether the text lies in the band, by its gzip ratio (the paper's comparison) and by the band's own score."""
    low, high = float(str(band["low"])), float(str(band["high"]))
    by_score = low <= found.scores[str(band["score"])] <= high
    if band["score"] != "gzip-int32-v1":
        return "yes" if by_score else "no"
    by_text = low <= found.gzip_text <= high
    return {(True, True): "yes", (True, False): "its text", (False, True): "its tokens"}.get((by_text, by_score), "no")
