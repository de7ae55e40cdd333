"""The whole of `train --live` under Ray Train: a worker killed, the feed killed, and the losses of training offline."""

from __future__ import annotations

import json
import os
import signal

import pytest

from orchestration.generation.job import run_generation
from orchestration.generation.request import GenerateRequest
from orchestration.live.job import train_live
from orchestration.training.ray_train import train_on_ray
from tests.orchestration.test_live import CONFIG, REQUEST, SEQ_LEN, SEQUENCES, SHARD, curve, new_lake
from tests.orchestration.test_train_job import kill_one_training_worker
from tests.ray_fixtures import toml_of
from trainer import TrainJob, parse_config

STEPS = 300

# One epoch, and a buffer of some 45 steps: wherever the feed is killed there are shards left that only it can make.
LONG = REQUEST.model_copy(update={"tokens": 2400 * SEQ_LEN, "buffer_bytes": 1 << 16, "actors": 1})

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600), pytest.mark.usefixtures("ray_cluster")]


def kill_the_feed(cluster):
    from ray.util.state import list_actors

    filters = [("class_name", "=", "LiveFeed"), ("state", "=", "ALIVE")]
    for actor in list_actors(address=cluster.dashboard, filters=filters):
        os.kill(actor.pid, signal.SIGKILL)


def test_two_workers_live_with_a_worker_and_then_the_feed_killed_are_two_workers_offline(tmp_path, ray_cluster):
    config = parse_config({**CONFIG, "steps": STEPS})
    offline, live = new_lake(tmp_path / "offline"), new_lake(tmp_path / "live")
    request = GenerateRequest(offline.params.get("tiny@1"), LONG.tokens, seed=5, shard_sequences=SHARD)
    run_generation(offline, request)
    expected = train_on_ray(TrainJob(config, offline, "run"), workers=2)
    events, strikes = [], [kill_one_training_worker, kill_the_feed]

    def kill(event):
        events.append(event)
        losses = sum(seen["event"] == "worker_lost" for seen in events)
        # A checkpoint from before the last strike may still be told after it, when there is nobody to strike.
        if event["event"] == "checkpoint" and strikes and losses + len(strikes) == 2:
            strikes.pop(0)(ray_cluster)

    result = train_live(TrainJob(config, live, "run"), LONG, workers=2, on_event=kill)
    assert sum(event["event"] == "worker_lost" for event in events) >= 2
    assert curve(live) == curve(offline)
    assert [step for step, *_ in curve(live)] == list(range(1, STEPS + 1))
    assert result.evals == expected.evals
    assert live.datasets.get("tiny@1").digest == offline.datasets.get("tiny@1").digest
    assert 0 < result.facts["live"]["peak_bytes"] <= LONG.buffer_bytes


def test_the_command_trains_live_on_a_ray_of_its_own_and_leaves_a_page(tmp_path, morphogen):
    lake = new_lake(tmp_path)
    table = {
        "steps": 20,
        "batch_sequences": 8,
        "model": CONFIG["model"],
        "live": {"params": "tiny@1", "tokens": SEQUENCES * SEQ_LEN, "shard_sequences": SHARD},
    }
    config = tmp_path / "run.toml"
    config.write_text(toml_of(table) + '[[data]]\ndataset = "tiny@1"\n')
    arguments = ("train", str(config), "--run=run", f"--lake={lake.uri}", "--json", "--workers=2")
    made = morphogen.run(*arguments, "--live", RAY_ADDRESS="")
    assert made.returncode == 0, made.stderr
    summary = json.loads(made.stdout)
    assert summary["facts"]["live"]["digest"] == lake.datasets.get("tiny@1").digest
    assert "tokens/s" in made.stderr
    assert "Live training: run" in (tmp_path / "run-live.html").read_text()
    again = morphogen.run(*arguments, RAY_ADDRESS="")
    assert json.loads(again.stdout) == summary, "without --live the same file means the same run"
