"""What a training does not wait for: PyTorch where it does not compute, Ray Data's processes, parts of Ray Train."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake import Lake
from generator import parse_spec
from orchestration.generation.request import GenerateRequest
from orchestration.training import ray_data
from tests.ray_fixtures import TINY_SPEC, inline_toml
from tests.trainer.lake_data import tiny_lake
from trainer import local_batches, parse_config
from trainer.inputs import open_inputs

CONFIG = {
    "model": {"depth": 1, "dim": 16, "heads": 2},
    "data": [{"dataset": "train@1"}],
    "steps": 12,
    "batch_sequences": 4,
    "log_every": 1,
}


@pytest.mark.parametrize(
    "modules",
    ["trainer.config, trainer.job, trainer.inputs, trainer.result", "orchestration.jobs, orchestration.runs.names"],
)
def test_a_job_is_described_without_pytorch_and_ray(modules):
    assert loaded(modules, "torch", "ray") == "[]"


def test_a_driver_and_the_controller_do_without_pytorch():
    ours = "orchestration.training.ray_train, orchestration.live.job, orchestration.evaluation.harness_tasks"
    assert loaded(ours, "torch", "jinja2") == "[]"


def loaded(modules: str, *heavy: str) -> str:
    code = f"import sys, {modules}; from trainer import TrainJob; print([m for m in {heavy} if m in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(("own", "world"), [(1, 1), (5, 2), (10, 2), (99, 1)])
def test_ray_data_goes_on_where_a_rank_stops_reading_itself(ray_cluster, tmp_path, monkeypatch, own, world):  # noqa: ARG001
    inputs = open_inputs(parse_config(CONFIG), tiny_lake(tmp_path))
    step_bytes = 4 // world * inputs.seq_len * inputs.token_dtype.itemsize
    monkeypatch.setattr(ray_data, "OWN_BYTES", own * step_bytes)
    for rank in range(world):
        of_rank = (inputs.plan, 2, 12, world, rank, inputs.train)
        found, expected = list(ray_data.ray_data_batches(*of_rank)), list(local_batches(*of_rank))
        assert [batch.step for batch in found] == list(range(2, 12))
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine.rows, theirs.rows)
            np.testing.assert_array_equal(mine.tokens, theirs.tokens)


@given(items=st.lists(st.integers()), taken=st.integers(0, 5))
def test_what_a_thread_begins_gives_all_items_in_order_and_is_closed(items, taken):
    closed = threading.Event()

    def make():
        try:
            yield from items
        finally:
            closed.set()

    behind = ray_data.Beginning(make)
    assert list(itertools.islice(behind.items(), taken)) == items[:taken]
    behind.close()
    assert closed.wait(10)


def test_what_is_closed_before_it_has_begun_is_closed_once_it_has():
    may_begin, closed = threading.Event(), threading.Event()

    def make():
        try:
            may_begin.wait(10)
            yield 1
        finally:
            closed.set()

    behind = ray_data.Beginning(make)
    behind.close()
    may_begin.set()
    assert closed.wait(10)


def test_what_went_wrong_at_its_beginning_is_raised_where_the_items_are_taken():
    def make():
        raise ValueError("no such shard")
        yield

    with pytest.raises(ValueError, match="no such shard"):
        list(ray_data.Beginning(make).items())


@pytest.mark.soak  # a Ray of its own
@pytest.mark.timeout(300)
def test_of_a_training_on_this_machine_only_ranks_load_pytorch_and_nothing_spare_starts(morphogen, tmp_path):
    lake = Lake.open(str(tmp_path / "lake"))
    params = lake.params.put("tiny", parse_spec(TINY_SPEC).model_dump(mode="json"))
    run_generation_locally(lake, params)
    table = {**CONFIG, "data": [{"dataset": "tiny@1"}], "steps": 100_000, "checkpoint_every": 50_000}
    (morphogen.cwd / "train.toml").write_text(inline_toml(table))
    process = morphogen.start(
        *("train", "train.toml", "--run=r", f"--lake={lake.uri}", "--workers=2"), RAY_ADDRESS="local"
    )
    try:
        deadline = time.monotonic() + 200
        while not ((heartbeat := lake.runs.heartbeat("r")) and heartbeat.progress.get("done")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        there = {child.pid: child.cmdline()[0].split(".")[0] for child in psutil.Process(process.pid).children(True)}
        actors = sorted(name.removeprefix("ray::").strip() for name in there.values() if name.startswith("ray::"))
        named = [name for name in actors if name not in ("IDLE", "DashboardAgent", "RuntimeEnvAgent")]
        assert named == ["EventQueue", "RayTrainWorker", "RayTrainWorker", "SynchronizationActor", "TrainController"]
        with_torch = {pid for pid in (*there, process.pid) if "libtorch" in Path(f"/proc/{pid}/maps").read_text()}
        assert {there.get(pid, "driver").strip() for pid in with_torch} == {"ray::RayTrainWorker"}
        assert len(with_torch) == 2
    finally:
        process.terminate()
        process.communicate(timeout=60)


def run_generation_locally(lake: Lake, params) -> None:
    from orchestration.generation.local import generate_here

    generate_here(lake, GenerateRequest(params, 40 * TINY_SPEC["seq_len"], shard_sequences=16))
