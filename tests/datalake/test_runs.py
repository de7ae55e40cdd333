"""Runs: taking over, fencing, checkpoints that verify, metrics that survive a resume."""

from __future__ import annotations

import pickle

import pytest

from datalake.errors import (
    CorruptObjectError,
    InvalidNameError,
    NotFoundError,
    RunConflictError,
    RunFencedError,
    RunHeldError,
)
from datalake.lake import Lake

CONFIG = {"steps": 100, "lr": 0.001}
INPUTS = {"datasets": ["d@1"]}


def test_start_finish_and_look(lake_uri: str) -> None:
    lake = Lake.open(lake_uri)
    run = lake.runs.start("r1", "train", CONFIG, INPUTS)
    assert (run.status, run.state["attempts"], run.state["inputs"]) == ("running", 1, INPUTS)
    run.append(note={"tokens": 5}, message="progress")
    run.finish({"loss": 1.5})
    seen = Lake.open(lake_uri).runs.get("r1")
    assert (seen.status, seen.state["result"], seen.state["note"]) == ("finished", {"loss": 1.5}, {"tokens": 5})
    assert lake.runs.list() == ["r1"]
    again = lake.runs.start("r1", "train", CONFIG, INPUTS)
    assert (again.status, again.state["attempts"]) == ("finished", 1)
    for late in (run, again):
        with pytest.raises(RunConflictError, match="finished"):
            late.append(note={})
    with pytest.raises(NotFoundError, match="no run named 'r2'"):
        lake.runs.get("r2")


def test_tuples_and_lists_are_the_same_configuration(tmp_path) -> None:
    runs = Lake.open(str(tmp_path)).runs
    for betas in ((0.9, 0.95), [0.9, 0.95]):
        run = runs.start("r", "train", {"betas": betas}, {"datasets": ("d@1",)})
    assert (run.state["attempts"], run.state["inputs"]) == (2, {"datasets": ["d@1"]})


def test_another_configuration_is_refused(tmp_path) -> None:
    runs = Lake.open(str(tmp_path)).runs
    runs.start("r", "train", CONFIG, INPUTS)
    for kind, config, inputs, said in (
        ("generate", CONFIG, INPUTS, r"kind \(train, not generate\)"),
        ("train", {**CONFIG, "lr": 0.1}, INPUTS, r"configuration, lr = .*, not 0\.1"),
        ("train", CONFIG, {"datasets": ["d@2"]}, r"inputs, datasets\.0 = 'd@1', not 'd@2'"),
    ):
        with pytest.raises(RunConflictError, match=f"exists with (an)?other {said}") as caught:
            runs.start("r", kind, config, inputs)
        assert "\n" not in str(caught.value)
    with pytest.raises(InvalidNameError):
        runs.start("../r", "train", CONFIG, INPUTS)


def test_a_second_driver_fences_the_first(lake_uri: str) -> None:
    lake = Lake.open(lake_uri)
    first = lake.runs.start("r", "train", CONFIG, INPUTS)
    worker_of_first = pickle.loads(pickle.dumps(first))  # noqa: S301 - our own bytes
    worker_of_first.add_checkpoint(5, {"model": b"5"})
    first.append(note=1)
    assert [c.step for c in first.checkpoints] == [5]
    second = Lake.open(lake_uri).runs.start("r", "train", CONFIG, INPUTS)
    assert second.state["attempts"] == 2
    for late in (first, worker_of_first, lake.runs.get("r")):
        with pytest.raises(RunFencedError, match="attempt 2"):
            late.add_checkpoint(10, {"model": b"10"})
    second.add_checkpoint(10, {"model": b"ten"})
    assert [(c.step, dict(second.open_checkpoint(c))) for c in lake.runs.get("r").checkpoints] == [
        (5, {"model": b"5"}),
        (10, {"model": b"ten"}),
    ]


def test_a_failed_run_is_taken_up_again(tmp_path) -> None:
    runs = Lake.open(str(tmp_path)).runs
    runs.start("r", "train", CONFIG, INPUTS).fail("out of memory")
    assert (runs.get("r").status, runs.get("r").state["error"]) == ("failed", "out of memory")
    again = runs.start("r", "train", CONFIG, INPUTS)
    assert (again.status, again.state["error"], again.state["attempts"]) == ("running", None, 2)


def test_the_run_keeps_its_own_fields(tmp_path) -> None:
    run = Lake.open(str(tmp_path)).runs.start("r", "train", CONFIG, INPUTS)
    with pytest.raises(RunConflictError, match="config, lease"):
        run.append(config={}, lease="x")


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "metrics"])
def test_a_checkpoint_cut_short_is_skipped_and_reported(tmp_path, damage: str) -> None:
    runs = Lake.open(str(tmp_path)).runs
    run = runs.start("r", "train", CONFIG, INPUTS)
    for step in (10, 20, 30):
        run.add_checkpoint(step, {"model.safetensors": bytes([step]) * 500, "state.json": b"{}"}, f"m{step}\n".encode())
    newest = run.checkpoints[-1]
    path = tmp_path / newest.key_prefix / ("metrics.jsonl" if damage == "metrics" else "model.safetensors")
    if damage == "gone":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:] if damage == "flip" else data[: len(data) // 2])

    resumed = runs.start("r", "train", CONFIG, INPUTS)
    checkpoint, skipped = resumed.latest_valid_checkpoint()
    assert checkpoint is not None
    assert checkpoint.step == 20
    assert [(s.step, s.key_prefix) for s in skipped] == [(30, newest.key_prefix)]
    assert path.name in skipped[0].problem
    assert resumed.open_checkpoint(checkpoint)["model.safetensors"] == bytes([20]) * 500
    resumed.add_checkpoint(30, {"model.safetensors": b"again"}, b"m30 again\n")
    assert list(runs.get("r").metrics_chunks()) == [b"m10\n", b"m20\n", b"m30 again\n"]
    if damage != "metrics":
        with pytest.raises((CorruptObjectError, NotFoundError)):
            dict(resumed.open_checkpoint(newest))


def test_metrics_follow_the_checkpoints_gone_on_from(tmp_path) -> None:
    """A checkpoint made at a stop signal between the usual ones, then all but the first lost: no step twice."""
    runs = Lake.open(str(tmp_path)).runs
    run = runs.start("r", "train", CONFIG, INPUTS)
    assert run.latest_valid_checkpoint() == (None, [])
    for step in (100, 200, 250):
        run.add_checkpoint(step, {"m": b""}, f"to {step}".encode())
    for lost in run.checkpoints[1:]:
        (tmp_path / lost.key_prefix / "m").unlink()
    resumed = runs.start("r", "train", CONFIG, INPUTS)
    checkpoint, skipped = resumed.latest_valid_checkpoint()
    assert checkpoint is not None
    assert (checkpoint.step, [s.step for s in skipped]) == (100, [250, 200])
    resumed.add_checkpoint(230, {"m": b""}, b"100 to 230")
    resumed.add_checkpoint(300, {"m": b""})
    assert list(runs.get("r").metrics_chunks()) == [b"to 100", b"100 to 230"]


def test_from_scratch_when_no_checkpoint_verifies(tmp_path) -> None:
    runs = Lake.open(str(tmp_path)).runs
    run = runs.start("r", "train", CONFIG, INPUTS)
    run.add_checkpoint(1, {"m": b"x"}, b"lost")
    (tmp_path / run.checkpoints[0].key_prefix / "m").write_bytes(b"")
    resumed = runs.start("r", "train", CONFIG, INPUTS)
    assert resumed.latest_valid_checkpoint()[0] is None
    resumed.add_checkpoint(1, {"m": b"x"}, b"kept")
    assert list(resumed.metrics_chunks()) == [b"kept"]


def test_dropped_checkpoints_lose_their_files_and_keep_their_metrics(lake_uri: str) -> None:
    lake = Lake.open(lake_uri)
    run = lake.runs.start("r", "train", CONFIG, INPUTS)
    for step in (1, 2, 3):
        run.add_checkpoint(step, {"model": b"%d" % step}, metrics=b"m%d\n" % step)
    run.drop_checkpoints(run.checkpoints[:2])
    seen = lake.runs.get("r")
    assert [checkpoint.step for checkpoint in seen.checkpoints] == [3]
    assert seen.metrics_chunks() == [b"m1\n", b"m2\n", b"m3\n"]
    assert [key for key in lake.store.list("checkpoints/r/") if key.endswith("/model")] == [
        f"{seen.checkpoints[0].key_prefix}/model"
    ]
    again = lake.runs.start("r", "train", CONFIG, INPUTS)
    newest, skipped = again.latest_valid_checkpoint()
    assert newest is not None
    assert (newest.step, skipped) == (3, [])
    again.add_checkpoint(4, {"model": b"4"}, metrics=b"m4\n")
    assert lake.runs.get("r").metrics_chunks()[-1] == b"m4\n"
    with pytest.raises(RunFencedError):
        run.drop_checkpoints(seen.checkpoints)


def test_of_two_takers_one_wins_and_workers_join_without_taking(lake_uri: str) -> None:
    runs = Lake.open(lake_uri).runs
    first = runs.start("r", "train", CONFIG, INPUTS, over="", about={"settings": {"workers": 2}})
    with pytest.raises(RunHeldError, match="another process"):
        Lake.open(lake_uri).runs.start("r", "train", CONFIG, INPUTS, over="")
    worker = Lake.open(lake_uri).runs.start("r", "train", CONFIG, INPUTS, lease=first.lease)
    worker.add_checkpoint(5, {"model": b"5"})
    assert (worker.state["attempts"], first.refresh().state["lease"] == first.lease, len(first.checkpoints)) == (
        1,
        True,
        1,
    )
    second = runs.start("r", "train", CONFIG, INPUTS, over=first.lease)
    with pytest.raises(RunHeldError):
        runs.start("r", "train", CONFIG, INPUTS, over=first.lease)
    with pytest.raises(RunFencedError, match="attempt 2"):
        runs.start("r", "train", CONFIG, INPUTS, lease=first.lease)
    assert first.refresh().state["lease"] != first.lease
    assert second.state["settings"] == {"workers": 2}


def test_anybody_may_ask_a_running_run_to_stop(tmp_path) -> None:
    runs = Lake.open(str(tmp_path)).runs
    with pytest.raises(NotFoundError, match="no run named 'r'"):
        runs.ask_stop("r")
    run = runs.start("r", "train", CONFIG, INPUTS)
    Lake.open(str(tmp_path)).runs.ask_stop("r", "lunch")
    assert run.refresh().state["stop"]["reason"] == "lunch"
    run.stop("asked", progress={"done": 3})
    assert (runs.get("r").status, runs.get("r").state["error"]) == ("stopped", "asked")
    with pytest.raises(RunConflictError, match="is stopped"):
        runs.ask_stop("r")
    again = runs.start("r", "train", CONFIG, INPUTS)
    assert ("stop" in again.state, again.status, again.state["attempts"]) == (False, "running", 2)


def test_faults_are_counted_and_the_newest_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("datalake.runs.run.FAULTS_KEPT", 3)
    runs = Lake.open(str(tmp_path)).runs
    run = runs.start("r", "train", CONFIG, INPUTS)
    for number in range(5):
        run.add_fault("worker_lost", {"number": number}, new_attempt=True)
    state = runs.get("r").state
    assert [fault["number"] for fault in state["faults"]] == [2, 3, 4]
    assert (state["fault_count"], state["attempts"]) == (5, 6)


def test_a_heartbeat_shows_life_and_leaves_the_log_alone(lake_uri: str) -> None:
    runs = Lake.open(lake_uri).runs
    run = runs.start("r", "train", CONFIG, INPUTS)
    assert runs.heartbeat("r") is None
    for beat in (1, 2):
        run.send_heartbeat(beat, {"done": beat})
    heartbeat = Lake.open(lake_uri).runs.heartbeat("r")
    assert heartbeat is not None
    assert (heartbeat.beat, heartbeat.progress, heartbeat.lease) == (2, {"done": 2}, run.lease)
    assert runs.get("r").state["attempts"] == 1
