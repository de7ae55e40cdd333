"""Grade-school problems made here: answers that are exact, held-out ones that no training file holds, same bytes."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.cli import main
from orchestration.corpus.word_problems import problems, write_problems
from orchestration.errors import CorpusError
from orchestration.evaluation.problems import read_problems


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(1, 6), st.integers(2, 1000), st.integers(0, 2**40))
def test_every_step_is_right_and_leads_to_the_answer(seed: int, operations: int, largest: int, first: int) -> None:
    made = list(problems(seed, operations, largest, first, 8))
    assert made[3:] == list(problems(seed, operations, largest, first + 3, 5)), "a function of the index"
    for problem in made:
        *steps, last = problem.answer.splitlines()
        computation, before = "", None
        for step in steps:
            left, sign, right, equals, result = step.split()
            a, b, c = int(left), int(right), int(result)
            assert equals == "="
            assert before in (None, a)
            assert c == {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[sign]
            assert sign != "/" or a % b == 0
            assert 0 <= c <= largest
            computation = f"{computation or left}{sign}{right}"
            before = c
        assert problem.computation == computation
        assert 1 <= len(steps) <= operations
        assert last == f"#### {before}"
        assert re.findall(r"\d+", problem.question) == re.findall(r"\d+", computation)


def test_no_held_out_computation_is_trained_on_whatever_the_seed() -> None:
    sides: dict[str, set[bool]] = {}
    for seed in range(4):
        for problem in problems(seed, 2, 12, 0, 2000):
            sides.setdefault(problem.computation, set()).add(problem.held_out)
    assert all(len(found) == 1 for found in sides.values())
    share = sum(True in found for found in sides.values()) / len(sides)
    assert 0.05 < share < 0.15


def test_files_are_the_same_bytes_and_grow_at_the_end(tmp_path: Path) -> None:
    made = write_problems(tmp_path / "a", 300, 40, seed=7)
    assert (made.train_problems, made.heldout_problems) == (300, 40)
    again = write_problems(tmp_path / "a", 300, 40, seed=7)
    assert again == made
    larger = write_problems(tmp_path / "b", 400, 40, seed=7)
    assert larger.train.read_bytes().startswith(made.train.read_bytes())
    assert larger.heldout.read_bytes() == made.heldout.read_bytes()
    assert hashlib.sha256(made.train.read_bytes()).hexdigest() == (
        "1b19e8caf7d0e49386c4b091f3e7f6851d0a4d9cbf9a711a4c7628006ce1a038"
    ), "problems are a function of the seed for ever"
    texts = [json.loads(line)["question"] for path in (made.train, made.heldout) for line in path.open()]
    assert len(set(texts)) == 340
    with pytest.raises(CorpusError, match="is there with other problems"):
        write_problems(tmp_path / "a", 301, 40, seed=7)


def test_they_are_read_as_gsm8k_s_are(tmp_path: Path) -> None:
    made = write_problems(tmp_path, 20, 10)
    for problem in read_problems(made.heldout).problems:
        assert problem.answered(f"{problem.solution}\n")
        assert not problem.answered(problem.solution.replace("#### ", "#### 9"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--train", 0], "train = 0: allowed is 1 to"),
        (["--heldout", -1], "heldout = -1: allowed is 1 to"),
        (["--operations", 7], "operations = 7: allowed is 1 to 6"),
        (["--largest", 1], "largest = 1: allowed is 2 to"),
        (["--seed", -1], "seed = -1: allowed is 0 to"),
        (["--train", 20000, "--heldout", 1, "--operations", 1, "--largest", 2], "different ones; ask for fewer"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, capsys, monkeypatch, options: list, says: str) -> None:
    monkeypatch.setattr("orchestration.corpus.word_problems._DRAWS_FOR_ONE", 1)
    with pytest.raises(SystemExit) as ended:
        main(["corpus", "arithmetic", str(tmp_path / "out"), *map(str, options)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line
    assert not (tmp_path / "out").exists()
