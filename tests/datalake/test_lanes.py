"""The order by lanes: pure, exact and elastic as version 1 is, and each rank of any world reads its share alone."""

from __future__ import annotations

import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake.errors import PlanError
from datalake.plan.lanes import default_lanes, floor_sum
from datalake.plan.plan import Plan, PlanSource

BATCH, LANES = 48, 16
SIZES = (1000, 37, 5000)


def by_place(plan: Plan, batches: int) -> np.ndarray:
    """The rows of a plan over one source in the order of their places: int64 [batches * batch]."""
    assert plan.lanes is not None
    rows = plan.step_range(range(batches))[..., 1]
    return rows.reshape(batches, plan.lanes, -1).transpose(0, 2, 1).ravel()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10**6), st.integers(0, 10**6), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10**7))))
def test_floor_sums(modulus: int, step: int, cases: list[tuple[int, int]]) -> None:
    counts, starts = (np.array([case[at] for case in cases], dtype=np.int64) for at in (0, 1))
    expected = [sum((step * t + start) // modulus for t in range(count)) for count, start in cases]
    assert floor_sum(counts, modulus, step, starts).tolist() == expected


@pytest.mark.parametrize(
    ("rows", "batch", "lanes", "blocks"),
    [(1000, 48, 16, (16, 2)), (37, 24, 12, (8, 1)), (5000, 48, 48, (64, 1)), (5, 8, 8, (4, 2)), (777, 10, 1, (32, 4))],
)
def test_every_row_once_in_an_epoch(rows: int, batch: int, lanes: int, blocks: tuple[int, int]) -> None:
    plan = Plan([PlanSource(rows)], 3, batch, block_rows=blocks[0], window_blocks=blocks[1], lanes=lanes)
    order = by_place(plan, -(-4 * rows // batch))
    epochs = [order[epoch * rows : (epoch + 1) * rows].tolist() for epoch in range(4)]
    assert all(sorted(epoch) == list(range(rows)) for epoch in epochs)
    if rows < 100:
        return  # so few rows may come in one order twice
    assert all(a != b for a, b in pairwise(epochs))
    assert epochs[0] != by_place(Plan([PlanSource(rows)], 4, batch, lanes=lanes), 5 * rows)[:rows].tolist()


@settings(max_examples=25, deadline=None)
@given(
    weights=st.lists(st.floats(0.05, 20), min_size=1, max_size=3),
    lanes=st.sampled_from([1, 3, 16, 48]),
    change=st.integers(1, 60),
    seed=st.integers(0, 2**63 - 1),
)
def test_mixtures_are_met_in_every_batch_and_every_lane(
    weights: list[float], lanes: int, change: int, seed: int
) -> None:
    sources = [PlanSource(size, weight) for size, weight in zip(SIZES, weights, strict=False)]
    plan = Plan(sources, seed, BATCH, [(change, weights[::-1])], block_rows=16, window_blocks=2, lanes=lanes)
    steps = 2 * change + 10
    rows = plan.step_range(range(steps))
    for step in {0, 1, change - 1, change, change + 1, steps - 1}:
        assert np.array_equal(plan.rows(step), rows[step]), "any step by itself"
    of_each = np.stack([(rows[..., 0] == source).sum(axis=1) for source in range(len(sources))], axis=1)
    for step in (0, change, steps):
        read = [at.epoch * source.rows + at.row for at, source in zip(plan.position(step), sources, strict=True)]
        assert read == of_each[:step].sum(axis=0).tolist()
    for first, stop, parts in ((0, change, weights), (change, steps, weights[::-1])):
        share = np.array(parts) / sum(parts) * BATCH
        assert np.all(np.abs(of_each[first:stop] - share) < 1 + 1e-3)
        of_lanes = (rows[first:stop, :, 0].reshape(stop - first, lanes, -1, 1) == np.arange(len(sources))).sum(axis=2)
        expected = np.arange(1, stop - first + 1)[:, None] * share / lanes
        assert np.abs(of_lanes.cumsum(axis=0) - expected[:, None]).max() < 4
    for source in range(len(sources)):  # as often as each other, but for what lanes are ahead and behind
        times = np.bincount(rows[rows[..., 0] == source][:, 1], minlength=sources[source].rows)
        assert times.max() - times.min() <= 2 + 10 * lanes // sources[source].rows


@settings(max_examples=30, deadline=None)
@given(world=st.integers(1, 60), step=st.integers(0, 10**12), lanes=st.sampled_from([1, 6, 48]))
def test_ranks_make_the_batch_and_the_world_does_not_matter(world: int, step: int, lanes: int) -> None:
    plan = Plan([PlanSource(1000, 1), PlanSource(300, 2)], 3, BATCH, lanes=lanes)
    steps = range(step, step + 3)
    parts = [plan.rank_step_range(steps, world, rank).reshape(3, -1, 2) for rank in range(world)]
    assert np.array_equal(np.concatenate(parts, axis=1), plan.step_range(steps))


def test_a_rank_reads_its_share_of_the_blocks_and_a_batch_reads_from_many() -> None:
    """One block of 32 rows is of one lane, or of two where their stretches meet; a lane has one at hand at a time."""
    rows, batch, lanes, block = 32 * 1024, 64, 64, 32
    plan = Plan([PlanSource(rows)], 1, batch, block_rows=block, window_blocks=1, lanes=lanes)
    order = plan.step_range(range(rows // batch))[..., 1] // block
    assert [len(np.unique(blocks)) for blocks in order] == [batch] * len(order), "no two rows of a batch from one block"
    for world in (1, 4, 16, 64):
        fetched = sum(
            len(np.unique(order[:, rank * batch // world : (rank + 1) * batch // world])) for rank in range(world)
        )
        assert fetched <= 1.01 * rows / block
    for lane in order.T:
        changes = 1 + np.count_nonzero(np.diff(lane))
        assert changes <= rows / block / lanes + 1, "a block is read to its end, but for the one where the epoch began"


def test_places_are_uniform_over_seeds() -> None:
    """Where a row comes in an epoch, and which rows a batch has: within 5 sigma of uniform."""
    rows, batch, seeds = 1024, 32, 300
    plans = [Plan([PlanSource(rows)], seed, batch, block_rows=16, window_blocks=2, lanes=8) for seed in range(seeds)]
    orders = np.stack([by_place(plan, rows // batch) for plan in plans])
    places = orders.argsort(axis=1)
    for row in (0, 1, 500, rows - 1):
        counts = np.bincount(places[:, row] * 8 // rows, minlength=8)
        assert ((counts - seeds / 8) ** 2 / (seeds / 8)).sum() < 7 + 5 * np.sqrt(14)
    firsts = np.bincount(orders[:, :batch].ravel() // 128, minlength=8)
    expected = seeds * batch / 8
    assert ((firsts - expected) ** 2 / expected).sum() < 7 + 5 * np.sqrt(14)
    steps = np.abs(np.diff(orders, axis=1)).mean()
    assert abs(steps - rows / 3) < rows * 0.02
    assert abs(np.corrcoef(orders[0], orders[1])[0, 1]) < 5 / np.sqrt(rows)


def test_the_version_and_the_lanes_are_part_of_the_digest() -> None:
    arguments = ([PlanSource(500, 2, "a"), PlanSource(77, 1, "b")], 11, 24, [(30, (1, 1))])
    before, plan = Plan(*arguments), Plan(*arguments, lanes=8)
    assert (before.describe()["algorithm"], plan.describe()["algorithm"]) == (1, 2)
    assert "lanes" not in before.describe()
    assert len({before.digest, plan.digest, Plan(*arguments, lanes=12).digest}) == 3
    again = pickle.loads(pickle.dumps(plan))  # noqa: S301 - our own bytes
    assert again == plan
    assert np.array_equal(again.rows(77), plan.rows(77))


def test_the_order_is_the_same_on_every_machine() -> None:
    """Fixed values: a change here is a change of every recorded run's data order."""
    plan = Plan([PlanSource(1000, 3), PlanSource(50, 1)], seed=5, batch=6, lanes=3)
    assert plan.rows(123).tolist() == ROWS_123


@pytest.mark.parametrize("changes", [{"lanes": 0}, {"lanes": 5}, {"lanes": 24}, {"lanes": 12, "batch": 0}])
def test_what_makes_no_plan(changes: dict[str, Any]) -> None:
    with pytest.raises(PlanError) as caught:
        Plan([PlanSource(50)], **{"seed": 1, "batch": 12, **changes})
    assert "\n" not in str(caught.value)


def test_steps_out_of_range() -> None:
    plan = Plan([PlanSource(50)], 1, 12, lanes=12)
    for call in (lambda: plan.rows(-1), lambda: plan.position(-1), lambda: plan.step_range(range(2, 2))):
        with pytest.raises(PlanError):
            call()


def test_default_lanes() -> None:
    assert [default_lanes(batch) for batch in (1, 32, 1024, 1030, 2048, 3000, 1009, 2018)] == [
        *(1, 32, 1024, 515, 1024, 1000, 1009, 1009)
    ]


ROWS_123 = [[0, 678], [1, 12], [0, 274], [0, 293], [0, 770], [0, 953]]
