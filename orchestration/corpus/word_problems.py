"""Grade-school arithmetic with exact answers: problem i is a pure function of (seed, operations, largest, i).

Someone has a number of things, and a few things happen. The answer works it out step by step and ends in the line
``#### n``, in the layout of GSM8K (arXiv 2110.14168). What is held out goes by a hash of the computation alone: the
same numbers under the same operations are always on the same side, whatever the story, seed and sizes. So the chain of
steps of a held-out problem is that of no problem of any training file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from generator import philox
from orchestration.errors import CorpusError

HELDOUT_SHARE = 0.1
MOST_OPERATIONS = 6
MOST_PROBLEMS = 10_000_000
_BLOCK = 4096
_DRAWS_FOR_ONE = 200
"""So many draws in vain, for each problem that is wanted, say that there are no more."""

_NAMES = (
    "Ada",
    "Ben",
    "Cleo",
    "Dora",
    "Emil",
    "Fay",
    "Gus",
    "Hana",
    "Ivo",
    "June",
    "Kai",
    "Lena",
    "Max",
    "Nora",
    "Otto",
)
_THINGS = (
    "apples",
    "books",
    "cards",
    "coins",
    "eggs",
    "flowers",
    "keys",
    "marbles",
    "pens",
    "shells",
    "stamps",
    "toys",
)
_MORE = ("{name} finds {n} more.", "{name} buys {n} more.", "A friend brings {n} more.")
_LESS = ("{name} gives {n} away.", "{name} loses {n}.", "{name} sells {n}.")
_TIMES = ("By the next week there are {n} times as many.", "Then {name} has {n} times as many.")
_SHARE = (
    "{name} splits them into {n} equal parts and keeps one.",
    "{n} friends, {name} one of them, share them evenly.",
)
_WORDS = 3  # a step is drawn with: kind, number, sentence


@dataclass(frozen=True)
class WordProblem:
    """A problem, its answer step by step, and the computation that it is of."""

    question: str
    answer: str
    computation: str

    @property
    def held_out(self) -> bool:
        digest = hashlib.sha256(self.computation.encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 < HELDOUT_SHARE


def problems(seed: int, operations: int, largest: int, first: int, count: int) -> Iterator[WordProblem]:
    """Problems ``first`` … ``first + count - 1``, each of 1 to ``operations`` steps, no number above ``largest``."""
    ids = np.arange(first, first + count)
    words = philox.words(seed, philox.SYMBOLS, ids, np.zeros(count, dtype=np.int64), 4 + _WORDS * operations)
    for row in words.tolist():
        yield _problem(row, operations, largest)


def _problem(words: list[int], operations: int, largest: int) -> WordProblem:
    name, things = _of(_NAMES, words[0]), _of(_THINGS, words[1])
    value = 1 + _below(words[2], largest)
    said, steps, computation = [f"{name} has {value} {things}."], [], str(value)
    for at in range(1 + _below(words[3], operations)):
        kind, amount, wording = words[4 + _WORDS * at : 4 + _WORDS * (at + 1)]
        sentences, sign, n = _step(value, largest, kind, amount)
        result = {"+": value + n, "-": value - n, "*": value * n, "/": value // n}[sign]
        said.append(_of(sentences, wording).format(name=name, n=n))
        steps.append(f"{value} {sign} {n} = {result}")
        computation += f"{sign}{n}"
        value = result
    said.append(f"How many {things} does {name} have now?")
    return WordProblem(" ".join(said), "\n".join([*steps, f"#### {value}"]), computation)


def _step(value: int, largest: int, kind: int, amount: int) -> tuple[tuple[str, ...], str, int]:
    """What may happen to ``value`` things, with the number that it happens with: sentences, sign, number."""
    factors = [n for n in (2, 3, 4, 5) if 0 < value * n <= largest]
    divisors = [n for n in (2, 3, 4, 5) if value and value % n == 0]
    possible = [name for name, holds in (("+", value < largest), ("-", value > 0)) if holds]
    possible += ["*"] * bool(factors) + ["/"] * bool(divisors)
    sign = possible[_below(kind, len(possible))]
    if sign == "+":
        return _MORE, sign, 1 + _below(amount, largest - value)
    if sign == "-":
        return _LESS, sign, 1 + _below(amount, value)
    numbers, sentences = (factors, _TIMES) if sign == "*" else (divisors, _SHARE)
    return sentences, sign, numbers[_below(amount, len(numbers))]


def _below(word: int, bound: int) -> int:
    return int(philox.below(np.array([word], dtype=np.uint32), bound)[0])


def _of(choices: tuple[str, ...], word: int) -> str:
    return choices[_below(word, len(choices))]


@dataclass(frozen=True)
class WrittenProblems:
    """The files, and how many problems each has."""

    train: Path
    heldout: Path
    train_problems: int
    heldout_problems: int


def write_problems(
    folder: Path, train: int, heldout: int, *, seed: int = 0, operations: int = 3, largest: int = 100
) -> WrittenProblems:
    """Write ``train.jsonl`` and ``heldout.jsonl``, objects of "question" and "answer", no problem twice in a file.

    The first ``train`` problems of one side and the first ``heldout`` of the other, in order: asking for more adds to
    the end. Raises CorpusError for numbers out of range, for more problems than there are, and for files that are there
    with other content.
    """
    for field, value, least, most in (
        ("train", train, 1, MOST_PROBLEMS),
        ("heldout", heldout, 1, MOST_PROBLEMS),
        ("seed", seed, 0, (1 << 63) - 1),
        ("operations", operations, 1, MOST_OPERATIONS),
        ("largest", largest, 2, 1_000_000),
    ):
        if not least <= value <= most:
            raise CorpusError(f"{field} = {value}: allowed is {least} to {most}; choose another")
    wanted = {"heldout": heldout, "train": train}
    found: dict[str, dict[str, str]] = {side: {} for side in wanted}
    first, enough = 0, _DRAWS_FOR_ONE * (train + heldout / HELDOUT_SHARE) + _BLOCK
    while lacking := [side for side, count in wanted.items() if len(found[side]) < count]:
        if first >= enough:
            (side, *_) = lacking
            raise CorpusError(
                f"{side} = {wanted[side]}: among {first:,} problems of {operations} operations up to {largest} there "
                f"are {len(found[side])} different ones; ask for fewer, or raise operations or largest"
            )
        for problem in problems(seed, operations, largest, first, _BLOCK):
            side = "heldout" if problem.held_out else "train"
            if len(found[side]) < wanted[side]:
                found[side].setdefault(problem.question, problem.answer)
        first += _BLOCK
    paths = {}
    for side, pairs in found.items():
        lines = [json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in pairs.items()]
        paths[side] = folder / f"{side}.jsonl"
        _write(paths[side], "".join(lines).encode())
    return WrittenProblems(paths["train"], paths["heldout"], train, heldout)


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if path.read_bytes() != data:
                raise CorpusError(f"folder: {path} is there with other problems; name another folder")
            return
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        raise CorpusError(f"folder: {path} cannot be written ({error.strerror}); name another folder") from error
