"""A run killed anywhere and started again has the losses, to the bit, of one that never was."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from datalake import Lake
from tests.trainer.lake_data import curve, eval_curve, tiny_config, tiny_lake
from trainer import TrainJob, TrainResult, load_metrics, run_training

CONFIG = tiny_config(publish="tiny")


class Killed(BaseException):
    """Leaves the loop as nothing it catches could."""


def weights(lake: Lake) -> dict[str, str]:
    return {name: facts["sha256"] for name, facts in lake.models.get("tiny@1").files.items()}


def assert_same(lake: Lake, run: str, whole: tuple[Lake, TrainResult]) -> None:
    found, expected = load_metrics(lake, run), load_metrics(whole[0], "whole")
    assert curve(found) == curve(expected)
    assert eval_curve(found) == eval_curve(expected)
    assert weights(lake) == weights(whole[0])


def test_epochs_end_inside_the_run() -> None:
    """22 rows, 4 a step: epochs end within steps 6 and 11 of 14, so the kills below lie on both sides of an edge."""
    assert [22 * epoch // 4 + 1 for epoch in (1, 2)] == [6, 12]


@pytest.mark.parametrize("kill_at", range(1, 15))
def test_killed_after_any_step(tmp_path: Path, whole: tuple[Lake, TrainResult], kill_at: int) -> None:
    lake = tiny_lake(tmp_path / "lake")
    drawn: dict[int, float] = {}

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            # What a random layer would draw next is the same in every attempt.
            value = torch.rand(()).item()
            assert drawn.setdefault(event["step"], value) == value
            if event["step"] == kill_at and len(drawn) == kill_at and not killed:
                killed.append(kill_at)
                raise Killed

    killed: list[int] = []
    with pytest.raises(Killed):
        run_training(TrainJob(CONFIG, lake, "run"), on_event=watch, threads=1)
    run_training(TrainJob(CONFIG, lake, "run"), on_event=watch, threads=1)
    assert sorted(drawn) == list(range(1, 15))
    assert lake.runs.get("run").state["attempts"] == 2
    assert_same(lake, "run", whole)


def test_killed_between_last_checkpoint_and_result(tmp_path: Path, whole: tuple[Lake, TrainResult]) -> None:
    lake = tiny_lake(tmp_path / "lake")

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "checkpoint" and event["step"] == 14:
            raise Killed

    with pytest.raises(Killed):
        run_training(TrainJob(CONFIG, lake, "run"), on_event=kill, threads=1)
    result = run_training(TrainJob(CONFIG, lake, "run"), threads=1)
    assert result.evals == whole[1].evals
    assert_same(lake, "run", whole)


SIGKILLED = """
import os, signal, sys, time
from datalake import Lake
from tests.trainer.test_resume import CONFIG
from trainer import TrainJob, run_training

lake, step, in_flight = Lake.open(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

def put(key, data, really=lake.store.put_if_absent):
    while in_flight and in_flight in key:
        time.sleep(1)
    return really(key, data)

def kill(event):
    if event["event"] == "step" and event["step"] == step:
        while not in_flight and lake.runs.get("run").checkpoints[-1:] == ():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

lake.store.put_if_absent = put
run_training(TrainJob(CONFIG, lake, "run"), on_event=kill, threads=1)
"""


def test_sigkilled_across_an_epoch_edge(tmp_path: Path, whole: tuple[Lake, TrainResult]) -> None:
    """Killed by the kernel at step 5, its checkpoint of step 3 named; then at step 11, that of step 9 half uploaded."""
    lake = tiny_lake(tmp_path / "lake")
    root = Path(__file__).parents[2]
    for step, in_flight in ((5, ""), (11, "00000009-")):
        ended = subprocess.run(
            [sys.executable, "-c", SIGKILLED, lake.uri, str(step), in_flight],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            check=False,
        )
        assert ended.returncode == -signal.SIGKILL
    assert [checkpoint.step for checkpoint in lake.runs.get("run").checkpoints] == [3, 6]
    run_training(TrainJob(CONFIG, lake, "run"), threads=1)
    assert_same(lake, "run", whole)
