"""`morphogen data export` and `import`: datasets as plain files, for other programs and from them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from datalake.maintenance.import_options import ImportFormat, ImportOptions
from orchestration.commands.common import DEFAULT_LAKE, AsJson, LakeUri, Message, open_lake, print_json, print_summary
from orchestration.console.output import say
from orchestration.console.progress import Advance, stage
from orchestration.generation.attempts import index_attempts
from orchestration.generation.export import LINEAGE, ExportRequest, run_export
from orchestration.generation.request import request_of
from orchestration.jobs import generate_run, job
from orchestration.reports.cards import README, UNKNOWN

Reference = Annotated[str, typer.Argument(help="DATASET, DATASET@VERSION or DATASET@ALIAS.")]


class BinaryBits(StrEnum):
    """Widths of a token in a binary column."""

    narrow = "16"
    wide = "32"


class ExportFormat(StrEnum):
    """The formats of `data export`."""

    parquet = "parquet"
    huggingface = "huggingface"
    jsonl = "jsonl"
    bin = "bin"
    llmc = "llmc"
    megatron = "megatron"
    litdata = "litdata"


_BITS: dict[BinaryBits, Literal[16, 32]] = {BinaryBits.narrow: 16, BinaryBits.wide: 32}


def export(
    reference: Reference,
    folder: Annotated[
        str,
        typer.Argument(help="A folder or s3://bucket/prefix: new, empty, or that of this export, interrupted."),
    ],
    format: Annotated[
        ExportFormat,
        typer.Option(
            help="parquet: the shards; huggingface: lists of input_ids for datasets; bin: memory-mappable uint16 "
            "(uint32 for vocabularies over 65,536); llmc: for llm.c and modded-nanogpt; megatron: .bin and .idx; "
            "litdata: chunks for Lightning's."
        ),
    ] = ExportFormat.parquet,
    license: Annotated[
        str, typer.Option(metavar="ID", help="Licence in the card, as the Hub names it: apache-2.0, cc-by-4.0, …")
    ] = UNKNOWN,
    file_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", help="Most tokens of a file (at least one shard); by default what suits the format."),
    ] = None,
    ray: Annotated[
        bool | None,
        typer.Option(
            "--ray/--no-ray",
            help="Write on Ray; by default where RAY_ADDRESS names a cluster and the files go to a bucket.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Without Ray: files written at once; as many as cores by default.")
    ] = None,
    lake: LakeUri = DEFAULT_LAKE,
) -> None:
    """Write a version as plain files for other programs, verified on the way, its lineage and a card (README.md)."""
    request = ExportRequest(reference, folder, format.value, license, file_tokens, ray, threads)
    with job() as stop, ExitStack() as stack:

        def begin(shards: int) -> Advance:
            return stack.enter_context(stage(f"export {reference}", shards))

        report = run_export(open_lake(lake), request, begin, stop)
    say(f"{len(report.files)} files, {report.bytes:,} bytes, {LINEAGE} and {README} in {folder}")


def materialize(
    reference: Reference,
    actors: Annotated[
        int | None, typer.Option(help="Generator actors; by default what the cluster has room for.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Run name; made of the request's digest by default.")] = None,
    no_ray: Annotated[bool, typer.Option("--no-ray", help="In this process, on this machine's cores.")] = False,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Write the shards of a computed version, as a job like `generate`: the next version, with the same rows."""
    opened = open_lake(lake, to_write=True)
    print_summary(generate_run(opened, request_of(opened, reference, actors), run, ray=not no_ray), as_json)


def index(
    reference: Reference,
    threads: Annotated[int | None, typer.Option(min=1, help="Cores to work on; all by default.")] = None,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Find out once which attempt each row of a computed version took, so that reading it scores nothing."""
    opened = open_lake(lake, to_write=True)
    sequences = opened.datasets.usable(reference).sequences
    with job() as stop, stage(f"index {reference}", sequences) as advance:
        found = index_attempts(opened, reference, advance, stop=stop, threads=threads)
    print_summary(found, as_json)


def import_(
    name: Annotated[str, typer.Argument(help="Name of the dataset.")],
    files: Annotated[list[Path], typer.Argument(help="Files or folders, in order.")],
    format_: Annotated[
        ImportFormat | None, typer.Option("--format", help="By default what names and first bytes say.")
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(help="Of a table: holds lists of integers, or binary; by default tokens, else input_ids."),
    ] = None,
    seq_len: Annotated[int | None, typer.Option(min=2, help="Lay rows end to end and cut them to this length.")] = None,
    end_of_text: Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Token to put after each row.")] = None,
    binary_bits: Annotated[
        BinaryBits | None,
        typer.Option(help="Bits of a token in a binary column; by default what our exports say, or 16."),
    ] = None,
    vocab_size: Annotated[int | None, typer.Option(min=1, max=2**31, help="Default: largest token + 1.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="What made the tokens: tokenizer.json or *.tiktoken; kept with the dataset.")
    ] = None,
    message: Message = "",
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Take tokens from elsewhere into the lake as a text dataset: Parquet, Arrow, litdata, llm.c, Megatron or raw."""
    from orchestration.corpus.import_tokens import import_tokens

    options = ImportOptions(
        format=format_,
        column=column,
        seq_len=seq_len,
        end_of_text=end_of_text,
        vocab_size=vocab_size,
        binary_bits=_BITS[binary_bits] if binary_bits else None,
    )
    with stage(f"import {name}", 1) as advance:
        version = import_tokens(
            open_lake(lake),
            name,
            files,
            options,
            tokenizer,
            message,
            lambda done, total: advance(done / total, f"{done:,} rows"),
        )
    if as_json:
        print_json(asdict(version))
    else:
        say(f"{version.ref}  {version.sequences:,} sequences, {version.tokens:,} tokens  {version.digest}")
