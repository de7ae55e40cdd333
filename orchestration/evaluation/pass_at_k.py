"""pass@k of our own model on problems from a local file (`problems`): sample, judge, estimate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from orchestration.corpus.tokenizers import TextTokenizer
from orchestration.errors import EvaluationError
from orchestration.evaluation.problems import Problem, split_tests
from orchestration.evaluation.sandbox import Limits, run_tests
from orchestration.evaluation.sandbox_check import protection, require_confinement
from trainer import Llama
from trainer.pass_at_k import pass_at_k
from trainer.precision import Precision
from trainer.sample import sample

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn; all of it together with the model fixes each of them."""

    samples: int
    temperature: float = 0.8
    new_tokens: int = 256
    seed: int = 0


def prompts_of(
    problems: Sequence[Problem],
    texts: Sequence[str],
    tokenizer: TextTokenizer,
    context: int,
    ks: Sequence[int],
    sampling: Sampling,
    limits: Limits | None,
) -> list[list[int]]:
    """What is shown for each problem (``texts``) as tokens, once all is known to fit; EvaluationError otherwise.

    A prompt begins after an end-of-text token, as texts do in our corpora, and must leave room in ``context`` (tokens
    that the model was trained on at once). Without ``limits`` problems with ``tests`` are refused: they would run what
    the model wrote; with them, this machine must be able to confine programs (`sandbox_check`).
    """
    _check(problems, ks, sampling, limits)
    prompts = [
        [tokenizer.end_of_text, *tokenizer.encode([text.encode(errors="replace")])[0].tolist()] for text in texts
    ]
    for problem, prompt in zip(problems, prompts, strict=True):
        if len(prompt) >= context:
            raise EvaluationError(
                f"problem {problem.id}: its prompt has {len(prompt)} tokens, the model saw {context} at once; "
                "leave the problem out, show fewer shots, or take a model of longer sequences"
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
    return problem.answered(completion)


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
