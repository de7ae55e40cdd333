"""The level a synthetic task must be learned below: counting token by token, as a few plain lines have it."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trainer.gate import MASSES, counting_losses, least_loss

ROWS = st.tuples(st.integers(1, 4), st.integers(2, 30))


@settings(deadline=None)
@given(hnp.arrays(np.uint16, ROWS, elements=st.integers(0, 6)), st.data())
def test_counting_predicts_by_what_came_before(tokens_BT: np.ndarray, data: st.DataObject) -> None:
    length = tokens_BT.shape[1]
    counted_T = data.draw(hnp.arrays(bool, length - 1).filter(np.any))
    found = counting_losses(tokens_BT, counted_T, 7)
    for row_T, losses_M in zip(tokens_BT, found, strict=True):
        for mass, loss in zip(MASSES, losses_M, strict=True):
            costs, seen = [], Counter([int(row_T[0])])
            for place in range(1, length):
                token = int(row_T[place])
                if counted_T[place - 1]:
                    costs.append(-math.log((seen[token] + mass / 7) / (place + mass)))
                seen[token] += 1
            assert loss == pytest.approx(math.fsum(costs) / len(costs), rel=1e-12)


def test_who_counts_pays_the_uniform_price_for_what_is_uniform_and_little_for_what_repeats() -> None:
    random_BT = np.random.default_rng(0).integers(0, 64, (64, 48))
    every_T = np.ones(47, dtype=bool)
    uniform = least_loss(counting_losses(random_BT, every_T, 64).sum(axis=0).tolist(), 64)
    assert uniform == pytest.approx(math.log(64), rel=2e-3)
    same = least_loss(counting_losses(np.zeros((4, 48), dtype=int), every_T, 64).sum(axis=0).tolist(), 4)
    assert same < 0.1
