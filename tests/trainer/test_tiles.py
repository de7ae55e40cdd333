"""Softmax of a vector of queries is float64's to some units in the last place."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from trainer import tiles
from trainer.tiles import QUERIES
from trainer.vectors import LANES

_run_weigh: Any = tiles.weigh_columns


@numba.njit(nogil=True)
def _weigh(work: np.ndarray, rows: int, found: int) -> None:
    _run_weigh(work, 0, rows, found)


@pytest.mark.parametrize(("largest", "units"), [(1.0, 1.5), (10.0, 2.0), (39.0, 2.5), (87.0, 5.0)])
def test_weights_are_exp_to_a_few_units_in_the_last_place(largest: float, units: float) -> None:
    rows = 4000
    scores = np.full((rows, QUERIES), np.nan, np.float32)
    scores[:, :LANES] = -np.random.default_rng(1).uniform(0, largest, (rows, LANES))
    scores[-1, :LANES] = -100.0
    scores[-2, :LANES] = -np.inf
    work = np.concatenate([scores.ravel(), np.zeros(2 * QUERIES, np.float32)])
    _weigh(work, rows, rows * QUERIES)
    found = work[: rows * QUERIES].reshape(rows, QUERIES)[:, :LANES]
    exact = np.exp(scores[:-2, :LANES].astype(np.float64))
    assert np.all(np.abs(found[:-2] - exact) <= units * np.spacing(exact.astype(np.float32)))
    assert not found[-2:].any()
    inverses = work[(rows + 1) * QUERIES :][:LANES]
    np.testing.assert_allclose(inverses, 1 / exact.sum(axis=0), rtol=3e-6)
