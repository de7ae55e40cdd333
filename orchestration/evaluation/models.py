"""Evaluating a published model: held-out loss on datasets of the lake, and tasks of lm-evaluation-harness."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datalake import Lake, ModelVersion
from datalake.errors import NotFoundError
from orchestration.corpus.chat import ChatTemplate
from orchestration.corpus.tokenizer_files import chat_template
from orchestration.corpus.tokenizers import BpeTokenizer, TextTokenizer
from orchestration.errors import EvaluationError
from orchestration.evaluation.hf_export import model_text, write_hf_folder
from orchestration.generation.recompute import make_repairer
from trainer import Llama, TrainConfig, TrainDataset, hf_layout, parse_config
from trainer.documents import document_ends
from trainer.evaluate import evaluate, row_sums, scores_of
from trainer.model_config import beyond_llama
from trainer.precision import Precision, exact, pick_device, resolve_precision
from trainer.published import open_published
from trainer.ranks import Ranks

Advance = Callable[[float, str], None]


@dataclass(frozen=True)
class OpenModel:
    """A model version, opened: weights on ``device``, and the tokenizer of its text or why there is none.

    ``config`` is that of the run that trained it to attend within documents, if one did: it is scored that way.
    """

    version: ModelVersion
    model: Llama
    context: int
    device: torch.device
    precision: Precision
    tokenizer: TextTokenizer | None
    why_none: str
    config: TrainConfig | None = None

    def text_tokenizer(self) -> TextTokenizer:
        """The tokenizer; EvaluationError where there is none, since then the model cannot be prompted with text."""
        if self.tokenizer is None:
            raise EvaluationError(f"{self.why_none}: it cannot be asked in text; take a model trained on a text corpus")
        return self.tokenizer


def open_model(lake: Lake, ref: str, *, device: str | None = None, precision: str = "auto") -> OpenModel:
    """Open a model version, its files verified; ``device`` defaults to CUDA where there is one."""
    version = lake.models.usable(ref)
    config = hf_layout.read_config(lake.models.open_file(version, hf_layout.CONFIG))
    text = model_text(lake, version)
    place = pick_device(device)
    return OpenModel(
        version=version,
        model=open_published(lake, version).to(place),
        context=config["max_position_embeddings"],
        device=place,
        precision=resolve_precision(precision, place),
        tokenizer=text.tokenizer,
        why_none=text.why_none,
        config=_by_document(lake, version),
    )


def for_templates(tokenizer: TextTokenizer, template: Path) -> tuple[TextTokenizer, ChatTemplate]:
    """The tokenizer to which special tokens in a text are special, and the template of a file that may write them."""
    special = tokenizer if isinstance(tokenizer, BpeTokenizer) else None
    return special.for_templates() if special else tokenizer, chat_template(template, None, special)


def _by_document(lake: Lake, version: ModelVersion) -> TrainConfig | None:
    """The config of the run that published the model, if its attention was within documents."""
    try:
        config = lake.runs.get(version.run).state.get("config") or {} if version.run else {}
    except NotFoundError:  # a model from another lake, or of a run that is gone
        return None
    document = isinstance(model := config.get("model"), dict) and model.get("attention") == "document"
    return parse_config(config) if document else None


def open_dataset(lake: Lake, opened: OpenModel, ref: str) -> TrainDataset:
    """A dataset to score ``opened`` on; EvaluationError where its tokens mean something else to the model."""
    version = lake.datasets.usable(ref)
    manifest = lake.datasets.manifest(version)
    if manifest.vocab_size > opened.model.shape.vocab_size:
        raise EvaluationError(
            f"dataset {version.ref}: has a vocabulary of {manifest.vocab_size}, {opened.version.ref} of "
            f"{opened.model.shape.vocab_size}; evaluate on data of the model's own vocabulary"
        )
    spec = manifest.source.spec
    if opened.tokenizer is not None and "tokenizer" in spec:
        ours = opened.tokenizer.describe()
        theirs = {key: spec.get(key) for key in ours}
        if theirs != ours:
            raise EvaluationError(
                f"dataset {version.ref}: is tokenised by {_named(theirs)}, {opened.version.ref} reads {_named(ours)}; "
                "evaluate on text of the model's own tokenizer"
            )
    return TrainDataset(version.ref, manifest, lake.store, version.params, make_repairer(lake.store.uri))


def held_out(
    opened: OpenModel, datasets: Sequence[TrainDataset], sequences: int | None, advance: Advance
) -> dict[str, Any]:
    """What ``trainer.evaluate`` says of the first ``sequences`` rows (or all) of each dataset, by "NAME@VERSION"."""
    found = {}
    ends = (document_ends(opened.config, datasets) if opened.config else None) or [None] * len(datasets)
    for done, (dataset, end) in enumerate(zip(datasets, ends, strict=True), start=1):
        limit = sequences or dataset.manifest.sequences
        with exact(opened.device, None):
            ranks = Ranks(0, 1, opened.device)
            scores = evaluate(opened.model, dataset, limit, opened.precision, opened.device, ranks, end_of_text=end)
        found[dataset.ref] = scores
        advance(done, f"{dataset.ref} loss {scores['loss']:.4f}")
    return found


PART_ROWS = 2048
"""Rows that a task of a cluster scores: sums over parts are added in order, whoever made them."""


@dataclass(frozen=True)
class Part:
    """Scores a part of a dataset's rows, wherever there is a process for it: (first row, end) to sums."""

    lake: Lake
    model: str
    dataset: str
    precision: Precision
    device: str | None

    def __call__(self, rows: tuple[int, int]) -> list[float]:
        opened = _opened_here(_Hashed(self.lake.uri, self.lake), self.model, self.precision, self.device)
        dataset = open_dataset(self.lake, opened, self.dataset)
        (end,) = (document_ends(opened.config, [dataset]) if opened.config else None) or [None]
        with exact(opened.device, None):
            return row_sums(opened.model, dataset, np.arange(*rows), opened.precision, opened.device, end_of_text=end)


@dataclass(frozen=True)
class _Hashed:
    """A lake by its address."""

    uri: str
    lake: Lake = field(compare=False)


@lru_cache(maxsize=1)
def _opened_here(lake: _Hashed, model: str, precision: Precision, device: str | None) -> OpenModel:
    """The model, opened once in a process that scores many parts."""
    return open_model(lake.lake, model, device=device, precision=precision)


def held_out_on(
    each: Callable[[Callable[[tuple[int, int]], list[float]], list[tuple[int, int]]], Iterable[list[float]]],
    lake: Lake,
    opened: OpenModel,
    datasets: Sequence[TrainDataset],
    sequences: int | None,
    advance: Advance,
    device: str | None = None,
) -> dict[str, Any]:
    """`held_out`, each dataset's parts scored by ``each``, a map that gives results in order: no row comes here."""
    found = {}
    for done, dataset in enumerate(datasets, start=1):
        total = min(sequences or dataset.manifest.sequences, dataset.manifest.sequences)
        parts = [(first, min(first + PART_ROWS, total)) for first in range(0, total, PART_ROWS)]
        score = Part(lake, opened.version.ref, dataset.ref, opened.precision, device)
        sums = np.zeros(0)
        for at, part in enumerate(each(score, parts), start=1):
            sums = sums + np.array(part) if len(sums) else np.array(part)
            advance(done - 1 + at / len(parts), dataset.ref)
        scores = scores_of(dataset, sums.tolist(), total)
        found[dataset.ref] = scores
        advance(done, f"{dataset.ref} loss {scores['loss']:.4f}")
    return found


def _named(tokenizer: dict[str, Any]) -> str:
    digest = tokenizer.get("tokenizer_digest")
    return f"{tokenizer['tokenizer']}" + (f" ({digest[:12]})" if digest else "")


@dataclass(frozen=True)
class TaskOptions:
    """Of lm-evaluation-harness; ``include`` is a folder of task files of one's own, ``limit`` questions per task."""

    include: Path | None = None
    fewshot: int | None = None
    limit: int | None = None
    batch_size: int = 8


def check_harness() -> None:
    """EvaluationError unless lm-evaluation-harness is installed; told before anything is computed."""
    for package in ("lm_eval", "accelerate"):  # the harness opens folders of transformers through accelerate
        if importlib.util.find_spec(package) is None:
            raise EvaluationError(
                f"tasks: package {package} of lm-evaluation-harness is not installed; install the extra 'eval': "
                "pip install 'morphogen[eval]'"
            )


def task_manager(tasks: Sequence[str], include: Path | None) -> Any:
    """Return the harness's TaskManager that knows ``tasks``: its own and those of folder ``include``, which go first.

    Where each is the name of a task in the folder, it is read alone: the harness's own 14,000 files, of which none
    would be used, take half a minute. A pattern, a group or a tag may mean some of those too.
    """
    from lm_eval.tasks import TaskManager  # type: ignore[import-not-found, import-untyped, unused-ignore]

    if include is not None:
        alone = TaskManager(include_path=str(include), include_defaults=False)
        if {*tasks} <= {*alone.all_subtasks}:
            return alone
    return TaskManager(include_path=str(include) if include else None)


def run_tasks(lake: Lake, opened: OpenModel, tasks: Sequence[str], options: TaskOptions) -> dict[str, Any]:
    """lm-evaluation-harness on the exported model: its results by task, its versions of the tasks, its own version.

    The model goes the way of any other: through a folder that transformers opens. EvaluationError for unknown tasks and
    for a model without a tokenizer.
    """
    check_harness()
    opened.text_tokenizer()
    if own := beyond_llama(opened.model.shape.model_dump()):
        raise EvaluationError(
            f"{opened.version.ref}: has {own}, which no class of transformers computes, and the harness opens models "
            "by those; score it on datasets, or train one without"
        )
    import lm_eval  # type: ignore[import-not-found, import-untyped, unused-ignore]

    manager = task_manager(tasks, options.include)
    found = {task: manager.match_tasks([task]) for task in tasks}  # a task, a group or a pattern of names
    if unknown := [task for task, names in found.items() if not names]:
        raise EvaluationError(
            f"tasks = {unknown[0]!r}: lm-evaluation-harness {lm_eval.__version__} has no such task; list them with "
            "'lm-eval ls tasks', or name the folder of your own with --include-path"
        )
    with tempfile.TemporaryDirectory(prefix="morphogen-tasks-") as folder:
        write_hf_folder(lake, opened.version, Path(folder))
        scores = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": folder, "dtype": "bfloat16" if opened.precision == "bf16" else "float32"},
            tasks=sorted({name for names in found.values() for name in names}),
            task_manager=manager,
            num_fewshot=options.fewshot,
            limit=options.limit,
            batch_size=options.batch_size,
            device=str(opened.device),
            bootstrap_iters=1000,
        )
    if scores is None:  # the harness answers None on ranks other than the first
        raise EvaluationError("tasks: lm-evaluation-harness gave no results; run this command in a single process")
    return {"harness": lm_eval.__version__, "results": scores["results"], "versions": scores["versions"]}
