"""Problems of a local file for pass@k: ours, and the files of published benchmarks as they are.

Ours is one JSON object a line. ``prompt`` is what the model continues. ``tests`` is Python that uses what prompt and
completion define and must come to its end, run in a process of its own (`sandbox_sides`; lines at its beginning that
are no Python by themselves, such as a closing quote, end the program instead); or ``answer`` (one, or a list of those
that are right) is what the completion must equal once surrounding white space is taken off, or, with ``pattern`` (a
regular expression with one group), what the group's last match must equal; ``number`` compares both as numbers. A
completion is cut before the first of the ``stop`` strings. ``solution`` is what a shot shows after the prompt. ``id``
names the problem.

Others are known by their fields: GSM8K's lines (``question``, ``answer`` that ends in ``#### n``), HumanEval's
(``prompt``, ``test``, ``entry_point``, ``canonical_solution``) and BIG-bench's JSON tasks (``examples`` of ``input``
and ``target`` or ``target_scores``).
"""

from __future__ import annotations

import ast
import gzip
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from generator.regular_files import read_bounded
from generator.toml_files import problems_of
from orchestration.corpus.chat import ChatTemplate
from orchestration.corpus.places import BadRecord
from orchestration.errors import EvaluationError

MAX_PROBLEMS_BYTES = 64 << 20
_NEXT = "\n\n"
"""What stands between shots, where a benchmark does not say otherwise."""


def _answers(value: Any) -> Any:
    found = (value,) if isinstance(value, str) else value
    if value is not None and not (isinstance(found, list | tuple) and found and all(isinstance(x, str) for x in found)):
        raise ValueError(f"is {json.dumps(value)[:40]}, and must be a text in quotes or a list of them")
    return value if value is None else tuple(found)


class Problem(BaseModel):
    """One line of a problems file; see the module's docstring."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = ""
    prompt: str
    tests: str | None = None
    answer: Annotated[tuple[str, ...] | None, BeforeValidator(_answers)] = None
    number: bool = False
    pattern: str | None = None
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    solution: str | None = None

    @model_validator(mode="after")
    def _one_judge(self) -> Self:
        if (self.tests is None) == (self.answer is None):
            raise ValueError("tests, answer: give one of them")
        if self.tests is not None:
            split_tests(self.tests)
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groups
            except re.error as error:
                raise ValueError(f"pattern = {self.pattern!r}: {error}") from None
            if self.answer is None or groups != 1:
                raise ValueError(f"pattern = {self.pattern!r}: belongs to an answer and needs one group, has {groups}")
        if self.number and (self.answer is None or any(_number(answer) is None for answer in self.answer)):
            raise ValueError(f"number: compares answers that are numbers, and {self.answer} is none")
        return self

    def cut(self, completion: str) -> str:
        """The completion up to the first of the stop strings."""
        ends = [at for text in self.stop if (at := completion.find(text)) >= 0]
        return completion[: min(ends, default=len(completion))]

    def answered(self, completion: str) -> bool:
        """Whether a completion, cut already, gives the answer."""
        assert self.answer is not None, "held by the model"
        found = completion
        if self.pattern is not None:
            matches = re.findall(self.pattern, completion)
            if not matches:
                return False
            found = matches[-1]
        if self.number:
            return (value := _number(found)) is not None and value in [_number(answer) for answer in self.answer]
        return found.strip() in [answer.strip() for answer in self.answer]


def _number(text: str) -> Decimal | None:
    """The number that a text is: thousands apart by commas, a currency before it, a full stop after it."""
    try:
        value = Decimal(text.strip().lstrip("$€£").rstrip(".").replace(",", ""))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def split_tests(tests: str) -> tuple[str, str]:
    """The lines that only make sense after a completion, such as a closing quote, and the tests that follow them.

    The first are for the program's process, the second for one of their own. ValueError where nothing would be left.
    """
    lines = tests.splitlines(keepends=True)
    for count in range(len(lines) + 1):
        rest = "".join(lines[count:])
        try:
            statements = ast.parse(rest).body
        except (SyntaxError, ValueError):
            continue
        if statements or count == 0:
            return "".join(lines[:count]), rest
    raise ValueError("tests: has no complete Python statement that could fail")


@dataclass(frozen=True)
class ProblemSet:
    """The problems of a file; ``opening`` stands before the first shot and ``between`` after each, ``stop_after_shots``
    also ends a completion where shots were shown."""

    problems: tuple[Problem, ...]
    opening: str = ""
    between: str = _NEXT
    stop_after_shots: tuple[str, ...] = ()


def read_problems(path: Path, separator: str = "\n") -> ProblemSet:
    """The problems of a file, gzipped or not; ``separator`` stands after a question of GSM8K's. EvaluationError naming
    the line that is not one."""
    text = _text(path)
    if (task := _task(text)) is not None:
        return _big_bench(path, task)
    found, kinds = [], set()
    for number, line in enumerate(text.split("\n"), start=1):  # not where Unicode ends a line, which JSON does not
        if line.strip():
            try:
                fields = json.loads(line)
                if not isinstance(fields, dict):
                    raise ValueError("is not a JSON object")
                kind = _kind(fields)
                kinds.add(kind)
                found.append(Problem.model_validate({"id": str(number), **kind(fields, separator)}))
            except ValidationError as error:
                raise EvaluationError(f"{path}, line {number}: {problems_of(error)}; mend the line") from error
            except (ValueError, RecursionError) as error:
                raise EvaluationError(f"{path}, line {number}: {error}; mend the line") from error
    if not found:
        raise EvaluationError(f"problems = {str(path)!r}: has no problem; give one JSON object a line")
    return ProblemSet(tuple(found), stop_after_shots=(_NEXT,) if kinds == {_gsm8k} else ())


def _text(path: Path) -> str:
    try:
        data = read_bounded(path, MAX_PROBLEMS_BYTES)
        if data is not None and data[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(data)) as file:
                data = file.read(MAX_PROBLEMS_BYTES + 1)
            data = data if len(data) <= MAX_PROBLEMS_BYTES else None
        text = "" if data is None else data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise EvaluationError(
            f"problems = {str(path)!r}: cannot be read ({error}); give a file of JSON lines"
        ) from error
    if data is None:
        raise EvaluationError(
            f"problems = {str(path)!r}: is larger than {MAX_PROBLEMS_BYTES >> 20} MiB; give a file of JSON lines"
        )
    return text


def _kind(fields: Mapping[str, Any]) -> Callable[[Mapping[str, Any], str], Mapping[str, Any]]:
    if {"question", "answer"} <= fields.keys() and "prompt" not in fields:
        return _gsm8k
    if {"prompt", "test", "entry_point"} <= fields.keys():
        return _human_eval
    return _ours


def _ours(fields: Mapping[str, Any], _separator: str) -> Mapping[str, Any]:
    return fields


def _gsm8k(fields: Mapping[str, Any], separator: str) -> Mapping[str, Any]:
    question, answer = (_string(fields, name) for name in ("question", "answer"))
    _, mark, result = answer.rpartition("####")
    if not mark or _number(result) is None:
        raise ValueError("answer does not end in '#### ' and a number, as GSM8K's do")
    return {
        "prompt": question + separator,
        "answer": result.strip(),
        "number": True,
        "pattern": r"#### *([^\n]*)",
        "solution": answer,
    }


_CODE_ENDS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a function has ended (Chen et al. 2021, arXiv 2107.03374)."""


def _human_eval(fields: Mapping[str, Any], _separator: str) -> Mapping[str, Any]:
    entry = _string(fields, "entry_point")
    if not entry.isidentifier():
        raise ValueError(f"entry_point = {entry!r} is no name of a function")
    named = {"id": _string(fields, "task_id")} if "task_id" in fields else {}
    solution = {"solution": _string(fields, "canonical_solution")} if "canonical_solution" in fields else {}
    tests = f"{_string(fields, 'test')}\n\ncheck({entry})\n"
    return {**named, **solution, "prompt": _string(fields, "prompt"), "tests": tests, "stop": _CODE_ENDS}


def _string(fields: Mapping[str, Any], name: str) -> str:
    if not isinstance(value := fields.get(name), str) or not value.strip():
        what = "empty" if isinstance(value, str) else f"of type {type(value).__name__}, not text"
        raise ValueError(f"{name} is {what}")
    return value


def _task(text: str) -> Mapping[str, Any] | None:
    """A JSON task of BIG-bench, or None."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("examples"), list) else None


def _big_bench(path: Path, task: Mapping[str, Any]) -> ProblemSet:
    """A task as BIG-bench's documentation of its optional fields lays it out."""
    layout = {
        name: task.get(name, default)
        for name, default in (
            ("task_prefix", ""),
            ("example_input_prefix", "\nQ: "),
            ("example_output_prefix", "\nA: "),
            ("choice_prefix", "\n  choice: "),
            ("few_shot_example_separator", "\n"),
        )
    }
    for name, value in layout.items():
        if not isinstance(value, str):
            raise EvaluationError(f"{path}: {name} is of type {type(value).__name__}, not text; mend the file")
    begins = layout["example_input_prefix"]
    stop = (begins.rstrip() if begins.strip() else _NEXT,)
    found = []
    for number, example in enumerate(task["examples"]):
        try:
            if not isinstance(example, dict):
                raise ValueError("is not a JSON object")
            asked, answers = _string(example, "input"), example.get("target")
            if isinstance(scores := example.get("target_scores"), dict) and scores:
                best = max(scores.values())
                answers = [choice for choice, score in scores.items() if score == best]
                if task.get("append_choices_to_input", True):
                    asked += "".join(layout["choice_prefix"] + choice for choice in scores)
            if not answers:
                raise ValueError("has neither target nor target_scores")
            prompt = begins + asked + layout["example_output_prefix"]
            fields = {"id": str(number), "prompt": prompt, "answer": answers, "stop": stop}
            problem = Problem.model_validate(fields)
            assert problem.answer is not None, "given"
            found.append(problem.model_copy(update={"solution": problem.answer[0]}))
        except ValidationError as error:
            raise EvaluationError(f"{path}, example {number}: {problems_of(error)}; mend the file") from error
        except (ValueError, TypeError) as error:
            raise EvaluationError(f"{path}, example {number}: {error}; mend the file") from error
    if not found:
        raise EvaluationError(f"problems = {str(path)!r}: has no example; give a task that has some")
    return ProblemSet(tuple(found), layout["task_prefix"], layout["few_shot_example_separator"])


@dataclass(frozen=True)
class Asking:
    """How a problem is put to the model: after ``shots`` worked ones, the first of ``pool`` that are not the problem
    itself; with a template as a conversation."""

    shots: int = 0
    pool: Sequence[Problem] = ()
    chat: ChatTemplate | None = None


def asked(problems: ProblemSet, asking: Asking) -> tuple[list[Problem], list[str]]:
    """The problems as they are judged, and the text that the model continues for each. EvaluationError for too few
    shots, or ones without a solution."""
    stop = problems.stop_after_shots if asking.shots else ()
    judged = [each.model_copy(update={"stop": (*each.stop, *stop)}) for each in problems.problems]
    return judged, [_shown(each, problems, asking) for each in judged]


def _shown(problem: Problem, problems: ProblemSet, asking: Asking) -> str:
    shots = [shot for shot in asking.pool if shot.prompt != problem.prompt][: asking.shots]
    if len(shots) < asking.shots:
        raise EvaluationError(
            f"shots = {asking.shots}: for problem {problem.id} there are {len(shots)} others to show; give more with "
            "--shots-from, or fewer shots"
        )
    if lacking := next((shot for shot in shots if shot.solution is None), None):
        raise EvaluationError(
            f"shots: problem {lacking.id} has no solution that could be shown; add the field solution, or take another "
            "file with --shots-from"
        )
    if asking.chat is None:
        before = "".join(f"{shot.prompt}{shot.solution}{problems.between}" for shot in shots)
        return problems.opening + before + problem.prompt
    if problem.tests is not None:
        raise EvaluationError(
            f"problem {problem.id}: has tests of a program that goes on from its prompt, and a reply does not; leave "
            "--chat-template out"
        )
    messages = [
        {"role": role, "content": content}
        for shot in shots
        for role, content in (("user", shot.prompt), ("assistant", shot.solution))
    ]
    messages.append({"role": "user", "content": problem.prompt})
    try:
        return asking.chat.prompt(messages, f"problem {problem.id}")
    except BadRecord as error:
        raise EvaluationError(f"{error.problem}; {error.advice}") from error
