"""Seeded schedules of two faults, of every kind that hosts and networks know, over jobs on a site of four workers."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import why_not
from tests.cluster.jobs import FSDP, GENERATE, TRAIN, undisturbed_datasets, undisturbed_training
from tests.cluster.schedule import Job, Schedule, run_schedule
from tests.cluster.site import Site, site_of

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]
SEEDS = range(13)  # each kind of fault begins one schedule of each job


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_of(tmp_path_factory.mktemp("cluster"), ["desk", "w1", "w2", "w3"]) as started:
        yield started


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each job leaves where nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return {
        GENERATE.name: undisturbed_datasets(folder),
        TRAIN.name: undisturbed_training(folder),
        FSDP.name: undisturbed_training(folder, "fsdp"),
    }


@pytest.fixture(scope="module")
def times() -> Iterator[dict[str, list[float]]]:
    """Seconds from a fault until the job went on, by kind; printed at the end (`-s`), for docs/log.md."""
    found: dict[str, list[float]] = defaultdict(list)
    yield found
    for kind, seconds in sorted(found.items()):
        print(f"| {kind} | {len(seconds)} | {statistics.median(seconds):.1f} | {max(seconds):.1f} |")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("job", [GENERATE, TRAIN, FSDP], ids=lambda job: job.name)
def test_two_faults_change_nothing(
    site: Site, expected: dict[str, Any], times: dict[str, list[float]], job: Job, seed: int, tmp_path: Path
) -> None:
    found, course = run_schedule(site, job, Schedule.of(seed, job), tmp_path.name)
    for kind, seconds in course.went_on:
        times[kind].append(seconds)
    assert found == expected[job.name]
    assert not course.untidy
