"""How many workers: what is understood, what is refused, and which numbers of a range share the batch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.errors import InvalidRequestError
from orchestration.training.worker_range import MOST, WorkerRange, parse_workers
from trainer import parse_config


def config(batch: int, micro_batches: int = 1):
    return parse_config(
        {
            "model": {"depth": 1, "dim": 16, "heads": 2},
            "data": [{"dataset": "tiny@1"}],
            "steps": 1,
            "batch_sequences": batch,
            "micro_batches": micro_batches,
        }
    )


@given(st.integers(1, MOST), st.integers(1, MOST))
def test_what_a_record_has_is_read_as_it_was_written(one: int, other: int) -> None:
    low, high = sorted((one, other))
    written = WorkerRange(low, high)
    assert WorkerRange.parse(written.setting) == written
    assert parse_workers(written.setting) == (low if low == high else written)


def test_none_is_left_to_the_cluster() -> None:
    assert parse_workers(None) is None


@pytest.mark.parametrize(
    "text",
    ["", "0", "0..4", "4..2", "-1", "2..", "..8", "2...8", "2-8", "two", "1e3", "2..8..9", " 2", "٣", "9" * 5000],
)
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="expected a number of workers such as 4, or a range"):
        parse_workers(text)


@given(st.integers(1, 64), st.integers(1, 20), st.integers(1, 20))
def test_the_numbers_are_those_that_divide_the_batch(batch: int, one: int, other: int) -> None:
    low, high = sorted((one, other))
    expected = [count for count in range(low, high + 1) if batch % count == 0]
    workers = WorkerRange(low, high)
    if expected:
        assert workers.counts(config(batch)) == expected
    else:
        with pytest.raises(InvalidRequestError, match="use a number of workers that divides the global batch"):
            workers.counts(config(batch))


def test_each_worker_has_a_row_for_every_micro_batch() -> None:
    assert WorkerRange(1, 12).counts(config(12, micro_batches=4)) == [1, 2, 3]
