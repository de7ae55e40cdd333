"""The schedule of a live run, under any order of events: within the bound, in the plan's order, never stuck."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake import Manifest, Plan, PlanSource
from orchestration.errors import InvalidRequestError
from orchestration.live.schedule import Schedule, steps_per_task
from tests.datalake.helpers import make_source

SEQ_LEN = 4
TOKEN_BYTES = 2


def plan_of(sequences: int, shard: int) -> Manifest:
    return Manifest.computed(
        source=make_source(shard_sequences=shard), sequences=sequences, seq_len=SEQ_LEN, vocab_size=10
    )


@st.composite
def live_runs(draw):
    sequences, shard = draw(st.integers(1, 60)), draw(st.sampled_from([1, 4, 8, 50]))
    sources = [PlanSource(sequences)] + ([PlanSource(30, 0.5)] if draw(st.booleans()) else [])
    batch = draw(st.integers(1, 9))
    lanes = draw(st.sampled_from([None, *(number for number in range(1, batch + 1) if batch % number == 0)]))
    plan = Plan(sources, draw(st.integers(0, 5)), batch, block_rows=8, window_blocks=2, lanes=lanes)
    planned = plan_of(sequences, shard)
    rows = draw(st.integers(1, 6)) * max(shard, plan.batch) * plan.batch
    return plan, planned, draw(st.integers(1, 20)), rows * SEQ_LEN * TOKEN_BYTES


@settings(max_examples=40, deadline=None)
@given(run=live_runs(), data=st.data())
def test_any_order_of_events_stays_within_the_bound_and_ends(run, data):
    plan, planned, steps, half = run
    try:
        block = steps_per_task(plan, planned, half, half, TOKEN_BYTES)
    except InvalidRequestError:
        return
    schedule: Schedule[str] = Schedule(plan, 0, planned, steps, half)
    shard = planned.source.shard_sequences
    start = data.draw(st.integers(0, steps - 1))
    schedule.begin(start)
    making, taken, ordered, restarts = [], start, [], 0
    needs = [{int(row) // shard * shard for source, row in plan.rows(step) if source == 0} for step in range(steps)]

    def can_take():
        return set().union(*needs[taken : taken + block]) <= schedule.made

    while not schedule.complete or taken < steps:
        order = schedule.next()
        if order is not None:
            assert order.first not in ordered, "nothing is made twice"
            assert order.step is None or order.step >= start
            ordered.append(order.first)
            making.append(order)
        assert schedule.ahead_bytes <= schedule.held_bytes <= half
        moves = ["make"] * bool(making) + ["take"] * (taken < steps and can_take()) + ["restart"] * (restarts < 2)
        assert order is not None or len(moves) > (restarts < 2), "the run is stuck"
        move = data.draw(st.sampled_from(moves)) if moves else None
        if move == "make":
            done = making.pop(data.draw(st.integers(0, len(making) - 1)))
            schedule.fill(done, f"shard {done.first}")
            assert done.step is None or schedule.payload(done.first) == f"shard {done.first}"
        elif move == "take":
            taken = min(taken + block, steps)
            schedule.take(taken)
        elif move == "restart":
            restarts += 1
            taken = start = data.draw(st.integers(0, taken))
            schedule.begin(start)
    assert sorted(ordered) == list(range(0, planned.sequences, shard))


def test_shards_are_made_in_the_order_in_which_the_plan_first_uses_them():
    planned = plan_of(1000, 32)
    plan = Plan([PlanSource(1000)], 3, 10, block_rows=32, window_blocks=4)
    schedule: Schedule[str] = Schedule(plan, 0, planned, 100, 1 << 30)
    schedule.begin(0)
    orders = [schedule.next() for _ in range(32)]
    used = list(dict.fromkeys(int(row) // 32 * 32 for step in range(100) for _, row in plan.rows(step)))
    assert [order.first for order in orders] == used
    assert schedule.next() is None
    for order in orders:
        assert (plan.rows(order.step)[:, 1] // 32 * 32 == order.first).any()


def test_an_idle_trainer_stops_the_making_at_the_bound_and_a_step_taken_lets_it_go_on():
    planned, shard_bytes = plan_of(1000, 10), 10 * SEQ_LEN * TOKEN_BYTES
    plan = Plan([PlanSource(1000)], 3, 2, block_rows=10, window_blocks=1)
    schedule: Schedule[str] = Schedule(plan, 0, planned, 500, 7 * shard_bytes)
    schedule.begin(0)
    made = []
    while (order := schedule.next()) is not None:
        schedule.fill(order, "rows")
        made.append(order)
    assert len(made) == 7
    assert schedule.held_bytes == 7 * shard_bytes
    schedule.take(made[1].step + 1)
    after = schedule.next()
    assert after is not None
    assert schedule.payload(made[0].first) is None, "used and let go: the lake has it"
    assert schedule.payload(made[2].first) == "rows", "not used yet"


def test_a_buffer_too_small_for_one_step_is_refused_with_what_would_do():
    planned = plan_of(10_000, 256)
    plan = Plan([PlanSource(10_000)], 0, 8)
    with pytest.raises(InvalidRequestError, match=r"buffer_bytes = 2000: .* give at least 32768"):
        steps_per_task(plan, planned, 1000, 1000, TOKEN_BYTES)
    assert steps_per_task(plan, planned, 16384, 16384, TOKEN_BYTES) == 1
