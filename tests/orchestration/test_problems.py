"""Problem files of others as they are, shots before a problem, and one clear line for what is no problem."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from orchestration.corpus.chat import ChatTemplate
from orchestration.errors import EvaluationError
from orchestration.evaluation.pass_at_k import judge
from orchestration.evaluation.problems import Asking, Problem, ProblemSet, asked, read_problems
from orchestration.evaluation.sandbox import Limits

GSM8K = [
    {"question": "Natalia sold 48 clips, then half as many. How many?", "answer": "24 = <<48/2=24>>24\n#### 72"},
    {"question": "A car costs $1,000 twice over?", "answer": "2 x 1000\n#### 2,000"},
    {"question": "And minus five?", "answer": "#### -5"},
]
HUMAN_EVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'from typing import List\n\n\ndef double_all(numbers: List[int]) -> List[int]:\n    """ Twice. """\n',
    "entry_point": "double_all",
    "canonical_solution": "    return [2 * number for number in numbers]\n",
    "test": "\n\nMETADATA = {\n    'author': 'jt',\n    'dataset': 'test'\n}\n\n\ndef check(candidate):\n"
    "    assert candidate([1, 2]) == [2, 4]\n    assert candidate([]) == []\n\n",
}
BIG_BENCH = {
    "name": "sums",
    "description": "Add",
    "metrics": ["exact_str_match"],
    "task_prefix": "Add the numbers.\n",
    "examples": [{"input": "1 + 1", "target": ["2", "two"]}, {"input": "2 + 2", "target": "4"}],
}
CHOICES = {
    "name": "colours",
    "examples": [
        {"input": "The sky is", "target_scores": {"blue": 1, "green": 0}},
        {"input": "Grass is", "target_scores": {"blue": 0, "green": 1}},
    ],
}


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_gsm8k_s_lines_are_judged_by_their_last_number(tmp_path: Path) -> None:
    path = write(tmp_path / "test.jsonl", *GSM8K)
    (tmp_path / "test.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    found = read_problems(path)
    assert read_problems(tmp_path / "test.jsonl.gz") == found
    first, second, third = found.problems
    assert first.prompt == GSM8K[0]["question"] + "\n"
    assert read_problems(path, "\nA: ").problems[0].prompt.endswith("many?\nA: ")
    for problem, right, wrong in (
        (first, ("#### 72", "24\n#### 72.", "#### 1\n#### 72", "#### $72.00"), ("#### 27", "72", "", "#### seventy")),
        (second, ("#### 2000", "#### 2,000"), ("#### 2", "#### 2,0000")),
        (third, ("#### -5",), ("#### 5",)),
    ):
        assert all(judge(problem, completion, None) for completion in right)
        assert not any(judge(problem, completion, None) for completion in wrong)


def test_human_eval_s_lines_run_their_own_check(tmp_path: Path) -> None:
    (problem,) = read_problems(write(tmp_path / "HumanEval.jsonl", HUMAN_EVAL)).problems
    assert problem.id == "HumanEval/0"
    limits = Limits(seconds=2)
    assert judge(problem, HUMAN_EVAL["canonical_solution"], limits)
    assert not judge(problem, "    return numbers\n", limits)
    assert problem.cut("    return 1\n\ndef another():\n") == "    return 1\n"


def test_big_bench_s_tasks_are_laid_out_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    path.write_text(json.dumps(BIG_BENCH, indent=2))
    found = read_problems(path)
    judged, texts = asked(found, Asking())
    assert texts == ["Add the numbers.\n\nQ: 1 + 1\nA: ", "Add the numbers.\n\nQ: 2 + 2\nA: "]
    assert judge(judged[0], " two ", None)
    assert judged[0].cut("2\nQ: 3 + 3") == "2"
    _, texts = asked(found, Asking(1, found.problems))
    assert texts[0] == "Add the numbers.\n\nQ: 2 + 2\nA: 4\n\nQ: 1 + 1\nA: "
    path.write_text(json.dumps(CHOICES))
    sky, grass = read_problems(path).problems
    assert sky.prompt == "\nQ: The sky is\n  choice: blue\n  choice: green\nA: "
    assert (sky.answer, grass.answer) == (("blue",), ("green",))


def test_shots_are_the_first_others_of_a_file(tmp_path: Path) -> None:
    found = read_problems(write(tmp_path / "test.jsonl", *GSM8K))
    judged, texts = asked(found, Asking(2, found.problems))
    a, b, c = GSM8K
    assert texts[0] == f"{b['question']}\n{b['answer']}\n\n{c['question']}\n{c['answer']}\n\n{a['question']}\n"
    assert texts[2].startswith(a["question"])
    assert judged[0].cut("#### 72\n\nWhat next?\n#### 3") == "#### 72"
    assert asked(found, Asking())[1] == [f"{each['question']}\n" for each in GSM8K]
    with pytest.raises(EvaluationError, match="there are 2 others to show"):
        asked(found, Asking(3, found.problems))
    bare = [Problem(id="x", prompt="?", answer="1")]
    with pytest.raises(EvaluationError, match="problem x has no solution that could be shown"):
        asked(found, Asking(1, bare))


def test_a_template_puts_shots_as_turns(tmp_path: Path) -> None:
    chat = ChatTemplate(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    found = read_problems(write(tmp_path / "test.jsonl", *GSM8K[:2]), "")
    _, texts = asked(found, Asking(1, found.problems, chat))
    a, b = GSM8K[:2]
    assert texts[0] == f"<user>{b['question']}<assistant>{b['answer']}<user>{a['question']}<assistant>"
    code = ProblemSet((Problem(prompt="def f():\n", tests="assert f()"),))
    with pytest.raises(EvaluationError, match="a reply does not"):
        asked(code, Asking(chat=chat))
    with pytest.raises(EvaluationError, match="problem 1 is refused by the chat template"):
        asked(found, Asking(chat=ChatTemplate("{{ raise_exception('no') }}")))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"question": "a", "answer": "b"}', "line 1: answer does not end in '#### ' and a number"),
        ('{"question": "a", "answer": "#### many"}', "line 1: answer does not end in '#### ' and a number"),
        ('{"question": "a", "answer": 4}', "line 1: answer is of type int, not text"),
        ('{"question": "a", "answer": null}', "line 1: answer is of type NoneType"),
        ('{"question": " ", "answer": "#### 4"}', "line 1: question is empty"),
        ('{"prompt": "a", "answer": 4}', "answer"),
        ('{"prompt": "a", "answer": []}', "answer"),
        ('{"prompt": "a", "answer": "b", "number": true}', "compares answers that are numbers"),
        ('{"prompt": "a", "test": "x", "entry_point": "1f"}', "entry_point = '1f' is no name of a function"),
        ('{"prompt": "a", "test": null, "entry_point": "f"}', "test is of type NoneType"),
        ('{"examples": []}', "has no example"),
        ('{"examples": [{"input": "a"}]}', "example 0: has neither target nor target_scores"),
        ('{"examples": [{"input": "a", "target": 4}]}', "example 0: "),
        ('{"examples": [{"input": "a", "target_scores": {"b": "x", "c": 1}}]}', "example 0: "),
        ('{"examples": [7]}', "example 0: is not a JSON object"),
        ('{"task_prefix": 7, "examples": [{"input": "a", "target": "b"}]}', "task_prefix is of type int"),
        ("", "has no problem"),
        ("\n\n", "has no problem"),
        ("\udcff", "cannot be read"),
    ],
)
def test_what_is_no_problem_is_named_in_a_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(EvaluationError) as raised:
        read_problems(path)
    assert says in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_cut_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl.gz"
    path.write_bytes(gzip.compress(b"x" * 1000)[:-9])
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_problems(path)
