"""The demo at toy size, and killed twice and run again: it ends with the datasets that an undisturbed one has."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datalake import Lake, lineage
from orchestration.pipeline.demo import TOY, _corpus, _generate, _register, run_demo
from tests.ray_fixtures import ROOT

PROGRAM = """
import sys
from pathlib import Path
from datalake import Lake
from orchestration.pipeline.demo import TOY, run_demo
from orchestration.cluster.session import ray_session
with ray_session():
    run_demo(Lake.open(sys.argv[1]), TOY, Path(sys.argv[2]))
"""


def kill_when(pattern: str, lake: Path, report: Path, address: str) -> None:
    """Run the toy demo as a process and SIGKILL it as soon as the lake holds an object that matches `pattern`."""
    environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(lake), str(report)], cwd=ROOT, env=environment)
    try:
        while not list(lake.glob(pattern)):  # the test's own limit ends a wait for what does not come
            assert process.poll() is None, "the demo ended before it could be killed"
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def dataset_digests(lake: Lake) -> dict[str, str]:
    return {version.ref: version.digest for version in lake.datasets.list()}


@pytest.mark.soak  # three trainings start: a minute each where two cores have other work, too
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("killed", [False, True], ids=["whole", "killed twice"])
def test_it_ends_with_the_same_datasets_and_a_report(ray_cluster, tmp_path, killed):
    folder, report = tmp_path / "lake", tmp_path / "report.html"
    if killed:
        kill_when("data/*/*.parquet", folder, report, ray_cluster.address)
        kill_when("checkpoints/*/*/*", folder, report, ray_cluster.address)
        assert not report.exists()

    lake = Lake.open(str(folder))
    outcome = run_demo(lake, TOY, report)
    params = lake.params.get("code@1")
    if killed:
        fresh = Lake.open(str(tmp_path / "fresh"))
        _register(fresh, TOY.spec)
        _generate(fresh, TOY, params, "code", seed=0, sequences=TOY.tokens // 256)
        _generate(fresh, TOY, params, "code-heldout", seed=1, sequences=TOY.gate_sequences)
        _corpus(fresh, TOY)
        assert dataset_digests(lake) == dataset_digests(fresh)

    again = run_demo(lake, TOY, report)
    unlike = {"seconds"}
    assert {key: value for key, value in again.items() if key not in unlike} == {
        key: value for key, value in outcome.items() if key not in unlike
    }

    page = report.read_text()
    assert {each["label"].split(" ")[0] for each in outcome["probe"]["answers"]} == {"none", "chains", "nca"}
    assert page.index("After 2 steps a model of two layers") < page.index("Then text")
    assert outcome["verdict"].split(":")[0] in page
    assert not re.findall(r"(?:src|href)=[\"']?https?://", page), "the report needs nothing but itself"
    for arm in outcome["arms"]:
        assert arm["model"] in page
    assert [arm["arm"] for arm in outcome["arms"]] == ["scratch", "transferred"]
    assert outcome["arms"][0]["moved"] == []
    assert all(".self_attn." in name for name in outcome["arms"][1]["moved"])

    behind = lineage(lake, "demo-transferred")
    (parent,) = behind["parents"]
    assert parent["model"]["ref"] == outcome["synthetic_model"]
    assert [each["ref"] for each in parent["params"]] == ["code@1"]
    assert parent["spec_digests"] == [params.digest]
    assert behind["run"]["name"] == outcome["arms"][1]["run"]
