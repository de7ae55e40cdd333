"""Jobs on a cluster that grows: what asks for more than there is waits, says for what, and runs once a node is there.

The autoscaler is Ray's own, with its provider of nodes that are processes of this machine. Ray's test helper for it,
``AutoscalingCluster``, is not used: it begins and ends with ``ray stop --force``, which ends every Ray of the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from datalake.lake import Lake
from generator import parse_spec
from tests.faults.processes import kill_tree
from tests.ray_fixtures import ROOT, TINY_SPEC, free_port, toml_of
from tests.trainer.lake_data import tiny_lake

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

NODE_CPUS = 4
ATTEMPTS = 6
# Every two seconds and not every thirty: the nodes of this cluster are there within some ten.
SOON = "import orchestration.cluster.resources as r; r.NOTICE_S = 2.0; from orchestration.cli import main; main()"


@contextmanager
def growing_cluster(folder: Path, idle_minutes: float = 30) -> Iterator[dict[str, str]]:
    """A head with one CPU and an autoscaler that may start two nodes of four; yields the environment of its drivers."""
    address = f"127.0.0.1:{free_port()}"
    kinds = {
        "head": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": NODE_CPUS}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    }
    config = {
        "cluster_name": "growing",
        "max_workers": 2,
        "upscaling_speed": 100,
        "idle_timeout_minutes": idle_minutes,
        "provider": {"type": "fake_multinode", "gcs_address": address, "use_node_id_as_ip": True},
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "available_node_types": {"ray.head.default": kinds["head"], "worker": kinds["worker"]},
        "head_node_type": "ray.head.default",
    }
    path = folder / "autoscaler.json"  # JSON is YAML
    path.write_text(json.dumps(config))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=1"]
    command += ["--node-ip-address=127.0.0.1", f"--port={address.rpartition(':')[2]}"]
    command += ["--include-dashboard=false", f"--autoscaling-config={path}", f"--temp-dir={folder / 'r'}"]
    head = started(folder, command, environment)
    try:
        yield {**environment, "RAY_ADDRESS": address}
    finally:
        kill_tree(head.pid)
        head.wait()


def started(folder: Path, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """The head, once it is up: on a busy machine it may take longer than Ray gives itself."""
    log = folder / "head.log"
    for _ in range(ATTEMPTS):
        with log.open("w") as out:
            head = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT)
        while head.poll() is None:
            if "Ray runtime started" in log.read_text():
                return head
            time.sleep(0.5)
    raise RuntimeError(f"Ray did not start in {ATTEMPTS} attempts: {log.read_text()}")


def run(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    """Run one command to its end; returns what it said on standard error."""
    command = [sys.executable, "-c", SOON, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_what_asks_for_more_than_there_is_waits_says_for_what_and_runs(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("g")  # short: the paths of Ray's sockets have a limit
    lake = tiny_lake(folder / "lake")
    lake.params.put("tiny", parse_spec(TINY_SPEC).model_dump(mode="json"))
    config = {"model": {"depth": 1, "dim": 16, "heads": 2}, "steps": 4, "batch_sequences": 12}
    (folder / "train.toml").write_text(toml_of(config) + '[[data]]\ndataset = "train@1"\n')
    with growing_cluster(folder) as environment:
        common = ("--lake", lake.uri)
        said = run(folder, environment, "generate", "tiny@1", "--tokens=4096", f"--cpus-per-actor={NODE_CPUS}", *common)
        waits = [line for line in said.splitlines() if line.startswith("waiting for ")]
        assert f"for {NODE_CPUS} CPUs on one node (cpus_per_actor = {NODE_CPUS}): the cluster has 1 CPU" in waits[0]
        assert lake.datasets.get("tiny").tokens >= 4096
        said = run(folder, environment, "train", "train.toml", "--workers=6", "--run=r", *common)
        waits = [line for line in said.splitlines() if line.startswith("waiting for ")]
        assert "for 7.5 CPUs (workers = 6): the cluster has 5 CPUs and no GPU on 2 nodes" in waits[0]
    assert lake.runs.get("r").status == "finished"


def test_generation_asks_for_what_it_can_use_and_the_cluster_shrinks_again(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("s")
    lake = Lake.open(str(folder / "lake"))
    spec = TINY_SPEC | {"burn_in": 150}
    lake.params.put("tiny", parse_spec(spec).model_dump(mode="json"))
    tokens = f"--tokens={400 * 32 * spec['seq_len']}"
    with growing_cluster(folder, idle_minutes=0.1) as environment:
        sizes = [live_nodes(environment)]
        command = ["generate", "tiny@1", tokens, "--shard-sequences=32", "--backend=reference", "--lake", lake.uri]
        log = folder / "driver.log"
        with log.open("w") as out:
            driver = subprocess.Popen(
                [sys.executable, "-m", "orchestration", *command],
                cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        while driver.poll() is None:
            sizes.append(live_nodes(environment))
            time.sleep(0.5)
        assert driver.returncode == 0, log.read_text()
        assert (sizes[0], max(sizes)) == (1, 3)
        deadline = time.monotonic() + 300
        while live_nodes(environment) != 1:
            assert time.monotonic() < deadline, "the nodes stay though nothing is done on them"
    assert lake.datasets.get("tiny").tokens == 400 * 32 * spec["seq_len"]


def live_nodes(environment: dict[str, str]) -> int:
    """Nodes that Ray has now; looked for in another process, since a process is of one cluster."""
    program = (
        "import sys\nfrom ray._raylet import GcsClient\n"
        "print(sum(node.state == 0 for node in GcsClient(address=sys.argv[1]).get_all_node_info().values()))"
    )
    command = [sys.executable, "-c", program, environment["RAY_ADDRESS"]]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
