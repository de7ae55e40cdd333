"""A training within a range of workers follows the cluster: to more, to fewer before a node goes, past its death."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable

import pytest

from datalake.lake import Lake
from generator import parse_spec
from orchestration.generation.local import generate_here
from orchestration.generation.request import GenerateRequest
from orchestration.runs.view import view_run
from tests.faults.processes import kill_tree
from tests.faults.rows import Seen, global_batches, read_seen
from tests.faults.world import HEAD_CPUS, World
from tests.ray_fixtures import TINY_SPEC, inline_toml
from trainer import load_metrics, parse_config
from trainer.inputs import open_inputs

STEPS, BATCH = 700, 12
CONFIG = {
    "data": [{"dataset": "tiny@1"}],
    "steps": STEPS,
    "batch_sequences": BATCH,
    "checkpoint_every": 20,
    "log_every": 1,
    "precision": "fp32",
    "model": {"depth": 1, "dim": 16, "heads": 2},
}
OTHERS = HEAD_CPUS - 3  # so that the head has room for two workers and what loads their rows, and not for three


def drained(node: subprocess.Popen[str], environment: dict[str, str]) -> None:
    """Do what the hook of a pod does: announce that this node will be gone."""
    command = [sys.executable, "-m", "orchestration.cluster.drain", "--below", str(node.pid)]
    subprocess.run(command, env=environment | {"MORPHOGEN_GRACE_S": "100"}, check=True)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_workers_follow_the_cluster_and_no_row_is_another(site: World) -> None:
    with site.lake("resizing", "s3") as (uri, lake):
        params = lake.params.put("tiny", parse_spec(TINY_SPEC).model_dump(mode="json"))
        generate_here(lake, GenerateRequest(params, 100 * TINY_SPEC["seq_len"], shard_sequences=16))
        (site.folder / "train.toml").write_text(inline_toml(CONFIG))
        site.environment["MORPHOGEN_GROW_AFTER_S"] = "5"
        tenant = occupy(site, OTHERS)
        driver = site.driver(
            "train", str(site.folder / "train.toml"), "--run", "run", "--workers", "2..4", "--lake", uri
        )
        try:
            await_workers(site, driver, lambda seen: seen.world == 2)
            node = site.start_node(3)
            await_workers(site, driver, lambda seen: seen.world == 4)
            drained(node, site.environment)
            await_workers(site, driver, lambda seen: seen.world == 2)
            kill_tree(node.pid)
            node.wait()
            again = site.start_node(3)
            await_workers(site, driver, lambda seen: seen.world == 4)
            kill_tree(again.pid)  # without notice
            again.wait()
            await_workers(site, driver, lambda seen: seen.world == 2)
            assert driver.wait(600) == 0, site.said(driver)
        finally:
            kill_tree(tenant.pid)
            driver.kill()
            driver.wait()
        check(site, lake, site.said(driver))


def occupy(site: World, cpus: int) -> subprocess.Popen[str]:
    """Another job that keeps ``cpus`` of the head busy, there once this returns."""
    program = (
        "import ray, sys, time\n"
        "ray.init(address='auto', log_to_driver=False)\n"
        f"held = ray.util.placement_group([{{'CPU': {cpus}}}])\n"
        "ray.get(held.ready())\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    tenant = subprocess.Popen(
        [sys.executable, "-c", program], env=site.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert tenant.stdout is not None
    assert tenant.stdout.readline() == "held\n"
    return tenant


def await_workers(site: World, driver: subprocess.Popen[str], condition: Callable[[Seen], bool]) -> None:
    """Until a step after those there are was taken by workers that meet ``condition``."""
    before = set(read_seen(site.rows))
    deadline = time.monotonic() + 600
    while not any(condition(seen) for seen in read_seen(site.rows) if seen not in before):
        assert time.monotonic() < deadline, site.said(driver)
        assert driver.poll() is None, site.said(driver)
        time.sleep(0.3)


def check(site: World, lake: Lake, said: str) -> None:
    plan = open_inputs(parse_config(CONFIG), lake).plan
    seen = read_seen(site.rows)
    assert global_batches(seen) == {
        (plan.digest, step): list(map(tuple, plan.rows(step).tolist())) for step in range(STEPS)
    }
    assert [row["step"] for row in load_metrics(lake, "run") if "loss" in row] == list(range(1, STEPS + 1))
    faults = [fault["kind"] for fault in view_run(lake, "run")["faults"]]
    assert faults == ["preempted", "worker_lost"]
    assert "there is room for 4" in said
    assert "of their nodes will be taken away" in said
    # What a notice or a wish for more ended has lost no step: nothing but the death made steps again.
    made = {(each.step, each.pid) for each in seen if each.rank == 0}
    again = [step for step, count in Counter(step for step, _ in made).items() if count > 1]
    assert len(again) <= CONFIG["checkpoint_every"] + 1
