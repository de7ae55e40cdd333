"""The same command under `ray job submit`, with the working directory as the README shows it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from datalake import Lake
from generator import parse_spec
from tests.ray_fixtures import ROOT, TINY_SPEC


def test_generate_as_a_submitted_job(ray_cluster, tmp_path):
    lake = Lake.open(str(tmp_path / "lake"))
    lake.params.put("tiny", parse_spec(TINY_SPEC).model_dump(mode="json"))
    command = [sys.executable, "-m", "orchestration", "generate", "tiny@1", "--tokens", "20000", "--json"]
    submitted = subprocess.run(
        [
            str(Path(sys.executable).with_name("ray")),
            *("job", "submit", "--address", ray_cluster.dashboard, "--working-dir", "."),
            *("--", "env", f"MORPHOGEN_LAKE={tmp_path / 'lake'}", *command),
        ],
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    printed = submitted.stdout[submitted.stdout.index("{\n") : submitted.stdout.rindex("}") + 1]
    assert json.loads(printed)["dataset"] == "tiny@1"
    assert lake.datasets.get("tiny@1").tokens == 20096
