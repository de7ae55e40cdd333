"""Hosts fail while they generate and train: each job ends by itself or by one resume, with equal results."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.faults import LASTS, Fault
from tests.cluster.hosts import why_not
from tests.cluster.jobs import GENERATE, TRAIN, undisturbed_datasets, undisturbed_training
from tests.cluster.schedule import Schedule, run_schedule
from tests.cluster.site import Site, site_of

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_of(tmp_path_factory.mktemp("cluster"), ["w1", "w2"]) as started:
        yield started


def of(seed: int, **levels: int) -> Schedule:
    return Schedule(
        seed,
        tuple(Fault(kind.replace("_", " "), level, LASTS[kind.replace("_", " ")]) for kind, level in levels.items()),
    )


def test_a_host_goes_and_the_store_is_away_while_it_generates(site: Site, tmp_path) -> None:
    expected = undisturbed_datasets(tmp_path)
    found, course = run_schedule(site, GENERATE, of(1, worker_gone=5, store_away=20), "generate")
    assert found == expected
    assert not course.untidy


def test_a_training_host_is_rebooted(site: Site, tmp_path) -> None:
    expected = undisturbed_training(tmp_path)
    found, course = run_schedule(site, TRAIN, of(2, worker_rebooted=6), "train")
    assert found == expected
    assert not course.untidy
