"""The plan: every row once per epoch, pure, the same for every world size and from every starting step."""

from __future__ import annotations

import pickle
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake.errors import PlanError
from datalake.plan.mixture import CYCLE, Mixture, bit_reversed
from datalake.plan.permutation import derive_key, permute
from datalake.plan.plan import Plan, PlanSource


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**63 - 1))
def test_permute_is_a_permutation(size: int, seed: int) -> None:
    image = permute(np.arange(size), size, derive_key(seed))
    assert np.array_equal(np.sort(image), np.arange(size))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2**50), st.integers(0, 2**63 - 1)), min_size=1, max_size=50))
def test_permute_is_elementwise(cases: list[tuple[int, int]]) -> None:
    sizes = np.array([size for size, _ in cases])
    keys = np.array([seed for _, seed in cases], dtype=np.uint64)
    together = permute(sizes // 2, sizes, keys)
    assert np.all((together >= 0) & (together < sizes))
    assert together.tolist() == [int(permute(s // 2, s, k)[0]) for s, k in zip(sizes, keys, strict=True)]


@pytest.mark.parametrize("size", [97, 1000, 4096])
def test_permutations_look_random(size: int) -> None:
    """Where a place goes is uniform over seeds, neighbours part, and few places stay: within 5 sigma each."""
    images = np.stack([permute(np.arange(size), size, derive_key(seed)) for seed in range(400)])
    for place in (0, 1, size // 2, size - 1):
        counts = np.bincount(images[:, place] * 10 // size, minlength=10)
        expected = np.bincount(np.arange(size) * 10 // size, minlength=10) / size * 400
        assert ((counts - expected) ** 2 / expected).sum() < 9 + 5 * np.sqrt(18)
    fixed = (images == np.arange(size)).sum()
    assert abs(fixed - 400) < 5 * np.sqrt(400)
    step = np.abs(np.diff(images, axis=1)).mean()
    assert abs(step - size / 3) < size * 0.01
    correlation = np.corrcoef(images[0], images[1])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(size)


def test_the_order_is_the_same_on_every_machine() -> None:
    """Fixed values: a change here is a change of every recorded run's data order."""
    assert permute(np.arange(8), 8, derive_key(1)).tolist() == PERMUTE_8
    plan = Plan([PlanSource(1000, 3), PlanSource(50, 1)], seed=5, batch=6)
    assert plan.rows(123).tolist() == ROWS_123


def one_epoch(plan: Plan, source: int, epoch: int) -> list[int]:
    """Rows of one source's epoch in the order of reading (single-source plans)."""
    size = plan.sources[source].rows
    first, last = epoch * size, (epoch + 1) * size
    steps = range(first // plan.batch, -(-last // plan.batch))
    read = plan.step_range(steps)[:, :, 1].ravel()
    return read[first - steps[0] * plan.batch :][:size].tolist()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 700),
    st.integers(0, 2**63 - 1),
    st.integers(1, 40),
    st.integers(1, 64),
    st.integers(1, 8),
    st.integers(0, 3),
)
def test_every_row_once_per_epoch(size: int, seed: int, batch: int, block: int, window: int, epoch: int) -> None:
    plan = Plan([PlanSource(size)], seed, batch, block_rows=block, window_blocks=window)
    assert sorted(one_epoch(plan, 0, epoch)) == list(range(size))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.floats(0.05, 10)), min_size=2, max_size=4),
    st.integers(0, 2**63 - 1),
    st.integers(2, 33),
    st.booleans(),
)
def test_mixtures_read_each_source_in_whole_epochs(
    sources: list[tuple[int, float]], seed: int, batch: int, scheduled: bool
) -> None:
    """Over a change of weights too: a source's rows, in steps' order, run through its epochs without gap or repeat."""
    schedule = [(17, [1.0] * len(sources)), (40, [1.0 + i for i in range(len(sources))])] if scheduled else []
    plan = Plan([PlanSource(rows, weight) for rows, weight in sources], seed, batch, schedule, block_rows=8)
    steps = 64
    batches = plan.step_range(range(steps))
    assert (batches.shape, batches.dtype) == ((steps, batch, 2), np.int64)
    read = batches.reshape(-1, 2)
    for index, (size, _) in enumerate(sources):
        seen = read[read[:, 0] == index, 1]
        counts = Counter(seen.tolist())
        epochs, rest = plan.position(steps)[index]
        assert len(seen) == epochs * size + rest
        assert set(counts.values()) <= {epochs, epochs + 1}
        assert sum(count == epochs + 1 for count in counts.values()) == rest or epochs == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 70), st.integers(1, 9))
def test_rank_slices_make_the_global_batch(step: int, batch: int, world: int) -> None:
    plan = Plan([PlanSource(1000, 1), PlanSource(300, 2)], 3, batch)
    parts = [plan.rank_rows(step, world, rank) for rank in range(world)]
    assert np.array_equal(np.concatenate(parts), plan.rows(step))
    assert max(map(len, parts)) - min(map(len, parts)) <= (batch % world != 0), "equal steps, if the world divides"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 400), st.integers(1, 16), st.integers(1, 30), st.integers(1, 4))
def test_a_stretch_is_its_steps_one_by_one(first: int, steps: int, batch: int, world: int) -> None:
    """Across epochs, a change of weights, and a source that is not read at first."""
    sources = [PlanSource(37, 3), PlanSource(11, 1), PlanSource(5, 0)]
    plan = Plan(sources, seed=9, batch=batch, schedule=[(first + steps // 2 + 1, [1, 1, 1])], block_rows=4)
    step_range = range(first, first + steps)
    assert plan.step_range(step_range).tolist() == [plan.rows(step).tolist() for step in step_range]
    for rank in range(world):
        parts = [plan.rank_rows(step, world, rank).tolist() for step in step_range]
        assert plan.rank_step_range(step_range, world, rank).tolist() == [row for part in parts for row in part]


@pytest.mark.parametrize("steps", [range(0), range(4, 2), range(0, 10, 2)])
def test_what_is_no_stretch(steps: range) -> None:
    with pytest.raises(PlanError, match="one after the other"):
        Plan([PlanSource(10, 1)], seed=0, batch=2).step_range(steps)


def test_any_step_at_once_equals_reading_from_the_start() -> None:
    arguments = ([PlanSource(500, 2, "a"), PlanSource(77, 1, "b")], 11, 24, [(30, (1, 1))])
    read = [Plan(*arguments).rows(0)]
    plan = Plan(*arguments)
    read = [plan.rows(step) for step in range(80)]
    for step in (79, 3, 30, 29, 31, 0):
        assert np.array_equal(Plan(*arguments).rows(step), read[step])
    again = pickle.loads(pickle.dumps(plan))  # noqa: S301 - our own bytes
    assert again == plan
    assert again.digest == plan.digest
    assert np.array_equal(again.rows(41), read[41])
    far = plan.rows(10**12)
    assert far.shape == (24, 2)
    assert far[:, 1].min() >= 0
    assert np.all(far[:, 1] < np.array([500, 77])[far[:, 0]])


def test_epochs_and_seeds_differ_and_the_short_block_moves() -> None:
    plan = Plan([PlanSource(1000)], 1, 50, block_rows=64, window_blocks=2)
    epochs = [one_epoch(plan, 0, epoch) for epoch in range(6)]
    assert all(a != b for a, b in pairwise(epochs))
    assert one_epoch(Plan([PlanSource(1000)], 2, 50, block_rows=64, window_blocks=2), 0, 0) != epochs[0]
    tails = [tuple(sorted(epoch[-40:])) for epoch in epochs]
    assert len(set(tails)) == 6


def test_reading_is_local() -> None:
    """Within a window only its own blocks are touched: 2 blocks, of which one may wrap round the end of the rows."""
    plan = Plan([PlanSource(64 * 40)], 1, 128, block_rows=64, window_blocks=2)
    for step in range(20):
        rows = np.sort(plan.rows(step)[:, 1])
        assert 1 + np.count_nonzero(np.diff(rows) > 1) <= 3


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(1, 300))
def test_mixture_counts(weights: list[float], batch: int) -> None:
    try:
        mixture = Mixture(weights, batch)
    except PlanError:
        assert min(weights) / sum(weights) * batch * CYCLE < 1
        return
    counts = np.stack([mixture.counts(t) for t in range(CYCLE)])
    share = np.array(weights) / sum(weights) * batch
    assert np.all(counts.sum(axis=1) == batch)
    assert np.all(np.abs(counts - share) < 1 + 1 / CYCLE)
    assert np.array_equal(counts.sum(axis=0), mixture.quotas)
    assert np.all(np.abs(mixture.quotas - share * CYCLE) <= 1 + 1e-6)
    for t in (0, 1, 500, CYCLE - 1, CYCLE, 3 * CYCLE + 7):
        cycles, place = divmod(t, CYCLE)
        assert np.array_equal(mixture.before(t), cycles * mixture.quotas + counts[:place].sum(axis=0))


def test_bit_reversed_order() -> None:
    assert bit_reversed(3).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]


def test_a_source_of_weight_zero_waits_for_the_schedule() -> None:
    plan = Plan([PlanSource(100, 1), PlanSource(100, 0)], 1, 10, [(5, (0, 1))])
    assert {int(s) for step in range(5) for s in plan.rows(step)[:, 0]} == {0}
    assert {int(s) for step in range(5, 9) for s in plan.rows(step)[:, 0]} == {1}
    assert plan.position(7) == ((0, 50), (0, 20))


@pytest.mark.parametrize(
    ("sources", "changes"),
    [
        ([], {}),
        ([PlanSource(0)], {}),
        ([PlanSource(5)], {"batch": 0}),
        ([PlanSource(5)], {"seed": -1}),
        ([PlanSource(5, -1.0)], {}),
        ([PlanSource(5, float("nan"))], {}),
        ([PlanSource(5, 1.0), PlanSource(5, 1e-9)], {}),
        ([PlanSource(5)], {"schedule": [(0, [1.0])]}),
        ([PlanSource(5)], {"schedule": [(3, [1.0, 2.0])]}),
        ([PlanSource(5)], {"block_rows": 0}),
    ],
)
def test_what_makes_no_plan(sources: list[PlanSource], changes: dict) -> None:
    with pytest.raises(PlanError) as caught:
        Plan(sources, **{"seed": 1, "batch": 4, **changes})
    assert "\n" not in str(caught.value)


def test_steps_and_ranks_out_of_range() -> None:
    plan = Plan([PlanSource(5)], 1, 4)
    for call in (lambda: plan.rows(-1), lambda: plan.rank_rows(0, 2, 2), lambda: plan.rank_rows(0, 2, -1)):
        with pytest.raises(PlanError):
            call()


PERMUTE_8 = [5, 1, 3, 6, 4, 7, 2, 0]
ROWS_123 = [[1, 8], [1, 46], [0, 68], [0, 547], [0, 445], [0, 529]]
