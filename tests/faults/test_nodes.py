"""Nodes that come and go while shards are made: the pool grows and shrinks with them, and no byte is another."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import pytest

from datalake.errors import NotFoundError
from datalake.lake import Lake
from orchestration.runs.view import view_run
from tests.faults.processes import kill_tree
from tests.faults.schedule import SHARD, SPEC
from tests.faults.world import HEAD_CPUS, World

SHARDS = 160
CPUS_PER_ACTOR = HEAD_CPUS // 2


def generate(site: World, lake: Lake, *options: str) -> subprocess.Popen[str]:
    lake.params.put("tiny", SPEC)
    tokens = str(SHARDS * SHARD * SPEC["seq_len"])
    fixed = ["--tokens", tokens, "--shard-sequences", str(SHARD), "--backend", "reference", "--run", "run"]
    return site.driver("generate", "tiny@1", *fixed, "--lake", lake.uri, *options)


def actors_now(lake: Lake) -> int:
    """Actors of the pool as the run's heartbeat names them, 0 if it names none yet."""
    try:
        note = (view_run(lake, "run")["progress"] or {}).get("note", "")
    except NotFoundError:
        return 0
    return int(note.rpartition(", ")[2].split()[0]) if "actors" in note else 0


def wait_for(driver: subprocess.Popen[str], condition: Callable[[], bool], within: float = 120.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.2)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_pool_follows_the_cluster(site: World) -> None:
    with site.lake("moving", "s3") as (_, lake):
        driver = generate(site, lake, "--cpus-per-actor", str(CPUS_PER_ACTOR))
        wait_for(driver, lambda: actors_now(lake) == 2)
        node = site.start_node(CPUS_PER_ACTOR)
        wait_for(driver, lambda: actors_now(lake) == 3)
        kill_tree(node.pid)
        node.wait()
        wait_for(driver, lambda: actors_now(lake) == 2)
        assert driver.wait(300) == 0, site.said(driver)
        kinds = [fault["kind"] for fault in view_run(lake, "run")["faults"]]
        assert "actor_lost" in kinds, "the node took its actor along"
        moving = lake.datasets.get("tiny@1").digest
    with site.lake("still", "s3") as (_, lake):
        driver = generate(site, lake, "--actors", "2")
        assert driver.wait(300) == 0, site.said(driver)
        assert lake.datasets.get("tiny@1").digest == moving
