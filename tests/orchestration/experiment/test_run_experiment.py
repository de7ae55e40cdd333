"""`morphogen experiment` end to end at toy size: killed and run again, with an arm that fails, reported and reused."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from datalake import Lake
from orchestration.experiment.analysis.checks import check_arms
from orchestration.experiment.config.load import load_experiment
from orchestration.experiment.run.runner import run_experiment

LIBRARY = Path(json.__file__).parents[1]

# At a rate of 1e9 every arm under Muon diverges, which must cost no other arm.
TOY = """
name = "toy"
question = "Does it all fit together?"
seeds = [1, 2]
[factors]
pre = ["none", "nca", "stats"]
optimizer = ["adamw", "muon"]
[corpus]
name = "toy-text"
paths = {paths}
patterns = ["*.py"]
seq_len = 128
[model]
depth = 1
dim = 16
heads = 2
[pre]
gate_sequences = 8
[pre.spec]
grid = [6, 6]
colors = 3
embed = 2
hidden = 4
burn_in = 2
seq_len = 128
[pre.train]
steps = 20
batch_sequences = 4
checkpoint_every = 4
[train]
steps = 20
batch_sequences = 4
eval_sequences = 8
eval_every = 5
checkpoint_every = 5
log_every = 1
spike_nats = 3.0
[optimizers.muon]
lr = 1e9
[sweep]
seed = 9
steps = 10
[sweep.lr]
adamw = [1e-3, 1e-2]
muon = [1e8, 1e9]
[power]
sd = 0.01
"""


def toy_file(folder: Path) -> Path:
    path = folder / "toy.toml"
    path.write_text(TOY.format(paths=json.dumps([str(LIBRARY / "json"), str(LIBRARY / "email")])))
    return path


def attempts(lake: Lake) -> dict[str, int]:
    return {run: lake.runs.get(run).state["attempts"] for run in lake.runs.list() if not run.startswith("experiment-")}


@pytest.mark.timeout(600)
def test_killed_and_run_again_it_has_every_arm_once(ray_cluster, morphogen, tmp_path):
    folder, path = tmp_path / "lake", toy_file(tmp_path)
    process = morphogen.start("experiment", str(path), "--lake", str(folder), RAY_ADDRESS=ray_cluster.address)
    deadline = time.monotonic() + 200
    while not list(folder.glob("checkpoints/pre-*/*/*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()

    lake, file = Lake.open(str(folder)), load_experiment(path)
    result = run_experiment(lake, file, ["morphogen", "experiment"])

    by_name = {(arm.arm.factors["pre"], arm.arm.factors["optimizer"], arm.arm.seed): arm for arm in result.arms}
    assert len(by_name) == len(result.arms) == 12
    for (_, optimizer, _), arm in by_name.items():
        assert arm.status == ("finished" if optimizer == "adamw" else "failed"), arm
    assert "DivergedError" in by_name["none", "muon", 1].error
    assert result.minimum_detectable_effect is not None

    for arm in (arm for arm in result.arms if arm.status == "finished"):
        assert arm.config == lake.runs.get(arm.run).state["config"]
        assert [point.step for point in arm.curve] == [5, 10, 15, 20]
        assert arm.curve[-1].loss == arm.final_loss
        assert arm.labels.sequences == 8
        assert arm.labels.next == pytest.approx(arm.final_loss, rel=0.01), "again, by other code and in float32"
        assert arm.checks["lr_trials"] == len(arm.sweep) == 2
        assert arm.config["optimizer"]["lr"] == min(arm.sweep, key=lambda trial: trial.loss).rate
        assert (arm.pre is None) == (arm.arm.factors["pre"] == "none")
    # Twenty steps teach frequencies, which fit the tokens read as well as the next ones: that check needs real models.
    refused = [str(each) for each in check_arms(result) if each.effect == "refused" and each.check != "labels"]
    assert not refused
    nca, stats = by_name["nca", "adamw", 1], by_name["stats", "adamw", 1]
    assert nca.gate.run == stats.gate.run, "one pre-pre-training serves both"
    assert nca.gated
    assert not stats.gated

    before = attempts(lake)
    again = run_experiment(lake, file, ["morphogen", "experiment"])
    changed = {run for run, count in attempts(lake).items() if count != before[run]}
    assert all(lake.runs.get(run).status == "failed" for run in changed), "what has finished is not run again"
    assert again.arms == result.arms
    assert again.started == result.started


def test_a_bad_file_ends_in_one_line(morphogen, tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text('seeds = [1]\nfactors = { pre = ["nothing"] }\ncorpus = { name = "x" }\nmodel = {}\ntrain = {}\n')
    done = morphogen.run("experiment", str(bad), "--lake", str(tmp_path / "lake"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: factors.pre: 'nothing' is no level")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "lake").exists()
