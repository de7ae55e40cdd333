"""Seeded schedules of two faults, of every kind that hosts and networks know, over jobs on a site of four workers."""

from __future__ import annotations

import functools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.faults import LASTS
from tests.cluster.hosts import why_not
from tests.cluster.jobs import (
    CORPUS,
    EXPERIMENT,
    FSDP,
    GENERATE,
    PIPELINE,
    TRAIN,
    TRAIN_LIVE,
    undisturbed_corpus,
    undisturbed_datasets,
    undisturbed_training,
)
from tests.cluster.schedule import Job, Schedule, run_schedule
from tests.cluster.site import Site, site_of

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]
JOBS = [GENERATE, TRAIN, FSDP, TRAIN_LIVE, PIPELINE, EXPERIMENT, CORPUS]
KINDS = len(LASTS)
# Each kind of fault begins two schedules, of two jobs; each job has four.
CASES = [pytest.param(JOBS[(seed + seed // KINDS) % len(JOBS)], seed) for seed in range(2 * KINDS)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_of(tmp_path_factory.mktemp("cluster"), ["desk", "w1", "w2", "w3"]) as started:
        yield started


@pytest.fixture(scope="module")
def expected(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Job], Any]:
    """What each job leaves where nothing happens: made without a cluster if it can be as easily."""
    folder = tmp_path_factory.mktemp("undisturbed")

    ways = {
        GENERATE.name: undisturbed_datasets,
        TRAIN.name: undisturbed_training,
        FSDP.name: functools.partial(undisturbed_training, parallel="fsdp"),
        CORPUS.name: undisturbed_corpus,
    }
    known: dict[str, Any] = {}

    def undisturbed(job: Job) -> Any:
        if job.name not in known:
            way = ways.get(job.name)
            there = f"undisturbed-{job.name}"
            known[job.name] = way(folder / there) if way else run_schedule(site, job, Schedule(0, ()), there)[0]
        return known[job.name]

    return undisturbed


@pytest.fixture(scope="module")
def times() -> Iterator[dict[str, list[float]]]:
    """Seconds from a fault until the job went on, by kind; printed at the end (`-s`), for docs/log.md."""
    found: dict[str, list[float]] = defaultdict(list)
    yield found
    for kind, seconds in sorted(found.items()):
        print(f"| {kind} | {len(seconds)} | {statistics.median(seconds):.1f} | {max(seconds):.1f} |")


@pytest.mark.parametrize(("job", "seed"), CASES, ids=lambda value: getattr(value, "name", value))
def test_two_faults_change_nothing(
    site: Site, expected: Callable[[Job], Any], times: dict[str, list[float]], job: Job, seed: int, tmp_path: Path
) -> None:
    undisturbed = expected(job)
    found, course = run_schedule(site, job, Schedule.of(seed, job), tmp_path.name)
    for kind, seconds in course.went_on:
        times[kind].append(seconds)
    assert found == undisturbed
    assert not course.untidy
