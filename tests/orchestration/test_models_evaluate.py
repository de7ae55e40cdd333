"""`morphogen models evaluate`: the scores that training recorded, pass@k that repeats, and refusals before any work."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from datalake import Lake
from orchestration.cli import main
from orchestration.corpus.add import add_corpus
from orchestration.errors import EvaluationError
from orchestration.evaluation import models
from orchestration.evaluation.pass_at_k import judge
from orchestration.evaluation.problems import Problem, read_problems
from orchestration.evaluation.sandbox import Limits
from tests.trainer.lake_data import add_dataset, patterned, tiny_config, tiny_lake
from trainer import TrainJob, run_training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """``counter@1`` has learned by heart how lines of text go on; ``tiny@1`` knows synthetic tokens only."""
    folder = tmp_path_factory.mktemp("evaluate")
    lake = tiny_lake(folder / "lake")
    (folder / "text").mkdir()
    for number in range(40):
        (folder / "text" / f"{number}.txt").write_text("say 1 2 3 4\n" * 30)
        (folder / "text" / f"{number}.txt").open("a").write(f"{number}\n")
    add_corpus(lake, "text", folder / "text", seq_len=64, heldout_fraction=0.3)
    add_corpus(lake, "pieces", folder / "text", seq_len=64, heldout_fraction=0.3, tokenizer="bpe:257")
    run_training(TrainJob(tiny_config(steps=2, publish="tiny"), lake, "tiny"), threads=1)
    config = tiny_config(
        data=[{"dataset": "text@1"}],
        eval=["text-heldout@1"],
        steps=120,
        batch_sequences=8,
        checkpoint_every=200,
        publish="counter",
    )
    run_training(TrainJob(config, lake, "counter"), threads=1)
    return lake


def evaluate(lake: Lake, capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    try:
        main(["models", "evaluate", *map(str, arguments), "--precision", "fp32", "--lake", lake.uri, "--json"])
    except SystemExit as exit_:
        captured = capsys.readouterr()
        if exit_.code:
            return {"code": exit_.code, "error": captured.err}
        return json.loads(captured.out)
    raise AssertionError("the command line exits")


def test_scores_are_those_that_training_recorded(lake: Lake, capsys) -> None:
    recorded = lake.models.get("counter@1").metrics["text-heldout@1"]
    found = evaluate(lake, capsys, "counter@1", "--data", "text-heldout@1", "--sequences", 256)["data"]
    for key in ("loss", "perplexity", "bits_per_byte", "accuracy"):
        assert found["text-heldout@1"][key] == pytest.approx(recorded[key], rel=1e-6)
    found = evaluate(lake, capsys, "tiny", "--data", "held@1", "--data", "train@1")["data"]
    assert found["held@1"]["gate"]["loss"] == pytest.approx(lake.models.get("tiny@1").metrics["held@1"]["loss"])
    assert (found["held@1"]["sequences"], found["train@1"]["sequences"]) == (10, 22)


def test_parts_scored_elsewhere_add_up_to_the_whole(lake: Lake, monkeypatch) -> None:
    monkeypatch.setattr(models, "PART_ROWS", 7)
    for model, refs in (("counter@1", ["text-heldout@1"]), ("tiny@1", ["held@1", "train@1"])):
        opened = models.open_model(lake, model, device="cpu", precision="fp32")
        datasets = [models.open_dataset(lake, opened, ref) for ref in refs]
        parts: list[tuple[int, int]] = []

        def each(score, items, parts=parts):
            parts += items
            return [pickle.loads(pickle.dumps(score))(item) for item in items]  # noqa: S301 - our own

        whole = models.held_out(opened, datasets, 20, lambda *_: None)
        found = models.held_out_on(each, lake, opened, datasets, 20, lambda *_: None, "cpu")
        assert (0, 7) in parts
        assert found.keys() == whole.keys()
        for ref in refs:
            assert found[ref].keys() == whole[ref].keys()
            assert found[ref]["tokens"] == whole[ref]["tokens"]
            for key in ("loss", "accuracy", "perplexity"):
                assert found[ref][key] == pytest.approx(whole[ref][key], rel=1e-6)


@pytest.mark.usefixtures("ray_cluster")
def test_ray_scores_as_this_process_does(lake: Lake, capsys) -> None:
    arguments = ("counter@1", "--data", "text-heldout@1", "--device", "cpu")
    here, there = (evaluate(lake, capsys, *arguments, where)["data"] for where in ("--no-ray", "--ray"))
    assert there["text-heldout@1"]["loss"] == pytest.approx(here["text-heldout@1"]["loss"], rel=1e-6)
    assert there["text-heldout@1"]["sequences"] == here["text-heldout@1"]["sequences"]


def write(path: Path, *problems: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    return path


def test_pass_at_k_of_what_the_model_knows_and_does_not(lake: Lake, tmp_path: Path, capsys) -> None:
    problems = write(
        tmp_path / "problems.jsonl",
        {"id": "known", "prompt": "say 1 2 3 4\nsay 1 2", "answer": "3 4", "stop": ["\n"]},
        {"id": "unknown", "prompt": "say 1 2 3 4\nsay 1 2", "answer": "5", "stop": ["\n"]},
        {"id": "read", "prompt": "say 1 2 3 4\nsay", "answer": "3", "pattern": r"(\d) \d", "stop": ["\nsay"]},
    )
    arguments = ("counter@1", "--pass-at", "1,4", "--problems", problems, "--max-tokens", 16, "--temperature", 0.2)
    found = evaluate(lake, capsys, *arguments, "--samples", 12)["pass_at"]
    assert found == evaluate(lake, capsys, *arguments, "--samples", 12)["pass_at"]
    correct = {each["id"]: each["correct"] for each in found["problems"]}
    assert correct["known"] >= 8
    assert correct["unknown"] == 0
    assert 0 < found["pass@1"] <= found["pass@4"] < 1
    assert found["pass@1"] == pytest.approx(sum(correct.values()) / 12 / 3)


def test_code_runs_only_when_allowed(lake: Lake, tmp_path: Path, capsys) -> None:
    code = {"prompt": "text = '''say 1 2", "tests": "'''\nassert text.startswith('say 1 2 3 4')", "stop": ["'"]}
    arguments = ("counter@1", "--pass-at", 1, "--problems", write(tmp_path / "code.jsonl", code), "--max-tokens", 8)
    refused = evaluate(lake, capsys, *arguments)
    assert refused["code"] == 2
    assert "would be run on this machine; if that is meant, add --allow-code" in refused["error"]
    found = evaluate(lake, capsys, *arguments, "--allow-code", "--temperature", 0)["pass_at"]
    assert found["pass@1"] == 1.0
    assert set(found["code"]) == {"seconds", "memory_mib", "network", "reads_files", "writes_files"}
    assert found["sandbox"] == {"unsafe_sandbox": False, "programs_can": []}


def test_tests_judge_prompt_and_completion_together() -> None:
    problem = Problem(prompt="def double(x):\n", tests="assert double(3) == 6")
    limits = Limits(seconds=2)
    assert judge(problem, "    return 2 * x", limits)
    assert not judge(problem, "    return x", limits)
    assert not judge(problem, "    return 2 * x\nraise SystemExit", limits)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt": "p"}', "tests, answer: give one of them"),
        ('{"prompt": "p", "answer": "1", "tests": "x"}', "tests, answer: give one of them"),
        ('{"prompt": "p", "answer": "1", "pattern": "x"}', "needs one group, has 0"),
        ('{"prompt": "p", "answer": "1", "pattern": "("}', "pattern = '('"),
        ('{"prompt": "p", "answer": "1", "stop": [""]}', "stop.0 = ''"),
        ('{"prompt": "p", "answer": "1", "hint": "2"}', "hint: unknown field"),
        ("[]", "is not a JSON object"),
        ("{", "line 2: "),
    ],
)
def test_a_line_that_is_no_problem_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(f'{{"prompt": "p", "answer": "1"}}\n{line}\n')
    with pytest.raises(EvaluationError) as raised:
        read_problems(path)
    assert says in str(raised.value)
    assert f"{path}, line 2: " in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("counter@1",), "nothing to evaluate"),
        (("counter@1", "--pass-at", "1"), "--pass-at and --problems belong together"),
        (("counter@1", "--pass-at", "1,x", "--problems", "P"), "pass-at = '1,x': must be whole numbers"),
        (("counter@1", "--pass-at", "5", "--samples", "4", "--problems", "P"), "every k must lie in 1 to samples = 4"),
        (("counter@1", "--pass-at", "1", "--problems", "LONG"), "prompt has 101 tokens, the model saw 64 at once"),
        (("tiny@1", "--pass-at", "1", "--problems", "P"), "it cannot be asked in text"),
        (("tiny@1", "--data", "text@1"), "has a vocabulary of 257, tiny@1 of 32"),
        (("counter@1", "--data", "pieces@1"), "is tokenised by bpe:257, counter@1 reads bytes"),
        (("counter@1", "--data", "nobody@1"), "nobody"),
    ],
)
def test_refusals(lake: Lake, tmp_path: Path, capsys, arguments: tuple[str, ...], says: str) -> None:
    files = {
        "P": write(tmp_path / "p.jsonl", {"prompt": "p", "answer": "1"}),
        "LONG": write(tmp_path / "long.jsonl", {"prompt": "x" * 100, "answer": "1"}),
    }
    refused = evaluate(lake, capsys, *(files.get(each, each) for each in arguments))
    assert refused["code"] == 2
    assert says in refused["error"]
    assert refused["error"].startswith("error: ")
    assert len(refused["error"].splitlines()) == 1


def test_without_the_harness_the_extra_is_named(lake: Lake, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # what Python's import takes for "not installed"
    refused = evaluate(lake, capsys, "counter@1", "--tasks", "arc_easy")
    assert refused == {
        "code": 2,
        "error": "error: tasks: package lm_eval of lm-evaluation-harness is not installed; install the extra 'eval': "
        "pip install 'morphogen[eval]'\n",
    }


@pytest.fixture
def go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a task ``go_on``; the harness has one family of its own tasks: all of them take 20 s to read."""
    from lm_eval.tasks import manager

    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    shutil.copytree(Path(manager.__file__).with_name("arc"), tmp_path / "harness" / "arc")
    monkeypatch.setattr(manager, "__file__", str(tmp_path / "harness" / "manager.py"))
    rows = [{"question": "say 1 2", "choices": [" 3 4", " 9 9"], "gold": 0}] * 4
    questions = write(tmp_path / "questions.jsonl", *rows)
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "go_on.yaml").write_text(
        f"task: go_on\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {questions}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: choices\n"
        "doc_to_target: gold\ntarget_delimiter: ''\nmetric_list:\n  - metric: acc\n"
    )
    return folder


def test_a_task_of_one_s_own_on_the_exported_model(lake: Lake, go_on: Path, capsys) -> None:
    """Offline: task file and questions are local; the model knows which line goes on how."""
    found = evaluate(lake, capsys, "counter@1", "--tasks", "go_o*", "--include-path", go_on)["tasks"]
    assert found["results"]["go_on"]["acc,none"] == 1.0
    assert evaluate(lake, capsys, "counter@1", "--tasks", "go_on", "--include-path", go_on)["tasks"] == found
    refused = evaluate(lake, capsys, "counter@1", "--tasks", "go_off", "--include-path", go_on)
    assert "tasks = 'go_off': lm-evaluation-harness" in refused["error"]
    refused = evaluate(lake, capsys, "tiny@1", "--tasks", "go_on", "--include-path", go_on)
    assert "it cannot be asked in text" in refused["error"]


def test_the_harness_s_own_tasks_are_read_only_where_one_may_be_meant(go_on: Path) -> None:
    assert models.task_manager(["go_on"], go_on).all_tasks == ["go_on"]
    for tasks, include in ((["go_o*"], go_on), (["go_on", "arc_easy"], go_on), (["arc_easy"], None)):
        assert "arc_easy" in models.task_manager(tasks, include).all_tasks
    (go_on / "both.yaml").write_text("group: both\ntask: [go_on, arc_easy]\n")
    assert "arc_easy" in models.task_manager(["both"], go_on).all_tasks


def test_imported_text_without_byte_counts_has_no_bits_per_byte(tmp_path: Path, capsys) -> None:
    lake = tiny_lake(tmp_path / "lake")
    add_dataset(lake, "imported", patterned(10, seed=3), kind="text", byte_counts=False)
    run_training(
        TrainJob(tiny_config(steps=1, schedule={}, eval=["imported@1"], publish="tiny"), lake, "run"), threads=1
    )
    found = evaluate(lake, capsys, "tiny@1", "--data", "imported@1")["data"]["imported@1"]
    assert "bits_per_byte" not in found
    assert "gate" not in found
    assert found["loss"] == pytest.approx(lake.models.get("tiny@1").metrics["imported@1"]["loss"], rel=1e-6)
