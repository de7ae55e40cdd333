"""Training under Ray Train: streamed by the plan, bit-equal after a worker's death, refusing what it must."""

from __future__ import annotations

import os
import shutil
import signal
import time

import numpy as np
import pytest

from datalake import DamagePolicy, Lake, Repairer
from datalake.errors import CorruptShardError
from generator import parse_spec
from orchestration.errors import InvalidRequestError
from orchestration.generation.job import run_generation
from orchestration.generation.request import GenerateRequest, commit_computed
from orchestration.training.ray_train import train_on_ray
from orchestration.training.step_rows import load_steps
from tests.ray_fixtures import TINY_SPEC, inline_toml
from tests.trainer.lake_data import tiny_lake
from trainer import TrainJob, load_metrics, parse_config, run_training
from trainer.inputs import open_inputs

# 40 sequences in batches of 4: an epoch ends every 10 steps, between two checkpoints. There are enough steps for a
# worker to be killed in the middle: the driver hears of a checkpoint up to half a second late.
SEQUENCES, STEPS = 40, 600

CONFIG = {
    "model": {"depth": 1, "dim": 16, "heads": 2},
    "data": [{"dataset": "tiny@1"}],
    "eval": ["tiny@1"],
    "eval_sequences": 8,
    "steps": STEPS,
    "batch_sequences": 4,
    "checkpoint_every": 24,
    "eval_every": 300,
    "log_every": 1,
    "publish": "tiny-model",
}


@pytest.fixture(scope="module")
def lake(ray_cluster, tmp_path_factory):  # noqa: ARG001 - the jobs need it running
    lake = Lake.open(str(tmp_path_factory.mktemp("training") / "lake"))
    params = lake.params.put("tiny", parse_spec(TINY_SPEC).model_dump(mode="json"))
    run_generation(lake, GenerateRequest(params, SEQUENCES * TINY_SPEC["seq_len"], shard_sequences=16))
    return lake


def losses(lake, run):
    return [(record["step"], record["loss"]) for record in load_metrics(lake, run) if "loss" in record]


def kill_one_training_worker(cluster):
    from ray.util.state import list_actors

    workers = list_actors(
        address=cluster.dashboard, filters=[("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")]
    )
    os.kill(workers[0].pid, signal.SIGKILL)


def damaged_copy(lake, folder, shards):
    """A copy of the lake with a bit of each of these shards of the dataset turned over; and the shards' keys."""
    shutil.copytree(lake.uri, folder)
    copy = Lake.open(str(folder))
    keys = [copy.datasets.manifest("tiny@1").shards[shard].key for shard in shards]
    for key in keys:
        data = bytearray(copy.store.get(key))
        data[len(data) // 3] ^= 1
        copy.store.replace(key, bytes(data))
    return copy, keys


@pytest.fixture(scope="module")
def undisturbed(lake):
    result = train_on_ray(TrainJob(parse_config(CONFIG), lake, "undisturbed"), workers=2)
    assert result.status == "finished"
    return result


@pytest.mark.soak
def test_workers_that_share_the_model_s_rows_train_alike(lake):
    config = parse_config({**CONFIG, "steps": 4})
    shared = train_on_ray(TrainJob(config, lake, "shared", parallel="fsdp"), workers=2)
    assert shared.facts["parallel"] == "fsdp"
    assert lake.runs.get("shared").state["settings"]["parallel"] == "fsdp"
    run_training(TrainJob(config, lake, "alone"))
    assert [loss for _, loss in losses(lake, "shared")] == pytest.approx(
        [loss for _, loss in losses(lake, "alone")], rel=1e-2
    )


@pytest.mark.soak  # two starts of Ray Train
def test_two_workers_compute_the_rows_that_two_workers_read(lake):
    params = lake.params.get("tiny")
    request = GenerateRequest(params, SEQUENCES * TINY_SPEC["seq_len"], shard_sequences=16)
    version, _ = commit_computed(lake, request)
    found = {}
    for run, ref in (("read", "tiny@1"), ("computed", version.ref)):
        config = parse_config({**CONFIG, "steps": 24, "data": [{"dataset": ref}], "eval": [ref], "publish": None})
        result = train_on_ray(TrainJob(config, lake, run), workers=2)
        found[run] = losses(lake, run), list(result.evals.values())
    assert len(found["read"][0]) == 24
    assert found["computed"] == found["read"]


@pytest.mark.soak  # two starts of Ray Train and a recovery: minutes on two cores
@pytest.mark.timeout(900)
def test_neither_a_killed_worker_nor_lost_shards_change_a_bit(lake, undisturbed, ray_cluster, tmp_path):
    config = parse_config(CONFIG)
    killed = []
    events = []

    def kill_once(event):
        events.append(event)
        if event["event"] == "checkpoint" and event["step"] >= 8 and not killed:
            killed.append(event["step"])
            kill_one_training_worker(ray_cluster)

    damaged, lost = damaged_copy(lake, tmp_path / "damaged", [0, 2])
    disturbed = train_on_ray(TrainJob(config, damaged, "disturbed"), workers=2, on_event=kill_once)
    assert killed
    resumes = [event["step"] for event in events if event["event"] == "resume"]
    assert resumes, "the second attempt went on from a checkpoint"
    repairs = [event for event in events if event["event"] == "repair"]
    assert {repair["key"] for repair in repairs} == set(lost)  # by either rank, or by both at once
    recorded = [repair["key"] for repair in damaged.runs.get("disturbed").listed("repairs")]
    assert sorted(recorded) == sorted(repair["key"] for repair in repairs)
    assert losses(damaged, "disturbed") == losses(lake, "undisturbed")
    assert [step for step, _ in losses(damaged, "disturbed")] == list(range(1, STEPS + 1))
    assert disturbed.evals == undisturbed.evals
    assert (
        damaged.models.get(disturbed.model).files["model.safetensors"]
        == lake.models.get(undisturbed.model).files["model.safetensors"]
    )
    assert train_on_ray(TrainJob(config, damaged, "disturbed"), workers=2) == disturbed, (
        "a finished run is not run again"
    )


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_sigterm_to_the_driver_delivers_a_checkpoint_of_both_workers(lake, undisturbed, ray_cluster, morphogen):
    (morphogen.cwd / "train.toml").write_text(inline_toml(CONFIG))
    command = ("train", "train.toml", "--run=term", f"--lake={lake.uri}", "--workers=2")
    process = morphogen.start(*command, RAY_ADDRESS=ray_cluster.address, MORPHOGEN_GRACE_S="120")
    deadline = time.monotonic() + 200
    while not ((heartbeat := lake.runs.heartbeat("term")) and heartbeat.progress.get("done")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=130)
    assert process.returncode == 143, err
    assert "stopped (SIGTERM): run term is at step" in err.splitlines()[-1]
    run = lake.runs.get("term")
    assert run.status == "stopped"
    assert 0 < run.checkpoints[-1].step < STEPS
    again = train_on_ray(TrainJob(parse_config(CONFIG), lake, "term"), workers=2)
    assert (again.evals, lake.runs.get("term").state["attempts"]) == (undisturbed.evals, 2)
    assert losses(lake, "term") == losses(lake, "undisturbed")


SMALL = CONFIG | {"data": [{"dataset": "train@1"}], "eval": []}


def test_workers_that_do_not_divide_the_batch_are_refused(ray_cluster, tmp_path):  # noqa: ARG001
    with pytest.raises(InvalidRequestError, match="workers = 3"):
        train_on_ray(TrainJob(parse_config(SMALL), tiny_lake(tmp_path), "uneven"), workers=3)


@pytest.mark.soak  # tests/faults/lake/test_training_heals.py has what damage leads to without workers
def test_a_corrupt_shard_ends_training_with_its_name(lake, tmp_path):
    copy, (key,) = damaged_copy(lake, tmp_path / "lake", [1])
    with pytest.raises(CorruptShardError, match=key) as raised:
        train_on_ray(
            TrainJob(parse_config(CONFIG), copy, "corrupt", repairer=Repairer(DamagePolicy("fail"))), workers=1
        )
    assert len(str(raised.value).splitlines()) == 1
    assert copy.runs.get("corrupt").status != "finished"


def test_the_stream_gives_the_plan_whatever_the_world(tmp_path):
    inputs = open_inputs(parse_config(SMALL), tiny_lake(tmp_path))
    sources = [(dataset.store.uri, dataset.manifest.digest, dataset.repairer) for dataset in inputs.train]
    steps = range(5, 15)
    whole = load_steps(steps, sources=sources, plan=inputs.plan, world=1, rank=0)
    expected = np.concatenate([inputs.plan.rows(step) for step in steps])
    np.testing.assert_array_equal(whole["row"], expected[:, 1])
    for world in (2, 4):
        parts = [load_steps(steps, sources=sources, plan=inputs.plan, world=world, rank=rank) for rank in range(world)]
        for step in steps:
            shares = [tokens_of_step(part, step) for part in parts]
            assert [row for share in shares for row in share] == tokens_of_step(whole, step)


def tokens_of_step(table, step):
    return table.filter(table["step"].to_numpy() == step)["tokens"].to_pylist()
