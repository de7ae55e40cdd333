"""Tasks of lm-evaluation-harness on a model while it trains: as it is in memory, from files that are there already."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration.errors import EvaluationError

# It travels with every job to every worker, most of which have no tasks: what they need is imported where they do.
if TYPE_CHECKING:
    import torch

    from orchestration.corpus.tokenizers import TextTokenizer
    from trainer import Llama
    from trainer.inputs import Inputs
    from trainer.precision import Precision
    from trainer.recipe import TasksConfig
    from trainer.task_scores import Scores

_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


@dataclass(frozen=True)
class HarnessTasks:
    """A ``TaskScorer``. Nothing is downloaded in the middle of a run, unless HF_HUB_OFFLINE=0 and
    HF_DATASETS_OFFLINE=0 say so: a task's questions come from its own files, or from the cache."""

    def check(self, tasks: TasksConfig, inputs: Inputs) -> None:
        """Raises EvaluationError where the harness or a task is missing, or no tokenizer made the data."""
        if importlib.util.find_spec("lm_eval") is None:
            raise EvaluationError(
                "tasks: package lm_eval of lm-evaluation-harness is not installed; install the extra 'eval': "
                "pip install 'morphogen[eval]', or leave [tasks] out"
            )
        if tasks.include is not None and not Path(tasks.include).is_dir():
            raise EvaluationError(f"tasks.include = {tasks.include!r}: is no folder; name the one with your task files")
        _tokenizer(inputs)
        manager = _manager(tasks)
        if unknown := [name for name in tasks.names if not manager.match_tasks([name])]:
            raise EvaluationError(
                f"tasks.names: lm-evaluation-harness has no task {unknown[0]!r}; list them with 'lm-eval ls tasks', or "
                "name the folder of your own with include"
            )

    def __call__(
        self, model: Llama, tasks: TasksConfig, inputs: Inputs, precision: Precision, device: torch.device
    ) -> Scores:
        """Metrics by task. Raises EvaluationError where a task's questions cannot be read."""
        del device  # the model is there already
        manager = _manager(tasks)
        import lm_eval  # type: ignore[import-not-found, import-untyped, unused-ignore]

        from orchestration.evaluation.harness_model import HarnessModel

        context = min(inputs.seq_len, model.shape.learned_positions or inputs.seq_len)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # bars of its own, within the run's
                found: Any = lm_eval.simple_evaluate(
                    model=HarnessModel(model, _tokenizer(inputs), context, precision),
                    tasks=sorted({name for names in tasks.names for name in manager.match_tasks([names])}),
                    task_manager=manager,
                    num_fewshot=tasks.fewshot,
                    limit=tasks.limit,
                    bootstrap_iters=0,
                )
        except (OSError, ValueError, ConnectionError) as error:
            said = next(iter(str(error).splitlines()), type(error).__name__)
            raise EvaluationError(
                f"tasks.names = {', '.join(tasks.names)}: cannot be asked ({said}); have the questions on this machine"
            ) from error
        return {
            name: {metric: float(value) for metric, value in scores.items() if isinstance(value, int | float)}
            for name, scores in found["results"].items()
        }


def _manager(tasks: TasksConfig) -> Any:
    from orchestration.evaluation.models import task_manager

    for name in _OFFLINE:
        os.environ.setdefault(name, "1")
    return task_manager(tasks.names, None if tasks.include is None else Path(tasks.include))


def _tokenizer(inputs: Inputs) -> TextTokenizer:
    from orchestration.corpus.tokenizers import load_tokenizer

    found: dict[str, TextTokenizer] = {}
    for dataset in inputs.train:
        spec = dataset.manifest.source.spec
        if "tokenizer" in spec:
            tokenizer = load_tokenizer(dataset.store, spec)
            found[json.dumps(tokenizer.describe(), sort_keys=True)] = tokenizer
    if len(found) != 1:
        raise EvaluationError(
            f"tasks: the training data has {len(found)} tokenizers, and a model is asked in the text of one; leave "
            "[tasks] out, or train on text of one tokenizer"
        )
    return next(iter(found.values()))
