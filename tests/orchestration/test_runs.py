"""Runs from the command line: watched, stopped, resumed; one owner at a time; signals that end in a checkpoint."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest
import torch

from datalake import Lake
from datalake.errors import NotFoundError, RunFencedError, RunHeldError
from orchestration.cli import main
from orchestration.errors import JobStopped
from orchestration.runs.lease import OwnerWatch, acquire, await_owner
from orchestration.runs.owner import this_process
from orchestration.runs.signals import Stop
from orchestration.runs.view import view_run
from orchestration.training import stop_watcher
from orchestration.training.local import train_here
from orchestration.training.stop_watcher import Parent, following
from tests.trainer.lake_data import tiny_lake
from trainer import TrainJob, load_metrics, parse_config

STEPS = 400
LONG = 3000  # under way for as long as two other drivers need to start
CONFIG = f"""
steps = {STEPS}
batch_sequences = 4
checkpoint_every = 150
log_every = 1
data = [{{dataset = "train@1"}}]
[model]
depth = 1
dim = 16
heads = 2
"""
JOB = ("job", {"n": 1}, {"datasets": []})


@pytest.fixture(autouse=True)
def quick_lease(monkeypatch):
    monkeypatch.setenv("MORPHOGEN_LEASE_S", "3")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    lake = tiny_lake(tmp_path_factory.mktemp("undisturbed") / "lake")
    train_undisturbed(lake, CONFIG)
    return losses(lake, "whole")


def train_undisturbed(lake, config):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes below: more would only wait for each other
    train_here(TrainJob(parse_config(tomllib.loads(config)), lake, "whole"))
    torch.set_num_threads(threads)


@pytest.fixture
def lake(tmp_path):
    (tmp_path / "train.toml").write_text(CONFIG)
    return tiny_lake(tmp_path / "lake")


def losses(lake, run):
    return [(record["step"], record["loss"]) for record in load_metrics(lake, run) if "loss" in record]


def start_training(morphogen, lake):
    return morphogen.start("train", "train.toml", "--run=r", "--no-ray", f"--lake={lake.uri}", OMP_NUM_THREADS="1")


def wait_for(condition, process=None, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)


def is_stepping(lake):
    def has_progress():
        try:
            return bool(view_run(lake, "r")["progress"])
        except NotFoundError:
            return False

    return has_progress


@pytest.mark.parametrize(
    ("how", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.soak),
        pytest.param("runs stop", 3, marks=pytest.mark.soak),
    ],
)
def test_a_stopped_run_has_a_checkpoint_and_goes_on_to_the_same_bits(lake, morphogen, undisturbed, how, code):
    process = start_training(morphogen, lake)
    wait_for(is_stepping(lake), process)
    if how == "runs stop":
        assert morphogen.run("runs", "stop", "r", "-m", "lunch", f"--lake={lake.uri}").returncode == 0
    else:
        process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "morphogen runs resume r" in err.splitlines()[-1]
    assert "Traceback" not in err
    view = view_run(lake, "r")
    assert (view["state"], view["checkpoint"]) == ("stopped", view["progress"]["done"])
    assert 0 < view["checkpoint"] < STEPS
    assert ("lunch" in view["error"]) == (how == "runs stop")

    resumed = morphogen.run("runs", "resume", "r", f"--lake={lake.uri}", "--json", OMP_NUM_THREADS="1")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["status"] == "finished"
    assert losses(lake, "r") == undisturbed
    assert (view_run(lake, "r")["attempts"], view_run(lake, "r")["state"]) == (2, "finished")


@pytest.mark.soak
def test_of_two_drivers_one_goes_on_also_when_the_first_was_frozen(lake, morphogen, tmp_path):
    config = CONFIG.replace(f"steps = {STEPS}", f"steps = {LONG}")
    (tmp_path / "train.toml").write_text(config)
    first = start_training(morphogen, lake)
    wait_for(is_stepping(lake), first)
    second = start_training(morphogen, lake)
    _, err = second.communicate(timeout=60)
    assert (second.returncode, err.count("\n"), "being worked on" in err) == (2, 3, True), err

    first.send_signal(signal.SIGSTOP)
    third = start_training(morphogen, lake)
    wait_for(lambda: lake.runs.get("r").state["attempts"] == 2, third)
    first.send_signal(signal.SIGCONT)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 2, err
    assert err.splitlines()[-1].startswith("error: run 'r' "), err
    assert "Traceback" not in err
    _, err = third.communicate(timeout=240)
    assert third.returncode == 0, err
    train_undisturbed(lake, config)
    assert losses(lake, "r") == losses(lake, "whole")


def test_a_dead_owner_on_this_machine_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("MORPHOGEN_LEASE_S", "3600")
    program = "import sys; from datalake import Lake; from orchestration.runs.lease import acquire\n"
    program += "with acquire(Lake.open(sys.argv[1]), 'r', 'job', {'n': 1}, {'datasets': []}): sys.stdin.read()"
    lake = Lake.open(str(tmp_path))
    owner = subprocess.Popen([sys.executable, "-c", program, lake.uri], stdin=subprocess.PIPE)
    wait_for(lambda: lake.runs.heartbeat("r") is not None, owner)
    assert view_run(lake, "r")["state"] == "running"
    owner.kill()
    wait_for(lambda: view_run(lake, "r")["state"] == "lost")
    with acquire(lake, "r", *JOB) as run_lease:
        assert run_lease.run.state["attempts"] == 2
        run_lease.run.finish()
    owner.communicate()
    assert view_run(lake, "r")["state"] == "finished"


def acquire_twice(lake):
    with acquire(lake, "r", *JOB), acquire(lake, "r", *JOB):
        raise AssertionError("two owners")


def test_a_live_run_is_not_taken(tmp_path):
    with pytest.raises(RunHeldError, match="runs stop r"):
        acquire_twice(Lake.open(str(tmp_path)))


def lose(lake):
    with acquire(lake, "r", *JOB) as run_lease:
        run_lease.check()
        lake.runs.start("r", *JOB, about={"holder": this_process()})
        wait_for(run_lease.stopping.is_set)
        run_lease.check()


def test_the_loss_of_a_run_is_noticed_and_its_record_left_to_the_new_owner(tmp_path):
    lake = Lake.open(str(tmp_path))
    with pytest.raises(RunFencedError, match="taken over by"):
        lose(lake)
    assert (lake.runs.get("r").status, lake.runs.get("r").state["attempts"]) == ("running", 2)


def end_by(lake, error, stop=None):
    with acquire(lake, "r", *JOB, stop=stop, settings={"workers": 2}) as run_lease:
        run_lease.advance(3, 10, "steps")
        run_lease.fault("worker_lost", reason="test")
        raise error


def test_every_end_is_recorded(tmp_path):
    lake = Lake.open(str(tmp_path))
    stop = Stop()
    stop.ask("SIGTERM", 143)
    with pytest.raises(JobStopped):
        end_by(lake, stop.error("r", "is at step 3"), stop)
    view = view_run(lake, "r")
    assert (view["state"], view["error"], view["settings"]) == ("stopped", "stopped (SIGTERM)", {"workers": 2})
    assert (view["progress"]["done"], view["faults"][0]["kind"], view["fault_count"]) == (3, "worker_lost", 1)
    with pytest.raises(ValueError, match="two"):
        end_by(lake, ValueError("line one\nline two"))
    assert (view_run(lake, "r")["state"], view_run(lake, "r")["error"]) == ("failed", "ValueError: line one")


def without_heartbeats(lake, error=None):
    with acquire(lake, "r", *JOB) as run_lease:
        shutil.rmtree(Path(lake.uri, "pulses"))
        Path(lake.uri, "pulses").write_text("in the way")
        if error is not None:
            raise error
        run_lease.run.finish()


def test_what_is_only_for_show_decides_no_exit_code(tmp_path, capsys):
    lake = Lake.open(str(tmp_path / "a"))
    without_heartbeats(lake)
    assert lake.runs.get("r").status == "finished"
    assert "last progress could not be written" in capsys.readouterr().err
    lake = Lake.open(str(tmp_path / "b"))
    with pytest.raises(ValueError, match="the job's own"):
        without_heartbeats(lake, ValueError("the job's own"))
    assert lake.runs.get("r").status == "failed"


def test_a_second_job_waits_for_the_owner_of_a_run_and_hears_a_stop(tmp_path):
    lake, stop = Lake.open(str(tmp_path)), Stop()
    assert await_owner(lake, "r", stop) is None
    with acquire(lake, "r", *JOB) as run_lease:
        assert OwnerWatch(lake, "r").free() is None
        stop.ask("SIGTERM", 143)
        with pytest.raises(JobStopped, match="left to its owner") as stopped:
            await_owner(lake, "r", stop)
        assert stopped.value.exit_code == 143
        ended, waits = [], threading.Event()

        class Asked(Stop):
            def is_set(self):
                waits.set()
                return super().is_set()

        waiting = threading.Thread(target=lambda: ended.append(await_owner(lake, "r", Asked())))
        waiting.start()
        assert waits.wait(30)
        run_lease.run.finish({"n": 1})
    waiting.join(30)
    assert [run.status for run in ended] == ["finished"]
    assert await_owner(lake, "r", Stop()) is None


def test_what_works_for_a_run_elsewhere_stops_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(stop_watcher, "LOOK_S", 0.05)
    lake, stop, alone = Lake.open(str(tmp_path)), Stop(), Stop()
    with acquire(lake, "r", *JOB) as run_lease:
        with (
            following(lake, Parent("r", run_lease.run.lease), stop),
            following(lake, None, alone),
        ):
            run_lease.ask_workers()
            wait_for(stop.is_set)
        assert "run r" in stop.reason
        assert not alone.is_set()
        run_lease.run.finish()


def runs_command(capsys, lake, *arguments):
    """Call `morphogen runs …` in this process: exit code, what it printed, what it complained of."""
    with pytest.raises(SystemExit) as ended:
        main(["runs", *arguments, f"--lake={lake.uri}"])
    return int(ended.value.code or 0), *capsys.readouterr()


def test_the_commands_say_what_they_found(lake, morphogen, capsys):
    with acquire(lake, "r", *JOB) as run_lease:
        run_lease.advance(3, 10, "steps", "loss 1.5")
        run_lease.send_heartbeat()
        code, out, _ = runs_command(capsys, lake, "list", "--json")
        assert code == 0
        listed = json.loads(out)
        assert [(run["name"], run["state"], run["progress"]["done"]) for run in listed] == [("r", "running", 3)]
        code, out, _ = runs_command(capsys, lake, "show", "r")
        assert (code, "3 of 10 steps, loss 1.5" in out) == (0, True)
        follower = morphogen.start("runs", "follow", "r", f"--lake={lake.uri}", "--interval=0.1")
        assert "3 of 10" in follower.stdout.readline()
        run_lease.run.finish()
    out, _ = follower.communicate(timeout=30)
    assert (follower.returncode, "finished" in out.splitlines()[-1]) == (0, True)
    for arguments, found in (
        (("stop", "r"), "is finished"),
        (("stop", "nothing"), "no run named 'nothing'"),
        (("show", "nothing"), "no run named 'nothing'"),
        (("resume", "r"), "kind 'job'"),
    ):
        code, _, complained = runs_command(capsys, lake, *arguments)
        assert (code, complained.count("\n")) == (2, 1), complained
        assert found in complained
