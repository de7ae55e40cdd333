"""`morphogen corpus`: add."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestration.commands.common import DEFAULT_LAKE, AsJson, LakeUri, Message, open_lake, print_json, resumable
from orchestration.corpus import add_corpus
from orchestration.progress import corpus_stages

app = typer.Typer(no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keeps `add` a subcommand: typer would otherwise drop the name of a group's only command."""


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of the dataset; held-out text goes to NAME-heldout.")],
    paths: Annotated[list[Path], typer.Argument(help="Folders or files of UTF-8 text.")],
    tokenizer: Annotated[str, typer.Option(help="`bytes`, or `bpe:SIZE` trained here.")] = "bytes",
    seq_len: Annotated[int, typer.Option(help="Tokens per sequence.")] = 1024,
    heldout_fraction: Annotated[float, typer.Option(help="Share of files held out, by a hash of the path.")] = 0.05,
    pattern: Annotated[
        list[str] | None, typer.Option(help="File name pattern to take from folders; all files by default.")
    ] = None,
    message: Message = "",
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Tokenise text files into a dataset and its held-out part."""
    with resumable(), corpus_stages(name) as progress:
        result = add_corpus(
            open_lake(lake),
            name,
            paths,
            tokenizer=tokenizer,
            seq_len=seq_len,
            heldout_fraction=heldout_fraction,
            patterns=tuple(pattern or ["*"]),
            message=message,
            progress=progress,
        )
    if as_json:
        print_json(asdict(result))
        return
    typer.echo(f"{result.files:,} files, {result.bytes:,} bytes, vocabulary of {result.vocab_size:,}")
    for dataset in (result.train, result.heldout):
        typer.echo(f"{dataset.ref}  {dataset.digest}  {dataset.tokens:,} tokens")
    for note in result.notes():
        typer.echo(note)
