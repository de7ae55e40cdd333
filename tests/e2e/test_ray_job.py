"""The same command under `ray job submit`, with the working directory as the README shows it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from datalake import Lake
from generator import parse_spec
from tests.ray_fixtures import ROOT, TINY_SPEC


def submit(dashboard: str, *command: str, within: float = 120.0) -> subprocess.CompletedProcess[str]:
    """`ray job submit`, again while the cluster that has just started has no agent yet and asks for that."""
    deadline = time.monotonic() + within
    while True:
        submitted = subprocess.run(
            [
                str(Path(sys.executable).with_name("ray")),
                *("job", "submit", "--address", dashboard, "--working-dir", "."),
                *("--", *command),
            ],
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": ""},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        if "No available agent to submit job" not in submitted.stderr or time.monotonic() > deadline:
            return submitted
        time.sleep(1)


def test_generate_as_a_submitted_job(ray_cluster, tmp_path):
    lake = Lake.open(str(tmp_path / "lake"))
    lake.params.put("tiny", parse_spec(TINY_SPEC).model_dump(mode="json"))
    command = [sys.executable, "-m", "orchestration", "generate", "tiny@1", "--tokens", "20000", "--json"]
    # Ray tells a job to join the newest cluster of its machine, which under xdist may be another process's.
    environment = ["env", f"MORPHOGEN_LAKE={tmp_path / 'lake'}", f"RAY_ADDRESS={ray_cluster.address}"]
    submitted = submit(ray_cluster.dashboard, *environment, *command)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    printed = submitted.stdout[submitted.stdout.index("{\n") : submitted.stdout.rindex("}") + 1]
    assert json.loads(printed)["dataset"] == "tiny@1"
    assert lake.datasets.get("tiny@1").tokens == 20096
