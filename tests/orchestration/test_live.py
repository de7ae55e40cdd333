"""Training while generating: the same rows, order, losses and dataset as one after the other, within the bound."""

from __future__ import annotations

import itertools
import os
import signal
import threading

import numpy as np
import pytest

from datalake import Lake
from generator import parse_spec
from orchestration.errors import InvalidRequestError
from orchestration.generation.job import run_generation
from orchestration.generation.local import generate_here
from orchestration.generation.request import GenerateRequest
from orchestration.live.config import LiveRequest
from orchestration.live.job import live_stream
from orchestration.live.stream import ask
from tests.ray_fixtures import TINY_SPEC
from trainer import TrainJob, load_metrics, local_batches, parse_config, run_training
from trainer.inputs import open_inputs

SEQ_LEN = TINY_SPEC["seq_len"]
SEQUENCES, SHARD, STEPS, BATCH = 200, 16, 70, 8  # an epoch is 25 steps; the last shard is short

CONFIG = {
    "model": {"depth": 1, "dim": 16, "heads": 2},
    "data": [{"dataset": "tiny@1"}, {"dataset": "other@1", "weight": 0.3}],
    "eval": ["other@1"],
    "eval_sequences": 8,
    "steps": STEPS,
    "batch_sequences": BATCH,
    "checkpoint_every": 9,
    "eval_every": 30,
    "log_every": 1,
    "publish": "tiny-model",
}
REQUEST = LiveRequest(
    params="tiny@1", tokens=SEQUENCES * SEQ_LEN, dataset="tiny@1", seed=5, shard_sequences=SHARD, buffer_bytes=1 << 20
)

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Killed(BaseException):
    """Leaves the step loop as nothing that it catches could."""


def new_lake(folder):
    lake = Lake.open(str(folder / "lake"))
    params = lake.params.put("tiny", parse_spec(TINY_SPEC).model_dump(mode="json"))
    generate_here(lake, GenerateRequest(params, 30 * SEQ_LEN, dataset="other", seed=1, shard_sequences=16))
    return lake


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    lake = new_lake(tmp_path_factory.mktemp("offline"))
    generate_here(lake, GenerateRequest(lake.params.get("tiny@1"), SEQUENCES * SEQ_LEN, seed=5, shard_sequences=SHARD))
    return lake, run_training(TrainJob(parse_config(CONFIG), lake, "run"), threads=1)


def train(lake, run="run", on_step=lambda _step: None, request=REQUEST):
    """Train live in this process; what a kill of it leaves is in the lake."""
    config = parse_config(CONFIG)

    def watch(event):
        if event["event"] == "step":
            on_step(event["step"])

    with live_stream(lake, config, request, run) as stream:
        if stream is None:
            return run_training(TrainJob(config, lake, run), threads=1, on_event=watch)
        return run_training(
            TrainJob(config, lake, run, batches=stream.batches, planned=stream), threads=1, on_event=watch
        )


def curve(lake, run="run"):
    return [(row["step"], row["loss"], row["grad_norm"]) for row in load_metrics(lake, run) if "loss" in row]


def assert_same(lake, result, offline):
    other, expected = offline
    assert curve(lake) == curve(other)
    assert [step for step, *_ in curve(lake)] == list(range(1, STEPS + 1))
    assert result.evals == expected.evals
    assert lake.datasets.get("tiny@1").digest == other.datasets.get("tiny@1").digest
    mine, theirs = lake.runs.get("run").state, other.runs.get("run").state
    assert (mine["config_digest"], mine["inputs"]) == (theirs["config_digest"], theirs["inputs"])
    assert lake.models.get(result.model).files == other.models.get(expected.model).files
    assert lake.models.get(result.model).datasets == other.models.get(expected.model).datasets


def test_live_is_offline_to_the_bit(tmp_path, offline):
    lake = new_lake(tmp_path)
    result = train(lake)
    assert_same(lake, result, offline)
    live = result.facts["live"]
    assert live["digest"] == lake.datasets.get("tiny@1").digest
    assert (live["shards_written"], live["shards_reused"]) == (13, 0)
    assert live["generated_tokens"] == SEQUENCES * SEQ_LEN
    assert live["consumed_tokens"] == STEPS * BATCH * SEQ_LEN
    assert 0 < live["peak_bytes"] <= REQUEST.buffer_bytes
    assert lake.runs.get("run").state["result"]["facts"]["live"] == live
    assert lake.datasets.get("tiny@1").params == "tiny@1"
    assert train(lake) == result, "a finished run is not run again"


@pytest.mark.soak
def test_killed_in_the_middle_with_a_generator_too_it_resumes_to_the_same_bits(tmp_path, offline, ray_cluster):
    from ray.util.state import list_actors

    lake = new_lake(tmp_path)
    killed = []

    def kill(step):
        if step == 2:
            filters = [("class_name", "=", "FeedingWorker"), ("state", "=", "ALIVE")]
            for actor in list_actors(address=ray_cluster.dashboard, filters=filters):
                os.kill(actor.pid, signal.SIGKILL)
                killed.append(actor.pid)
        if step == 12:
            raise Killed

    # A buffer that holds one step's shards: generation is still under way when it is killed.
    slow = REQUEST.model_copy(update={"buffer_bytes": 2 * BATCH * SHARD * SEQ_LEN * 2, "actors": 1})
    with pytest.raises(Killed):
        train(lake, on_step=kill, request=slow)
    assert lake.runs.get("run").checkpoints[-1].step == 9
    result = train(lake, request=slow)
    assert_same(lake, result, offline)
    live = result.facts.get("live")
    if live is not None:  # else the first attempt had made all of it
        assert live["shards_reused"] > 0
        assert live["peak_bytes"] <= slow.buffer_bytes


@pytest.mark.soak
def test_two_ranks_get_the_plan_s_rows_and_a_trainer_that_stops_stops_the_generators(tmp_path):
    lake = new_lake(tmp_path)
    sequences, shard, world = 10_000, 256, 2  # two and a half of the plan's windows, in 40 shards of 64 KiB
    config = parse_config({**CONFIG, "steps": sequences // BATCH, "data": [{"dataset": "tiny@1"}]})
    bound = 2 * BATCH * shard * SEQ_LEN * 2
    request = REQUEST.model_copy(
        update={"tokens": sequences * SEQ_LEN, "shard_sequences": shard, "buffer_bytes": bound, "actors": 1}
    )
    with live_stream(lake, config, request, "run", workers=world) as stream:
        plan = open_inputs(config, lake, stream.dataset).plan
        few, taken = 10, [[], []]
        together, parked = threading.Barrier(world + 1, timeout=240), threading.Event()

        def consume(rank):
            batches = stream.batches(plan, 0, config.steps, world, rank, [stream.dataset])
            taken[rank] += itertools.islice(batches, few)
            together.wait()
            parked.wait()
            batches.close()

        ranks = [threading.Thread(target=consume, args=(rank,)) for rank in range(world)]
        for thread in ranks:
            thread.start()
        try:
            together.wait()
            stopped = wait_until_throttled(stream)
        finally:
            parked.set()
            for thread in ranks:
                thread.join()
    assert stopped["consumed_tokens"] == few * BATCH * SEQ_LEN
    assert stopped["generated_tokens"] < sequences * SEQ_LEN, "not all was made"
    assert 0 < stopped["peak_bytes"] <= bound
    _, depth, batches, *_ = stopped["timeline"][-1]
    assert bound // 2 - shard * SEQ_LEN * 2 < depth <= bound // 2, "full: one more shard would not have fitted"
    assert batches <= bound // 2
    assert [dataset.name for dataset in lake.datasets.list()] == ["other"], "nothing is visible before the commit"

    result = run_generation(
        lake, GenerateRequest(lake.params.get("tiny@1"), sequences * SEQ_LEN, seed=5, shard_sequences=shard, actors=1)
    )
    assert result.shards_reused == stopped["shards_written"]
    datasets = open_inputs(config, lake).train
    for rank in range(world):
        for batch, expected in zip(taken[rank], local_batches(plan, 0, few, world, rank, datasets), strict=True):
            assert batch.step == expected.step
            np.testing.assert_array_equal(batch.rows, expected.rows)
            np.testing.assert_array_equal(batch.tokens, expected.tokens)


def wait_until_throttled(stream):
    """The feed's facts once only the bound keeps generators from working, and nothing has changed for a while."""
    before = {}
    for _ in range(600):
        facts = ask(stream.feed.facts.remote())
        same = all(facts[key] == before.get(key) for key in ("shards_written", "consumed_tokens"))
        if same and facts["consumed_tokens"] and facts["throttled_s"] > before["throttled_s"]:
            return facts
        before = facts
        threading.Event().wait(0.5)
    raise AssertionError(f"never throttled: {facts}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "third@1"}, "'third@1': not one of the config's data; it has tiny@2, other@1"),
        ({"dataset": None}, "live.dataset: missing"),
        ({"dataset": "other@1"}, "'other@1': is other data than .live. describes; name other@2"),
        ({"seed": 5}, "'tiny@2': this data is committed as tiny@1"),
        ({"buffer_bytes": 1000}, "buffer_bytes = 1000: one step may need"),
        ({"actors": 99}, "actors = 99, live: that takes .* has 6 CPUs"),
        ({"backend": "triton"}, "backend = 'triton'"),
    ],
    ids=lambda value: "-".join(map(str, *value.items())) if isinstance(value, dict) else "",
)
def test_a_request_that_cannot_be_met_is_refused_before_anything_is_made(offline, changes, message):
    lake, _ = offline
    config = parse_config({**CONFIG, "data": [{"dataset": "tiny@2"}, {"dataset": "other@1", "weight": 0.3}]})
    request = REQUEST.model_copy(update={"dataset": "tiny@2", "seed": 77, **changes})
    before = sorted(lake.store.list(""))
    with pytest.raises(InvalidRequestError, match=message), live_stream(lake, config, request, "refused"):
        pass
    assert sorted(lake.store.list("")) == before
