"""pass@k of our own model on problems from a local file: sample, judge, estimate.

A problems file has one JSON object a line. ``prompt`` is what the model continues. ``tests`` is Python that uses what
prompt and completion define and must come to its end, run in a process of its own (`sandbox_sides`; lines at its
beginning that are no Python by themselves, such as a closing quote, end the program instead); or ``answer`` is
what the completion must equal once surrounding white space is taken off, or, with ``pattern`` (a regular expression
with one group), what the group's last match must equal. A completion is cut before the first of the ``stop`` strings.
``id`` names the problem.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from generator.regular_files import read_bounded
from generator.toml_files import problems_of
from orchestration.corpus.tokenizers import TextTokenizer
from orchestration.errors import EvaluationError
from orchestration.evaluation.sandbox import Limits, run_tests
from orchestration.evaluation.sandbox_check import protection, require_confinement
from trainer import Llama
from trainer.pass_at_k import pass_at_k
from trainer.precision import Precision
from trainer.sample import sample

Advance = Callable[[int], None]


class Problem(BaseModel):
    """One line of a problems file; see the module's docstring."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = ""
    prompt: str
    tests: str | None = None
    answer: str | None = None
    pattern: str | None = None
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()

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
        return self

    def cut(self, completion: str) -> str:
        """The completion up to the first of the stop strings."""
        ends = [at for text in self.stop if (at := completion.find(text)) >= 0]
        return completion[: min(ends, default=len(completion))]


MAX_PROBLEMS_BYTES = 64 << 20


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn; all of it together with the model fixes each of them."""

    samples: int
    temperature: float = 0.8
    new_tokens: int = 256
    seed: int = 0


def read_problems(path: Path) -> list[Problem]:
    """The problems of a JSON-lines file; EvaluationError naming the line that is not one."""
    try:
        data = read_bounded(path, MAX_PROBLEMS_BYTES)
        text = "" if data is None else data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(
            f"problems = {str(path)!r}: cannot be read ({error}); give a file of JSON lines"
        ) from error
    if data is None:
        raise EvaluationError(
            f"problems = {str(path)!r}: is larger than {MAX_PROBLEMS_BYTES >> 20} MiB; give a file of JSON lines"
        )
    problems = []
    for number, line in enumerate(text.split("\n"), start=1):  # not where Unicode ends a line, which JSON does not
        if line.strip():
            try:
                fields = json.loads(line)
                if not isinstance(fields, dict):
                    raise ValueError("is not a JSON object")
                problems.append(Problem.model_validate({"id": str(number), **fields}))
            except ValidationError as error:
                raise EvaluationError(f"{path}, line {number}: {problems_of(error)}; mend the line") from error
            except (ValueError, RecursionError) as error:
                raise EvaluationError(f"{path}, line {number}: {error}; mend the line") from error
    if not problems:
        raise EvaluationError(f"problems = {str(path)!r}: has no problem; give one JSON object a line")
    return problems


def prompts_of(
    problems: Sequence[Problem],
    tokenizer: TextTokenizer,
    context: int,
    ks: Sequence[int],
    sampling: Sampling,
    limits: Limits | None,
) -> list[list[int]]:
    """Each problem's prompt as tokens, once all is known to fit; EvaluationError otherwise.

    A prompt begins after an end-of-text token, as texts do in our corpora, and must leave room in ``context`` (tokens
    that the model was trained on at once). Without ``limits`` problems with ``tests`` are refused: they would run what
    the model wrote; with them, this machine must be able to confine programs (`sandbox_check`).
    """
    _check(problems, ks, sampling, limits)
    prompts = [[tokenizer.end_of_text, *tokenizer.encode([each.prompt.encode()])[0].tolist()] for each in problems]
    for problem, prompt in zip(problems, prompts, strict=True):
        if len(prompt) >= context:
            raise EvaluationError(
                f"problem {problem.id}: its prompt has {len(prompt)} tokens, the model saw {context} at once; "
                "leave the problem out or take a model of longer sequences"
            )
    return prompts


def measure(
    model: Llama,
    tokenizer: TextTokenizer,
    context: int,
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    ks: Sequence[int],
    sampling: Sampling,
    *,
    precision: Precision = "fp32",
    limits: Limits | None = None,
    advance: Advance = lambda _done: None,
) -> dict[str, Any]:
    """pass@k for each of ``ks``: the mean over problems, and per problem how many of its samples were right.

    ``prompts`` are those of ``prompts_of``. ``limits`` bound the programs that problems with ``tests`` make.
    ``advance`` is told how many problems are done.
    """
    counts: list[int] = []
    for done, (problem, prompt) in enumerate(zip(problems, prompts, strict=True), start=1):
        completions = [
            problem.cut(_text(tokenizer, tokens))
            for tokens in sample(
                model,
                prompt,
                count=sampling.samples,
                new_tokens=min(sampling.new_tokens, context - len(prompt)),
                temperature=sampling.temperature,
                seed=sampling.seed,
                vocab_size=tokenizer.vocab_size,
                end=tokenizer.end_of_text,
                precision=precision,
                finished=_stopper(problem, tokenizer),
            )
        ]
        judged = {completion: judge(problem, completion, limits) for completion in set(completions)}
        counts.append(sum(judged[completion] for completion in completions))
        advance(done)
    result: dict[str, Any] = {**asdict(sampling), "precision": precision}
    if limits is not None:
        held = protection()
        result["code"] = {"seconds": limits.seconds, "memory_mib": limits.memory_mib}
        result["code"] |= {name: getattr(held, name) for name in ("network", "reads_files", "writes_files")}
        result["sandbox"] = {"unsafe_sandbox": limits.unsafe_sandbox, "programs_can": held.possible()}
    for k in ks:
        each = [pass_at_k(sampling.samples, correct, k) for correct in counts]
        result[f"pass@{k}"] = float(sum(each, Fraction(0)) / len(each))
    result["problems"] = [
        {"id": problem.id, "correct": correct} for problem, correct in zip(problems, counts, strict=True)
    ]
    return result


def judge(problem: Problem, completion: str, limits: Limits | None) -> bool:
    """Whether a completion, cut already, solves the problem."""
    if problem.tests is not None:
        assert limits is not None, "refused before sampling"
        end, tests = split_tests(problem.tests)
        return run_tests(f"{problem.prompt}{completion}\n{end}", tests, limits, given=problem.prompt).finished
    assert problem.answer is not None, "held by Problem"
    found = completion
    if problem.pattern is not None:
        matches = re.findall(problem.pattern, completion)
        if not matches:
            return False
        found = matches[-1]
    return found.strip() == problem.answer.strip()


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


def _check(problems: Sequence[Problem], ks: Sequence[int], sampling: Sampling, limits: Limits | None) -> None:
    if not ks or min(ks) < 1 or max(ks) > sampling.samples:
        raise EvaluationError(
            f"pass-at = {','.join(map(str, ks))}: every k must lie in 1 to samples = {sampling.samples}; "
            "draw more samples or lower k"
        )
    if sampling.temperature < 0 or sampling.new_tokens < 1:
        raise EvaluationError(
            f"temperature = {sampling.temperature}, max-tokens = {sampling.new_tokens}: must be at least 0 and 1"
        )
    if limits is None and (code := [problem.id for problem in problems if problem.tests is not None]):
        raise EvaluationError(
            f"problem {code[0]}: has tests, so what the model writes would be run on this machine; "
            "if that is meant, add --allow-code"
        )
    if limits is not None and any(problem.tests is not None for problem in problems):
        require_confinement(unsafe=limits.unsafe_sandbox)


def _text(tokenizer: TextTokenizer, tokens: Sequence[int]) -> str:
    return b"".join(tokenizer.decode(np.array(tokens, dtype=np.int64))).decode(errors="replace")


def _stopper(problem: Problem, tokenizer: TextTokenizer) -> Callable[[list[int]], bool]:
    """Sampling need not go on once a stop string is there."""
    if not problem.stop:
        return lambda _tokens: False
    return lambda tokens: any(text in _text(tokenizer, tokens) for text in problem.stop)
