"""`morphogen experiment` on a task, in this process: compared by the accuracy of its answers, gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datalake import Lake
from orchestration.cli import main
from orchestration.experiment.analysis.checks import check_arms
from orchestration.experiment.result import ExperimentResult

TASK = """
name = "toy-task"
seeds = [1]
primary = ["nca"]
[factors]
pre = ["none", "nca"]
[corpus]
name = "toy-chains"
task = { family = "markov", seq_len = 24, vocabulary = 16, states = 4, answers_from = 8 }
heldout_sequences = 64
[model]
depth = 1
dim = 16
heads = 2
[pre]
gate_sequences = 16
[pre.spec]
grid = [6, 6]
colors = 2
seq_len = 24
[pre.train]
steps = 20
batch_sequences = 8
[train]
steps = 20
batch_sequences = 8
loss_mask = "answers"
eval_sequences = 64
eval_every = 5
[power]
sd = 0.03
"""


def experiment(folder: Path, capsys: pytest.CaptureFixture[str], text: str) -> tuple[int, ExperimentResult]:
    path = folder / "task.toml"
    path.write_text(text)
    where = ("--lake", str(folder / "lake"), "--report", str(folder / "report"))
    with pytest.raises(SystemExit) as ended:
        main(["experiment", str(path), "--no-ray", *where, "--json"])
    said = capsys.readouterr()
    assert said.out, said.err
    return ended.value.code, ExperimentResult.model_validate(json.loads(said.out)["result"])


@pytest.mark.soak  # five trainings and a report; what follows goes the same way
def test_a_task_is_compared_by_the_accuracy_of_its_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Models that only count what a sequence shows, as after so few steps, are no reason to refuse."""
    code, result = experiment(tmp_path, capsys, TASK)
    assert code == 0
    assert result.metric == "accuracy"
    assert [arm.arm.factors["pre"] for arm in result.arms] == ["none", "nca"]
    for arm in result.arms:
        assert arm.accuracy == arm.curve[-1].accuracy
        assert [point.step for point in arm.curve] == [5, 10, 15, 20]
        assert arm.labels is not None
        assert arm.labels.next == pytest.approx(arm.final_loss, rel=0.01)
    assert not [str(each) for each in check_arms(result) if each.effect == "refused"]
    assert (tmp_path / "report" / "report.html").is_file()

    again = experiment(tmp_path, capsys, TASK)[1]
    lake = Lake.open(str(tmp_path / "lake"))
    assert again.arms == result.arms
    assert {lake.runs.get(arm.run).state["attempts"] for arm in again.arms} == {1}
    [known] = [run for run in map(lake.runs.get, lake.runs.list()) if run.state["kind"] == "experiment"]
    assert known.state["settings"]["ray"] is False, "or `runs resume` would ask for one"


def test_a_run_that_fails_in_this_process_is_an_arm_that_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without spikes allowed and at a rate that throws weights away, pre-pre-training diverges; the baseline stays."""
    thrown = TASK.replace("[train]", "optimizer = { lr = 1e9 }\nspike_nats = 0.001\n[train]")
    code, result = experiment(tmp_path, capsys, thrown)
    assert code == 1
    none, nca = result.arms
    assert (none.status, nca.status) == ("finished", "failed")
    assert nca.error is not None
    assert "which it starts from, failed: DivergedError" in nca.error
