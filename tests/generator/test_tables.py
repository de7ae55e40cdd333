"""The literal tables are the quantiles they say they are."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from generator import parse_spec
from generator.nca.lattice import Lattice
from generator.tables import COLOR_Q, WEIGHT_Q

NORMAL = NormalDist()
MIDDLES = [(k + 0.5) / 256 for k in range(256)]


def test_weights_are_quantiles_of_the_truncated_normal():
    low, high = NORMAL.cdf(-2), NORMAL.cdf(2)
    assert WEIGHT_Q.tolist() == [round(31.5 * NORMAL.inv_cdf(low + p * (high - low))) for p in MIDDLES]


def test_color_weights_are_exponentials_of_normal_quantiles():
    assert COLOR_Q.tolist() == [round(65536 * math.exp(NORMAL.inv_cdf(p))) for p in MIDDLES]


def test_gumbel_table_is_the_gumbel_quantile_in_lattice_logits():
    lattice = Lattice.of(parse_spec({"temperature": 0.5}))
    middles = (np.arange(4096) + 0.5) / 4096
    exact = 0.5 * -np.log(-np.log(middles)) / float(lattice.logit_unit)
    assert np.abs(lattice.gumbel - exact).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("grid", [(12, 12), (8, 8, 8)])
@pytest.mark.parametrize("embed", [1, 4, 17, 64])
@pytest.mark.parametrize("wrap", [False, True])
def test_shifts_keep_the_neighbourhood_sum_in_int16(grid, embed, wrap):
    spec = parse_spec({"grid": grid, "colors": 4 if len(grid) == 2 else 3, "embed": embed, "compat": wrap})
    lattice = Lattice.of(spec)
    entry = 62 * 62 * embed * (1 + wrap) + (1 << lattice.table_shift >> 1) >> lattice.table_shift
    assert lattice.neighbors * entry + (1 << lattice.hidden_shift >> 1) <= 32767
