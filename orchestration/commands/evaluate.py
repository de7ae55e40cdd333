"""`morphogen models evaluate`: held-out loss, tasks of lm-evaluation-harness, pass@k."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datalake import Lake
from orchestration.cluster.address import cluster_address
from orchestration.commands.common import DEFAULT_LAKE, AsJson, LakeUri, open_lake, print_json, print_table
from orchestration.console.progress import console, stage
from orchestration.errors import EvaluationError
from orchestration.jobs import resumable

if TYPE_CHECKING:
    from orchestration.evaluation.models import Advance, OpenModel
    from orchestration.evaluation.problems import Problem
    from trainer import TrainDataset


def evaluate(
    reference: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or NAME@ALIAS.")],
    data: Annotated[list[str] | None, typer.Option(help="NAME@VERSION of a dataset to score; may be repeated.")] = None,
    sequences: Annotated[int | None, typer.Option(min=1, help="Rows per dataset; all by default.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks of lm-evaluation-harness, comma-separated.")] = None,
    include_path: Annotated[Path | None, typer.Option(help="Folder with task files of your own.")] = None,
    fewshot: Annotated[int | None, typer.Option(min=0, help="Examples before each question of --tasks.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions per task of --tasks.")] = None,
    pass_at: Annotated[str | None, typer.Option(help="k of pass@k, comma-separated; needs --problems.")] = None,
    problems: Annotated[
        Path | None,
        typer.Option(help="JSON lines: prompt, and tests or answer; or a file of GSM8K's, HumanEval's, BIG-bench's."),
    ] = None,
    shots: Annotated[int, typer.Option(min=0, help="Worked problems shown before each of --problems.")] = 0,
    shots_from: Annotated[Path | None, typer.Option(help="File of problems that shots are the first of.")] = None,
    separator: Annotated[
        str | None,
        typer.Option(help="What stands after a question of GSM8K's; a new line, as after a pair's prompt."),
    ] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="File with the Jinja template to put --problems by, as a user.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Samples per problem; the largest k by default.")] = None,
    temperature: Annotated[float, typer.Option(help="Of sampling; 0 takes the likeliest token.")] = 0.8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens per sample at most.")] = 256,
    seed: Annotated[int, typer.Option(help="Fixes every sample.")] = 0,
    allow_code: Annotated[bool, typer.Option("--allow-code", help="Run code that the model writes, here.")] = False,
    code_seconds: Annotated[float, typer.Option(min=0.1, help="Time for one program.")] = 5.0,
    code_memory: Annotated[int, typer.Option(min=64, help="Memory for one program, MiB.")] = 512,
    unsafe_sandbox: Annotated[
        bool, typer.Option("--unsafe-sandbox", help="Run code even if this machine cannot confine it.")
    ] = False,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="As torch names it; CUDA where there is one.")] = None,
    ray: Annotated[
        bool | None,
        typer.Option("--ray/--no-ray", help="Score --data on Ray; by default where RAY_ADDRESS names a cluster."),
    ] = None,
    lake: LakeUri = DEFAULT_LAKE,
    as_json: AsJson = False,
) -> None:
    """Evaluate a published model: --data, --tasks and --pass-at, one or several of them."""
    if not (data or tasks or pass_at):
        raise EvaluationError("nothing to evaluate: give --data, --tasks or --pass-at with --problems")
    if (pass_at is None) != (problems is None):
        raise EvaluationError("--pass-at and --problems belong together: give both or neither")
    for option, given in (("shots-from", shots_from), ("separator", separator), ("chat-template", chat_template)):
        if given is not None and problems is None:
            raise EvaluationError(f"--{option} is about problems: give it together with --problems and --pass-at")
    if bool(shots) != (shots_from is not None):
        raise EvaluationError("--shots and --shots-from belong together: give both or neither")
    if unsafe_sandbox and not allow_code:
        raise EvaluationError("--unsafe-sandbox is about running code: give it together with --allow-code")
    if precision not in ("auto", "fp32", "bf16"):
        raise EvaluationError(f"precision = {precision!r}: must be auto, fp32 or bf16")
    opened_lake = open_lake(lake)
    # torch takes seconds to import: what a typo could spoil has been checked before.
    from orchestration.evaluation import models as evaluation
    from orchestration.evaluation import pass_at_k as passing
    from orchestration.evaluation.problems import Asking, asked, read_problems
    from orchestration.evaluation.sandbox import Limits
    from orchestration.evaluation.sandbox_check import protection

    if tasks:
        evaluation.check_harness()
    ks = _numbers(pass_at) if pass_at else []
    after = separator if separator is not None else "" if chat_template else "\n"
    found = read_problems(problems, after) if problems else None
    pool = read_problems(shots_from, after).problems if shots_from else ()
    opened = evaluation.open_model(opened_lake, reference, device=device, precision=precision)
    datasets = [evaluation.open_dataset(opened_lake, opened, ref) for ref in data or ()]
    sampling = passing.Sampling(samples or max(ks, default=1), temperature, max_tokens, seed)
    limits = Limits(code_seconds, code_memory, unsafe_sandbox) if allow_code else None
    judged: list[Problem] = []
    if found is not None:
        tokenizer, template = opened.text_tokenizer(), None
        if chat_template is not None:
            tokenizer, template = evaluation.for_templates(tokenizer, chat_template)
        judged, texts = asked(found, Asking(shots, pool, template))
        prompts = passing.prompts_of(judged, texts, tokenizer, opened.context, ks, sampling, limits)
    result: dict[str, Any] = {"model": opened.version.ref, "precision": opened.precision}
    with resumable():
        if datasets:
            with stage(f"held-out loss of {opened.version.ref}", len(datasets)) as advance:
                if ray or (ray is None and cluster_address()):
                    result["data"] = _on_ray(opened_lake, opened, datasets, sequences, advance, device)
                else:
                    result["data"] = evaluation.held_out(opened, datasets, sequences, advance)
        if tasks:
            options = evaluation.TaskOptions(include_path, fewshot, limit)
            result["tasks"] = evaluation.run_tasks(opened_lake, opened, _words(tasks), options)
        if judged:
            if allow_code and any(each.tests is not None for each in judged):
                console.print(f"  running what the model writes: {protection().describe()}")
            with stage(f"pass@k of {opened.version.ref}", len(judged)) as advance:
                result["pass_at"] = passing.measure(
                    opened.model,
                    tokenizer,
                    opened.context,
                    judged,
                    prompts,
                    ks,
                    sampling,
                    precision=opened.precision,
                    limits=limits,
                    advance=lambda done: advance(done, ""),
                )
                result["pass_at"]["shots"] = shots
    if as_json:
        print_json(result)
    else:
        _show(result)


def _on_ray(
    lake: Lake,
    opened: OpenModel,
    datasets: Sequence[TrainDataset],
    sequences: int | None,
    advance: Advance,
    device: str | None,
) -> dict[str, Any]:
    from orchestration.cluster.map import ray_map
    from orchestration.cluster.resources import cluster_nodes
    from orchestration.cluster.session import ray_session
    from orchestration.evaluation.models import held_out_on

    with ray_session():
        gpu = any(node["GPU"] for node in cluster_nodes()) if device is None else device.startswith("cuda")
        where = device or ("cuda" if gpu else "cpu")
        each = partial(ray_map, title="evaluate", gpu=gpu)
        return held_out_on(each, lake, opened, datasets, sequences, advance, where)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    words = _words(text)
    if not words or not all(word.isdecimal() for word in words):
        raise EvaluationError(f"pass-at = {text!r}: must be whole numbers with commas between, for example 1,10")
    return [int(word) for word in words]


def _show(result: dict[str, Any]) -> None:
    if found := result.get("data"):
        columns = ["dataset", "rows", "loss", "perplexity", "bits per byte", "accuracy", "answers whole", "gate"]
        rows = []
        for ref, scores in found.items():
            bits = f"{scores['bits_per_byte']:.4f}" if "bits_per_byte" in scores else "—"
            gate = ("passed" if scores["gate"]["passed"] else "not passed") if "gate" in scores else "—"
            numbers = (f"{scores['loss']:.4f}", f"{scores['perplexity']:.3f}", bits, f"{scores['accuracy']:.3f}")
            whole = f"{scores['answers']['whole']:.3f}" if "whole" in scores.get("answers", ()) else "—"
            rows.append([ref, scores["sequences"], *numbers, whole, gate])
        print_table(columns, rows, title=f"{result['model']} ({result['precision']})")
    if found := result.get("tasks"):
        rows = [
            [task, metric, f"{value:.4f}"]
            for task, scores in found["results"].items()
            for metric, value in scores.items()
            if isinstance(value, float)
        ]
        print_table(["task", "metric", "value"], rows, title=f"lm-evaluation-harness {found['harness']}")
    if found := result.get("pass_at"):
        rows = [[key, f"{value:.4f}"] for key, value in found.items() if key.startswith("pass@")]
        title = f"{len(found['problems'])} problems, {found['samples']} samples at temperature {found['temperature']}"
        title += f", {found['shots']} shots" if found["shots"] else ""
        print_table(["estimate", "value"], rows, title=title)
