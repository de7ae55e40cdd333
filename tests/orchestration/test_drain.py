"""The hook of a pod that is about to be killed: drivers below it are asked to stop, and only they."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from ray._private.ray_constants import AGENT_PROCESS_TYPE_DASHBOARD_AGENT, AGENT_PROCESS_TYPE_RUNTIME_ENV_AGENT

from orchestration.cluster.drain import is_driver, is_working, main, node_of

DRIVER = """
import signal, sys, time
def stop(*_):
    print("checkpointed", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_driver_ends_by_itself_and_a_neighbour_is_left_alone(tmp_path):
    package = tmp_path / "orchestration"
    package.mkdir()
    (package / "__main__.py").write_text(DRIVER)
    start = {"cwd": tmp_path, "stdout": subprocess.PIPE, "text": True, "env": {**os.environ, "PYTHONPATH": ""}}
    driver = subprocess.Popen([sys.executable, "-m", "orchestration", "train", "x.toml"], **start)
    neighbour = subprocess.Popen([sys.executable, "-c", DRIVER], **start)
    try:
        assert [process.stdout.readline() for process in (driver, neighbour)] == ["ready\n", "ready\n"]
        assert main(["--below", str(os.getpid())]) == 0
        assert driver.stdout.read() == "checkpointed\n"
        assert neighbour.poll() is None
    finally:
        for process in (driver, neighbour):
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("command", "ours"),
    [
        (["python", "-m", "orchestration", "generate", "code@1"], True),
        (["/usr/bin/python3.11", "/usr/local/bin/morphogen", "train", "x.toml"], True),
        (["morphogen", "runs", "list"], True),
        (["/bin/sh", "-c", "python -m orchestration generate code@1"], False),
        (["python", "-m", "orchestration.cluster.drain"], False),
        (["python", "-m", "http.server"], False),
        (["ls", "/data", "morphogen"], False),
        ([], False),
    ],
)
def test_which_processes_are_drivers(command, ours):
    assert is_driver(command) == ours


@pytest.mark.parametrize(
    ("command", "busy"),
    [
        (["ray::IDLE"], False),
        ([AGENT_PROCESS_TYPE_DASHBOARD_AGENT], False),
        ([AGENT_PROCESS_TYPE_RUNTIME_ENV_AGENT], False),
        (["ray::_AutoscalingCoordinatorActor"], False),
        (["ray::RayTrainWorker"], True),
        (["raylet"], False),
        ([], False),
    ],
)
def test_which_workers_are_busy(command, busy):
    assert is_working(command) == busy


@pytest.mark.parametrize(
    ("command", "node"),
    [
        (["/ray/raylet", "--node_id=ab12", "--gcs-address=10.0.0.1:6379", "--labels="], ("ab12", "10.0.0.1:6379")),
        (["/ray/raylet", "--node_id=ab12", "--gcs-address=10.0.0.1:6379", "--head"], None),
        (["/ray/raylet", "--gcs-address=10.0.0.1:6379"], None),
        (["ray::ShardWorker", "--node_id=ab12", "--gcs-address=10.0.0.1:6379"], None),
        ([], None),
    ],
)
def test_a_worker_nodes_raylet_says_which_node_it_is(command, node):
    assert node_of(command) == node
