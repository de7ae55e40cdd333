"""Rows by number: those of a table of sequences, found again with and without the attempts that it names."""

from __future__ import annotations

import numpy as np
import pytest

from generator import generate_batch, parse_spec
from generator.batch import generate_rows
from tests.generator.golden_specs import SPECS


@pytest.mark.parametrize("name", SPECS)
def test_rows_are_those_of_the_table(name: str) -> None:
    spec = parse_spec(SPECS[name])
    table = generate_batch(spec, 11, 4, 9, backend="reference", threads=1)
    tokens_NT = np.frombuffer(b"".join(table["tokens"].to_pylist()), dtype=spec.token_dtype).reshape(9, -1)
    order = np.array([8, 0, 3, 3, 5])
    attempts_N = table["attempt"].to_numpy()[order]
    assert np.array_equal(generate_rows(spec, 11, 4 + order, backend="reference"), tokens_NT[order])
    assert np.array_equal(generate_rows(spec, 11, 4 + order, attempts_N, backend="reference"), tokens_NT[order])
