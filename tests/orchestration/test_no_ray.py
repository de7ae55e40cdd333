"""Without Ray: the same dataset on this machine's cores, killed, stopped and resumed as with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from datalake import Lake
from generator import parse_spec
from orchestration import jobs
from orchestration.errors import GenerationFailedError, InvalidRequestError, JobStopped
from orchestration.generation.local import each_result, generate_here
from orchestration.generation.request import GenerateRequest
from orchestration.jobs import resume_run, train_run
from orchestration.pipeline.config import parse_pipeline
from orchestration.pipeline.job import PipelineSettings, run_pipeline
from orchestration.runs.signals import Stop
from orchestration.runs.view import view_run
from tests.orchestration.test_pipeline import PIPELINE
from tests.ray_fixtures import ROOT, TINY_SPEC
from tests.trainer.lake_data import add_dataset, patterned, tiny_config, tiny_lake
from trainer import TrainJob

TOKENS = 700 * TINY_SPEC["seq_len"]


def request(lake, **changes):
    params = lake.params.put("tiny", parse_spec(TINY_SPEC).model_dump(mode="json"))
    return GenerateRequest(params, **({"tokens": TOKENS, "shard_sequences": 128} | changes))


@pytest.fixture
def lake(tmp_path):
    return Lake.open(str(tmp_path / "lake"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    lake = Lake.open(str(tmp_path_factory.mktemp("undisturbed") / "lake"))
    return generate_here(lake, request(lake))


@pytest.mark.parametrize("cores", [1, 3, 8])
def test_any_number_of_cores_gives_the_same_dataset(lake, undisturbed, cores):
    result = generate_here(lake, request(lake, cpus_per_actor=cores))
    assert result.manifest == undisturbed.manifest
    view = view_run(lake, result.run)
    assert (view["state"], view["resources"]["cpus"], view["settings"]["ray"]) == ("finished", cores, False)


def test_what_the_lake_holds_is_not_made_again(lake):
    first = generate_here(lake, request(lake, tokens=TOKENS // 2))
    second = generate_here(lake, request(lake))
    assert second.shards_reused == sum(ref in first.manifest.shards for ref in second.manifest.shards) > 0


@pytest.mark.parametrize("field", ["actors", "gpus_per_actor"])
def test_what_only_ray_has_is_refused(lake, field):
    with pytest.raises(InvalidRequestError, match="without Ray"):
        generate_here(lake, request(lake, **{field: 1}))
    assert lake.runs.list() == []


def test_asked_in_the_lake_to_stop_and_resumed(lake, undisturbed, monkeypatch):
    monkeypatch.setenv("MORPHOGEN_LEASE_S", "1")
    stop, made = Stop(), []

    def advance(_tokens, note):
        made.append(note)
        lake.runs.ask_stop("r", "enough")
        deadline = time.monotonic() + 60
        while not stop.is_set() and time.monotonic() < deadline:
            time.sleep(0.02)

    with pytest.raises(JobStopped, match=r"r has 1 of 6 shards") as stopped:
        generate_here(lake, request(lake), advance, run="r", stop=stop)
    assert stopped.value.exit_code == 3
    assert view_run(lake, "r")["state"] == "stopped"
    again = resume_run(lake, "r", lake.runs.get("r").state, {})
    assert again["digest"] == undisturbed.manifest.digest
    assert again["shards_reused"] >= 1
    assert view_run(lake, "r")["attempts"] == 2


def test_killed_and_run_again_and_ray_never_imported(lake, undisturbed, tmp_path):
    request(lake)
    code = (
        "import sys, threading; from orchestration.cli import main\n"
        "from orchestration.generation import worker\n"
        "made, hang = [], worker.ShardWorker.make\n"
        "def make(self, first, rows):\n"
        "    made.append(first)\n"
        "    if len(made) > 3: threading.Event().wait()\n"
        "    return hang(self, first, rows)\n"
        "if sys.argv[1] == 'hang': worker.ShardWorker.make = make\n"
        f"try: main('generate tiny@1 --tokens={TOKENS} --shard-sequences=128 --no-ray --run=r --json'.split())\n"
        "finally: print([name for name in ('ray', 'torch') if name in sys.modules], file=sys.stderr)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MORPHOGEN_LAKE": lake.uri}

    def start(how):
        return subprocess.Popen(
            [sys.executable, "-c", code, how],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    process = start("hang")
    deadline = time.monotonic() + 120
    while len(list(lake.store.list("data/"))) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert view_run(lake, "r")["state"] == "lost"
    again = start("work")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    result = json.loads(out)
    assert (result["digest"], result["shards_reused"]) == (undisturbed.manifest.digest, 3)
    assert err.splitlines()[-1] == "[]"


def test_what_a_thread_raises_ends_the_work():
    seen = []

    def act(item):
        seen.append(item)
        if item == 2:
            raise GenerationFailedError("no")
        return item

    with pytest.raises(GenerationFailedError, match="no"):
        list(each_result(act, range(1000), 1, lambda: None))
    assert seen == [0, 1, 2]


def test_a_stop_does_not_wait_for_what_is_in_work():
    release = threading.Event()

    def poll():
        raise JobStopped("now")

    with pytest.raises(JobStopped):
        list(each_result(lambda _: release.wait(), [1], 1, poll))
    assert not release.is_set()
    release.set()


@pytest.mark.usefixtures("one_thread")
def test_a_pipeline_ends_and_is_found_again(lake):
    add_dataset(lake, "words", patterned(24, length=TINY_SPEC["seq_len"]), kind="text")
    config = parse_pipeline(PIPELINE | {"baseline": False}, "tiny")
    result = run_pipeline(lake, config, "p", settings=PipelineSettings(ray=False))
    assert (result["dataset"], result["heldout"]) == ("tiny@1", "tiny-heldout@1")
    assert {name: each["model"] for name, each in result["trainings"].items()} == {
        "pre": "tiny-pre@1",
        "language": "tiny-language@1",
    }
    view = view_run(lake, "p")
    assert (view["state"], view["settings"]["ray"]) == ("finished", False)
    assert run_pipeline(lake, config, "p", settings=PipelineSettings(ray=False)) == result
    with pytest.raises(InvalidRequestError, match="workers = 2"):
        PipelineSettings(ray=False, workers=2)


@pytest.mark.parametrize("told", [{"workers": "2"}, {"workers": "1..4"}, {"gpu": True}])
def test_what_only_ray_has_is_refused_by_a_training(tmp_path, told):
    lake = tiny_lake(tmp_path / "lake")
    with pytest.raises(InvalidRequestError, match=f"{next(iter(told))} = .*: without Ray there are none"):
        train_run(TrainJob(tiny_config(), lake, "r"), ray=False, **told)
    assert lake.runs.list() == []


def test_a_training_that_is_given_workers_goes_on_with_ray(tmp_path, monkeypatch):
    lake, asked = tiny_lake(tmp_path / "lake"), []
    result = train_run(TrainJob(tiny_config(steps=2, publish=None), lake, "r"), ray=False)
    monkeypatch.setattr(jobs, "train_run", lambda _training, **how: asked.append(how) or result)
    state = lake.runs.get("r").state
    for changes in ({}, {"workers": "2"}):
        resume_run(lake, "r", state, changes)
    assert [(how["ray"], how.get("workers")) for how in asked] == [(False, None), (True, "2")]
