"""Pull any plug of a pipeline, twice and more: datasets, rows, losses and model are those of an undisturbed one."""

from __future__ import annotations

import pytest

from tests.faults.schedule import STEPS, Outcome, Schedule, run_schedule
from tests.faults.world import World, can_mount

SOAK_SEEDS = range(100, 130)
# An actor killed and a worker killed: two to three minutes, by itself for who changes the drivers.
QUICK = Schedule(344, "s3", Schedule.of(344).faults[:2])


@pytest.fixture(scope="module")
def undisturbed(site: World) -> Outcome:
    outcome, job = run_schedule(site, Schedule(0, "s3", ()), "undisturbed")
    assert job.reruns == 0
    assert [step for step, _ in outcome.losses] == list(range(1, STEPS + 1))
    assert [step for _, step in sorted(outcome.batches)] == list(range(STEPS))
    return outcome


def check(site: World, schedule: Schedule, undisturbed: Outcome) -> None:
    print(schedule)
    if schedule.store == "disk" and not can_mount():
        pytest.skip("a small disk needs the right to mount one")
    outcome, job = run_schedule(site, schedule, f"seed-{schedule.seed}")
    print(f"started again {job.reruns} times")
    assert not job.said_no, "a driver that is told to stop ends within its grace"
    assert not job.untidy, "a driver that ends by itself says why in one line"
    assert outcome.datasets == undisturbed.datasets
    assert outcome.batches == undisturbed.batches
    assert outcome.losses == undisturbed.losses
    assert outcome.model == undisturbed.model


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_schedule_of_two_faults_changes_nothing(site: World, undisturbed: Outcome) -> None:
    check(site, QUICK, undisturbed)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SOAK_SEEDS)
def test_thirty_schedules_change_nothing(site: World, undisturbed: Outcome, seed: int) -> None:
    check(site, Schedule.of(seed), undisturbed)
