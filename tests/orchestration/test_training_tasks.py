"""Tasks of lm-evaluation-harness while a run trains: the scores of the exported model, offline, every n steps."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datalake import Lake
from orchestration.console.training import eval_text
from orchestration.corpus.add import add_corpus
from orchestration.errors import EvaluationError
from orchestration.evaluation import models
from orchestration.evaluation.harness_tasks import HarnessTasks
from orchestration.reports.curves import heldout_points
from tests.trainer.lake_data import curve, eval_curve, tiny_config, tiny_lake
from trainer import TrainJob, load_metrics, parse_config, run_training
from trainer.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")

TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {questions}
test_split: test
doc_to_text: '{{{{question}}}}'
target_delimiter: ''
"""
KINDS = {
    "choose": "output_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: gold\n"
    "metric_list:\n  - metric: acc\n",
    "go_on": "output_type: generate_until\ndoc_to_target: '{{target}}'\ngeneration_kwargs:\n  until: ['\\n']\n"
    "  max_gen_toks: 8\nmetric_list:\n  - metric: exact_match\n",
    "surprise": "output_type: loglikelihood_rolling\ndoc_to_target: '{{question}}{{target}}'\n"
    "metric_list:\n  - metric: byte_perplexity\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks and their questions."""
    folder = tmp_path_factory.mktemp("tasks")
    questions = folder / "questions.jsonl"
    rows = [
        {"question": "say 1 2", "choices": [" 3 4", " 9 9"], "gold": 0, "target": " 3 4"},
        {"question": "say 1 2 3", "choices": [" 9", " 4"], "gold": 1, "target": " 9 " * 40},
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, rest in KINDS.items():
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, questions=questions) + rest)
    return folder


def config(folder: Path, **changes: Any) -> Any:
    return tiny_config(
        **{
            "data": [{"dataset": "text@1"}],
            "eval": [],
            "steps": 40,
            "batch_sequences": 8,
            "eval_every": 20,
            "checkpoint_every": 30,
            "log_every": 10,
            "publish": "asked",
            "tasks": {"names": [*KINDS], "include": str(folder)},
            **changes,
        }
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Lake:
    place = tmp_path_factory.mktemp("asked")
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_DATASETS_CACHE", str(place / "cache"))
    lake = tiny_lake(place / "lake")
    (place / "text").mkdir()
    for number in range(40):
        (place / "text" / f"{number}.txt").write_text("say 1 2 3 4\n" * 30 + f"{number}\n")
    add_corpus(lake, "text", place / "text", seq_len=64, heldout_fraction=0.3)
    run_training(TrainJob(config(folder), lake, "whole", score_tasks=HarnessTasks()), threads=1)
    yield lake
    patch.undo()


def test_scores_are_those_of_the_exported_model(lake: Lake, folder: Path) -> None:
    found = {row["step"]: row["eval"] for row in eval_curve(load_metrics(lake, "whole"))}
    assert [*found] == [20, 40]
    assert {name for scores in found.values() for name in scores} == {f"task:{name}" for name in KINDS}
    opened = models.open_model(lake, "asked@1", device="cpu", precision="fp32")
    expected = models.run_tasks(lake, opened, [*KINDS], models.TaskOptions(include=folder))["results"]
    for name, metric in (("choose", "acc,none"), ("go_on", "exact_match,none"), ("surprise", "byte_perplexity,none")):
        assert found[40][f"task:{name}"][metric] == pytest.approx(expected[name][metric], rel=1e-4)
    assert found[20]["task:surprise"] != found[40]["task:surprise"], "of the weights as they are"
    assert lake.models.get("asked@1").metrics["task:choose"]["acc,none"] == found[40]["task:choose"]["acc,none"]


def test_they_change_nothing_of_the_training_and_come_again_on_resuming(lake: Lake, folder: Path) -> None:
    class Killed(BaseException):
        pass

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 30 and not killed:
            killed.append(True)
            raise Killed

    killed: list[bool] = []
    job = TrainJob(config(folder), lake, "again", score_tasks=HarnessTasks())
    with pytest.raises(Killed):
        run_training(job, on_event=watch, threads=1)
    run_training(job, on_event=watch, threads=1)
    run_training(TrainJob(config(folder, tasks=None, publish=None), lake, "without"), threads=1)
    whole = load_metrics(lake, "whole")
    assert eval_curve(load_metrics(lake, "again")) == eval_curve(whole)
    assert curve(load_metrics(lake, "again")) == curve(whole) == curve(load_metrics(lake, "without"))


def test_a_run_without_them_has_the_digest_that_it_had() -> None:
    assert "tasks" not in tiny_config().model_dump()


def test_whoever_reads_evaluations_takes_a_task_s_for_no_loss(lake: Lake) -> None:
    records = load_metrics(lake, "whole")
    assert heldout_points(records) == []
    event = {"event": "eval", "step": 40, "dataset": "task:choose", "acc,none": 1.0, "alias": "choose"}
    assert eval_text(event) == "task:choose  acc 1.0000"


@pytest.mark.parametrize(
    ("changes", "scorer", "error", "says"),
    [
        ({"names": ["go_off"]}, HarnessTasks(), EvaluationError, "has no task 'go_off'"),
        ({"include": "nowhere"}, HarnessTasks(), EvaluationError, "tasks.include = 'nowhere': is no folder"),
        ({}, None, ConfigError, "tasks: nothing here scores any"),
    ],
)
def test_what_cannot_be_asked_is_said_before_training(
    lake: Lake, folder: Path, changes: dict[str, Any], scorer: Any, error: type[Exception], says: str
) -> None:
    tasks = {"names": ["choose"], "include": str(folder), **changes}
    with pytest.raises(error, match=says):
        run_training(TrainJob(config(folder, tasks=tasks), lake, "refused", score_tasks=scorer), threads=1)


def test_the_extra_and_a_tokenizer_are_asked_for(lake: Lake, folder: Path, monkeypatch) -> None:
    job = TrainJob(config(folder), lake, "refused", score_tasks=HarnessTasks())
    synthetic = replace(job, config=config(folder, data=[{"dataset": "train@1"}]))
    with pytest.raises(EvaluationError, match="the training data has 0 tokenizers"):
        run_training(synthetic, threads=1)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(EvaluationError, match="install the extra 'eval'"):
        run_training(job, threads=1)


@pytest.mark.parametrize(
    ("tasks", "says"),
    [({"names": []}, "tasks.names"), ({"names": ["a"], "limit": 0}, "tasks.limit"), ({"name": "a"}, "tasks.name")],
)
def test_a_bad_table_is_named(tasks: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_config({**tiny_config().model_dump(), "tasks": tasks})
