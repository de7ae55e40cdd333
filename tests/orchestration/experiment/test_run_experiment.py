"""`morphogen experiment` end to end at toy size: killed and run again, with an arm that fails, reported and reused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from datalake import Lake
from datalake.errors import NotFoundError
from orchestration.experiment.analysis.checks import check_arms
from orchestration.experiment.config.load import load_experiment
from orchestration.experiment.result import ExperimentResult
from orchestration.experiment.run.runner import run_experiment, run_name
from orchestration.runs.view import view_run

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


def small_file(folder: Path) -> Path:
    """Four arms instead of twelve: two settings of one seed."""
    path = toy_file(folder)
    path.write_text(path.read_text().replace('["none", "nca", "stats"]', '["none", "nca"]').replace("[1, 2]", "[1]"))
    return path


def attempts(lake: Lake) -> dict[str, int]:
    return {run: lake.runs.get(run).state["attempts"] for run in lake.runs.list() if not run.startswith("experiment-")}


def start_experiment(morphogen, path, uri, cluster, number):
    arguments = ("experiment", str(path), "--lake", uri, "--report", f"report-{number}", "--json")
    return morphogen.start(*arguments, RAY_ADDRESS=cluster.address)


def wait_until(condition, processes):
    deadline = time.monotonic() + 200
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def owner_of(lake, run):
    try:
        return lake.runs.get(run).state["holder"]["pid"]
    except NotFoundError:
        return None


def least_file(folder: Path) -> Path:
    """Two arms at a stated rate: one pre-pre-training and two trainings."""
    path = small_file(folder)
    text = path.read_text().replace('["adamw", "muon"]', '["adamw"]').replace("[optimizers.muon]\nlr = 1e9\n", "")
    path.write_text(text[: text.index("[sweep]")] + text[text.index("[power]") :])
    return path


@pytest.mark.soak  # three trainings start
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_cluster")
def test_every_arm_is_trained_once_and_again_nothing(tmp_path):
    lake, file = Lake.open(str(tmp_path / "lake")), load_experiment(least_file(tmp_path))
    result = run_experiment(lake, file)
    assert [(arm.arm.factors["pre"], arm.status) for arm in result.arms] == [("none", "finished"), ("nca", "finished")]
    assert set(attempts(lake).values()) == {1}
    for arm in result.arms:
        assert [point.step for point in arm.curve] == [5, 10, 15, 20]
        assert arm.config == lake.runs.get(arm.run).state["config"]
    assert run_experiment(lake, file).arms == result.arms
    assert set(attempts(lake).values()) == {1}


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("make_file", [small_file, toy_file])
def test_of_two_processes_one_is_killed_and_the_other_has_every_arm_once(
    ray_cluster, s3_lake_uri, morphogen, tmp_path, make_file
):
    path = make_file(tmp_path)
    lake, file = Lake.open(s3_lake_uri), load_experiment(path)
    processes = [start_experiment(morphogen, path, s3_lake_uri, ray_cluster, number) for number in range(2)]
    wait_until(lambda: next(iter(lake.store.list("checkpoints/pre-")), None) is not None, processes)
    by_pid = {process.pid: process for process in processes}
    killed = by_pid.pop(owner_of(lake, run_name(file)))
    killed.kill()
    killed.communicate()
    (survivor,) = by_pid.values()
    out, err = survivor.communicate(timeout=600)
    assert survivor.returncode == 1, err  # some arms cannot finish, see above
    assert "works on it" in err
    assert lake.runs.get(run_name(file)).state["attempts"] == 2
    told = json.loads(out)["result"]
    result = ExperimentResult.model_validate(told)
    assert max(attempts(lake).values()) <= 2
    assert min(attempts(lake).values()) == 1

    by_name = {(arm.arm.factors["pre"], arm.arm.factors["optimizer"], arm.arm.seed): arm for arm in result.arms}
    assert len(by_name) == len(result.arms) == (4 if make_file is small_file else 12)
    for (_, optimizer, _), arm in by_name.items():
        assert arm.status == ("finished" if optimizer == "adamw" else "failed"), arm
    assert "DivergedError" in by_name["none", "muon", 1].error
    assert (result.minimum_detectable_effect is None) == (make_file is small_file), "one pair has no spread"

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
    nca = by_name["nca", "adamw", 1]
    assert nca.gated
    if make_file is toy_file:
        stats = by_name["stats", "adamw", 1]
        assert nca.gate.run == stats.gate.run, "one pre-pre-training serves both"
        assert not stats.gated

    before = attempts(lake)
    again = run_experiment(lake, file)
    changed = {run for run, count in attempts(lake).items() if count != before[run]}
    assert all(lake.runs.get(run).status == "failed" for run in changed), "what has finished is not run again"
    assert again.arms == result.arms
    assert again.started == result.started


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_two_processes_train_each_arm_once_and_report_the_same(ray_cluster, s3_lake_uri, morphogen, tmp_path):
    path = small_file(tmp_path)
    processes = [start_experiment(morphogen, path, s3_lake_uri, ray_cluster, number) for number in range(2)]
    reports = []
    for process in processes:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 1, err
        reports.append(json.loads(out)["result"])
    assert set(attempts(Lake.open(s3_lake_uri)).values()) == {1}
    for report in reports:
        del report["command"]  # names its own folder
    assert reports[0] == reports[1]


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_an_experiment_hears_runs_stop_and_goes_on_from_its_record(ray_cluster, morphogen, tmp_path):
    folder, path = tmp_path / "lake", toy_file(tmp_path)
    process = start_experiment(morphogen, path, str(folder), ray_cluster, 0)
    wait_until(lambda: list(folder.glob("checkpoints/pre-*/*/*")), [process])
    lake = Lake.open(str(folder))
    run = run_name(load_experiment(path))
    assert morphogen.run("runs", "stop", run, "-m", "lunch", "--lake", str(folder)).returncode == 0
    _, err = process.communicate(timeout=240)
    assert process.returncode == 3, err
    assert "lunch" in err.splitlines()[-1]
    assert "Traceback" not in err
    states = {name: view_run(lake, name)["state"] for name in lake.runs.list()}
    assert states[run] == "stopped"
    assert not [name for name, state in states.items() if state in ("running", "lost")]
    resumed = morphogen.run("runs", "resume", run, "--lake", str(folder), "--json", RAY_ADDRESS=ray_cluster.address)
    assert resumed.returncode == 0, resumed.stderr
    assert len(json.loads(resumed.stdout)["arms"]) == 12


def test_a_bad_file_ends_in_one_line(morphogen, tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text('seeds = [1]\nfactors = { pre = ["nothing"] }\ncorpus = { name = "x" }\nmodel = {}\ntrain = {}\n')
    done = morphogen.run("experiment", str(bad), "--lake", str(tmp_path / "lake"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: factors.pre: 'nothing' is no level")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "lake").exists()
