"""`morphogen corpus`: add, arithmetic, profile."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datalake import Lake
from orchestration.cluster.address import cluster_address
from orchestration.commands.common import (
    DEFAULT_LAKE,
    AsJson,
    LakeUri,
    Message,
    open_lake,
    print_json,
    print_table,
)
from orchestration.console.output import say
from orchestration.console.progress import corpus_stages
from orchestration.corpus.tasks import HELDOUT_SEQUENCES, add_task, task_spec
from orchestration.errors import CorpusError
from orchestration.jobs import resumable

if TYPE_CHECKING:
    from orchestration.corpus.held import Cluster
    from orchestration.corpus.pairs import Pairs
    from orchestration.corpus.profile import CorpusProfile

app = typer.Typer(no_args_is_help=True)


class PackingChoice(StrEnum):
    CONCAT = "concat"
    BEST_FIT = "best-fit"


class FormatChoice(StrEnum):
    AUTO = "auto"
    TEXT = "text"
    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"


class BadRecordChoice(StrEnum):
    FAIL = "fail"
    SKIP = "skip"


class SplitChoice(StrEnum):
    NAME = "name"
    CONTENT = "content"
    POSITION = "position"


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of the dataset; held-out text goes to NAME-heldout.")],
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders, files or URLs (s3://…, hf://…, https://…, with * and **), compressed or not: *.jsonl, "
            "*.ndjson, *.parquet and JSON and CSV with the text column hold a document a record, others are text."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="In place of paths a task with exact answers: markov, needle, identity, sort, … or a TOML file."
        ),
    ] = None,
    sequences: Annotated[int, typer.Option(help="Of a task: sequences to train on.")] = 100_000,
    heldout_sequences: Annotated[int, typer.Option(help="Of a task: sequences held out.")] = HELDOUT_SEQUENCES,
    seed: Annotated[int, typer.Option(help="Of a task: the seed; held-out sequences have the next one.")] = 0,
    tokenizer: Annotated[
        str,
        typer.Option(
            help="`bytes`, `bpe:SIZE` trained here, that of a dataset NAME@V, or a file or folder: tokenizer.json, "
            "*.tiktoken, a published one's."
        ),
    ] = "bytes",
    end_of_text: Annotated[
        str | None, typer.Option(help="The special token that ends a document, if a tokenizer names it unusually.")
    ] = None,
    split_pattern: Annotated[
        str | None, typer.Option(help="How a *.tiktoken file splits text: cl100k_base, o200k_base, … or an expression.")
    ] = None,
    lossy: Annotated[bool, typer.Option("--lossy", help="Take a tokenizer that does not keep every text.")] = False,
    text_column: Annotated[
        str, typer.Option(help="Where a record has its text: a field, or a path of fields such as data.text.")
    ] = "text",
    messages: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Take conversations from here, by a chat template.")
    ] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="File with the Jinja template; by default the tokenizer folder's own.")
    ] = None,
    prompt_field: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Take pairs: the prompt from here, and --answer-field.")
    ] = None,
    answer_field: Annotated[
        str | None, typer.Option(metavar="COLUMN", help='Of pairs: the answer, which loss = "answers" counts alone.')
    ] = None,
    separator: Annotated[
        str | None, typer.Option(help="Of pairs without a template: what stands after a prompt; a new line by default.")
    ] = None,
    answers: Annotated[
        bool, typer.Option("--answers", help="With --messages: keep which tokens the assistant says, as pairs do.")
    ] = False,
    ids: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Take token ids of the tokenizer from here, not text.")
    ] = None,
    file_format: Annotated[
        FormatChoice, typer.Option("--format", help="What the files are; by default what their names say.")
    ] = FormatChoice.AUTO,
    encoding: Annotated[str | None, typer.Option(help="Of text, JSON and CSV, if not UTF-8: utf-16, cp1252, …")] = None,
    on_bad_record: Annotated[
        BadRecordChoice, typer.Option(help="Whether a record without a usable text ends the work or is counted.")
    ] = BadRecordChoice.FAIL,
    where: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Take folders of this Hive partition alone.")
    ] = None,
    follow_links: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Follow links that lead into this folder, too.")
    ] = None,
    seq_len: Annotated[int, typer.Option(help="Tokens per sequence.")] = 1024,
    packing: Annotated[
        PackingChoice | None,
        typer.Option(
            help="Documents end to end and cut (concat, the default), or fitted whole into rows (loses some tokens, "
            "says how many). Pairs are never cut: their rows are padded."
        ),
    ] = None,
    heldout_fraction: Annotated[
        float, typer.Option(help="Share of documents held out, by a hash of path and record; 0 for none.")
    ] = 0.05,
    heldout: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Files or folders that are the held-out text.")
    ] = None,
    split_by: Annotated[
        SplitChoice,
        typer.Option(help="What is hashed, a document's name or its text; or hold out the end of each document."),
    ] = SplitChoice.NAME,
    near_duplicates: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Leave out documents with this share of their word runs in common: 0.8."),
    ] = None,
    decontaminate: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Leave out documents that share a run of words with this evaluation set."),
    ] = None,
    decontaminate_column: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Where its records have text; by default --text-column.")
    ] = None,
    decontaminate_words: Annotated[int, typer.Option(metavar="N", help="Length of such a run, in words.")] = 13,
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
    """Tokenise documents into a dataset and its held-out part, or make those of a task."""
    if task is not None:
        if paths:
            raise CorpusError(f"paths: {paths[0]!r} beside task = {task!r}; give documents or a task")
        _add_task(open_lake(lake, to_write=True), name, task, sequences, heldout_sequences, seed, message, as_json)
        return
    if not paths:
        raise CorpusError("paths: none given; give folders, files or URLs with documents, or --task")
    # Tokenizers, templates and file systems take half a second to import, which every other command would pay.
    from orchestration.corpus.add import add_corpus
    from orchestration.corpus.options import ReadOptions
    from orchestration.corpus.places import place_of
    from orchestration.corpus.screening import ScreenOptions

    if messages is not None and ids is not None:
        raise CorpusError("ids: conversations are text, and token ids are not; give --messages or --ids")
    pairs = _pairs(prompt_field, answer_field, separator, messages, answers)
    if pairs is not None:
        for option, given in (("ids", ids), ("packing", packing), ("ray", ray or None)):
            if given is not None:
                raise CorpusError(
                    f"{option}: pairs are laid whole into padded rows by this process; leave --{option} out"
                )
    if chat_template is not None and messages is None and prompt_field is None:
        raise CorpusError("chat_template: renders --messages, or --prompt-field and --answer-field; give them")
    options = ReadOptions(
        format=file_format.value,
        encoding=encoding,
        ids=ids is not None,
        on_bad_record=on_bad_record.value,
        pairs=pairs,
    )
    opened = open_lake(lake, to_write=True)
    with resumable(), ExitStack() as stack:
        cluster: Cluster | None = None
        if ray or (ray is None and pairs is None and cluster_address()):
            from orchestration.cluster.map import RayCluster
            from orchestration.cluster.session import ray_session

            stack.enter_context(ray_session())
            cluster = RayCluster()
        progress = stack.enter_context(corpus_stages(name))
        result = add_corpus(
            opened,
            name,
            [place_of(path) for path in paths],
            options=options,
            text_column=next(name for name in (messages, ids, prompt_field, text_column) if name is not None),
            messages=messages is not None,
            template=chat_template,
            where=tuple(where or ()),
            follow_links=follow_links,
            tokenizer=tokenizer,
            end_of_text=end_of_text,
            split_pattern=split_pattern,
            lossy=lossy,
            seq_len=seq_len,
            packing=(packing or PackingChoice.CONCAT).value,
            heldout_fraction=heldout_fraction,
            heldout_paths=[place_of(path, "heldout") for path in heldout or ()],
            split_by=split_by.value,
            screening=ScreenOptions(
                near_duplicates,
                tuple(place_of(path, "decontaminate") for path in decontaminate or ()),
                tuple(decontaminate_column or [text_column]),
                decontaminate_words,
            ),
            patterns=tuple(pattern or ["*"]),
            message=message,
            progress=progress,
            cluster=cluster,
        )
    if as_json:
        print_json(asdict(result))
        return
    say(
        f"{result.documents:,} documents in {result.files:,} files, {result.bytes:,} bytes, "
        f"vocabulary of {result.vocab_size:,}"
    )
    for dataset in filter(None, (result.train, result.heldout)):
        say(f"{dataset.ref}  {dataset.digest}  {dataset.tokens:,} tokens")
    for note in result.notes():
        say(note)


def _pairs(
    prompt_field: str | None, answer_field: str | None, separator: str | None, messages: str | None, answers: bool
) -> Pairs | None:
    """What the options say of pairs; None where they ask for none. CorpusError for what does not belong together."""
    from orchestration.corpus.pairs import Pairs

    if (prompt_field is None) != (answer_field is None):
        raise CorpusError("prompt_field, answer_field: belong together; give both, or neither")
    if prompt_field is not None and messages is not None:
        raise CorpusError("messages: a conversation holds its answers itself; give --messages or --prompt-field")
    if prompt_field is not None and prompt_field == answer_field:
        raise CorpusError(f"answer_field: {answer_field!r} holds the prompt, too; name the field that holds the answer")
    if separator is not None and prompt_field is None:
        raise CorpusError("separator: stands between --prompt-field and --answer-field; give them, or leave it out")
    if answers and messages is None:
        raise CorpusError(
            "answers: says that of --messages the assistant's are answers; give it, or leave --answers out"
        )
    if answers:
        return Pairs()
    return None if prompt_field is None else Pairs(answer_field, "\n" if separator is None else separator)


def _add_task(
    lake: Lake, name: str, task: str, sequences: int, heldout: int, seed: int, message: str, as_json: bool
) -> None:
    spec = task_spec(task)
    with resumable(), corpus_stages(name) as progress:
        made = add_task(
            lake, name, spec, sequences, heldout_sequences=heldout, seed=seed, message=message, progress=progress
        )
    if as_json:
        print_json({"train": asdict(made[0]), "heldout": asdict(made[1])})
        return
    for dataset in made:
        say(f"{dataset.ref}  {dataset.digest}  {dataset.tokens:,} tokens, task {spec.family}")


@app.command()
def arithmetic(
    folder: Annotated[Path, typer.Argument(help="Where train.jsonl and heldout.jsonl are written.")],
    train: Annotated[int, typer.Option(help="Problems to train on.")] = 10_000,
    heldout: Annotated[
        int, typer.Option(help="Problems held out: of computations that are in no training file.")
    ] = 500,
    seed: Annotated[int, typer.Option(help="Fixes the problems; whatever it is, no held-out one is trained on.")] = 0,
    operations: Annotated[int, typer.Option(help="Steps of a problem at most.")] = 3,
    largest: Annotated[int, typer.Option(help="The largest number.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Write grade-school problems with worked answers, in GSM8K's layout, for training and for pass@k."""
    from orchestration.corpus.word_problems import write_problems

    made = write_problems(folder, train, heldout, seed=seed, operations=operations, largest=largest)
    if as_json:
        print_json({key: str(value) if isinstance(value, Path) else value for key, value in asdict(made).items()})
        return
    say(f"{made.train}  {made.train_problems:,} problems")
    say(f"{made.heldout}  {made.heldout_problems:,} problems")


@app.command()
def profile(
    dataset: Annotated[str, typer.Argument(metavar="NAME@V", help="A text dataset.")],
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Measure how compressible a corpus is, beside the bands of the presets and of the lake's parameter sets."""
    from orchestration.corpus.profile import SCORED_TOKENS, known_bands, profile_corpus

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
