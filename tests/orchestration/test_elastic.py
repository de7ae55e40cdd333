"""Any number of workers sees the same global batches: one run on 1, then 4, then 2 of them, killed in between."""

from __future__ import annotations

import os

import pytest

from datalake import Lake
from generator import parse_spec
from orchestration.errors import TrainingFailedError
from orchestration.generation.job import run_generation
from orchestration.generation.request import GenerateRequest
from orchestration.training import fit
from orchestration.training import ray_train as train_job
from orchestration.training.ray_train import train_on_ray
from tests.faults.processes import end
from tests.faults.rows import FOLDER, PACE, global_batches, read_seen, watch
from tests.ray_fixtures import TINY_SPEC
from trainer import TrainJob, load_metrics, parse_config
from trainer.inputs import open_inputs

BATCH, SEQUENCES, STEPS = 12, 100, 60  # an epoch ends inside every eighth or ninth batch

CONFIG = {
    "model": {"depth": 1, "dim": 16, "heads": 2},
    "data": [{"dataset": "tiny@1"}],
    "steps": STEPS,
    "batch_sequences": BATCH,
    "checkpoint_every": 2,
    "log_every": 1,
    "precision": "fp32",
}
# Workers, and the checkpoint at which they are killed. Starting a world takes most of the time.
LANES = 12  # of the first; the second is in the order without lanes
FOUR_AND_TWO = [(1, 9), (4, 27), (2, STEPS)]
THREE = [(4, 9), (3, 27), (1, STEPS)]


def recording_worker(folder: str):
    """The job's own worker in a process whose step loop notes the rows that it takes."""
    real = fit.run_rank

    def worker(job):
        import trainer.learner

        os.environ.update({FOLDER: folder, PACE: "0.1"})
        watch(trainer.learner)
        real(job)

    return worker


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("worlds", [FOUR_AND_TWO, THREE], ids=["1, 4, 2 workers", "4, 3, 1 workers"])
def test_a_change_of_workers_changes_no_batch(ray_cluster, tmp_path, monkeypatch, worlds):  # noqa: ARG001 - Ray
    lake = Lake.open(str(tmp_path / "lake"))
    params = lake.params.put("tiny", parse_spec(TINY_SPEC).model_dump(mode="json"))
    run_generation(lake, GenerateRequest(params, SEQUENCES * TINY_SPEC["seq_len"], shard_sequences=16, actors=2))
    config = parse_config(CONFIG | ({"lanes": LANES} if worlds is FOUR_AND_TWO else {}))
    rows = tmp_path / "rows"
    rows.mkdir()
    monkeypatch.setattr(fit, "run_rank", recording_worker(str(rows)))
    monkeypatch.setattr(train_job, "ATTEMPTS", 1)

    for world, until in worlds:

        def kill_at(event, world=world, until=until):
            if event["event"] == "checkpoint" and until <= event["step"] < STEPS:
                end(max(seen.pid for seen in read_seen(rows) if seen.world == world))

        if until < STEPS:
            with pytest.raises(TrainingFailedError):
                train_on_ray(TrainJob(config, lake, "elastic"), workers=world, on_event=kill_at)
        else:
            assert train_on_ray(TrainJob(config, lake, "elastic"), workers=world).status == "finished"

    seen = read_seen(rows)
    plan = open_inputs(config, lake).plan
    edges = {step for step in range(STEPS) if plan.position(step)[0].epoch != plan.position(step + 1)[0].epoch}
    for world, _ in worlds:
        assert edges & {each.step for each in seen if each.world == world}, f"no epoch's edge on {world} workers"
    expected = {(plan.digest, step): list(map(tuple, plan.rows(step).tolist())) for step in range(STEPS)}
    assert global_batches(seen) == expected
    assert [record["step"] for record in load_metrics(lake, "elastic") if "loss" in record] == list(range(1, STEPS + 1))
