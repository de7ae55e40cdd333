"""What can never run is refused at once with what there is; what may run later says what it waits for."""

from __future__ import annotations

import pytest
import ray
from ray.exceptions import RpcError

from generator import parse_spec
from orchestration.cluster import resources as ray_resources
from orchestration.cluster.resources import (
    Demand,
    WaitNotice,
    autoscales,
    collective_seconds,
    demand_of_workers,
    draining_nodes,
    fits,
    rejoin_seconds,
    require,
)
from orchestration.errors import ClusterLostError, InvalidRequestError, JobStopped
from orchestration.generation.job import run_generation
from orchestration.generation.request import GenerateRequest
from orchestration.live.config import LiveRequest
from orchestration.live.job import train_live
from orchestration.runs.signals import Stop
from orchestration.training.ray_train import default_workers, train_on_ray
from tests.ray_fixtures import TINY_SPEC
from tests.trainer.lake_data import tiny_lake
from trainer import TrainJob, parse_config

CONFIG = {
    "model": {"depth": 1, "dim": 16, "heads": 2},
    "data": [{"dataset": "train@1"}],
    "steps": 4,
    "batch_sequences": 60,
}


@pytest.mark.parametrize(
    ("bundles", "nodes", "fit"),
    [
        ([{"CPU": 1}] * 4, [{"CPU": 4}], True),
        ([{"CPU": 1}] * 4, [{"CPU": 2}, {"CPU": 2}], True),
        ([{"CPU": 3}] * 2, [{"CPU": 4}, {"CPU": 2}], False),
        ([{"CPU": 0.1}] * 10, [{"CPU": 1}], True),
        ([{"GPU": 1, "CPU": 2}], [{"GPU": 1, "CPU": 1}, {"CPU": 8}], False),
        ([{"CPU": 2}, {"GPU": 1, "CPU": 1}], [{"GPU": 1, "CPU": 1}, {"CPU": 2}], True),
        ([{"GPU": 0, "CPU": 1}], [{"CPU": 1}], True),
        ([{"CPU": 1}], [], False),
    ],
)
def test_all_processes_need_room_at_once_each_on_one_node(bundles, nodes, fit):
    assert fits(bundles, nodes) == fit


def test_workers_leave_room_for_what_loads_their_rows():
    demand = demand_of_workers(4, use_gpu=False)
    assert not fits(demand.bundles, [{"CPU": 4.0}])
    assert fits(demand.bundles, [{"CPU": 5.0}])
    assert "5 CPUs" in demand.text


def test_a_wait_is_told_every_half_minute(ray_cluster):  # noqa: ARG001 - asked what it has
    now, said = [0.0], []
    notice = WaitNotice(Demand("workers = 90", ({"CPU": 1.0},) * 90, ""), clock=lambda: now[0], say=said.append)
    for now[0] in (29.0, 31.0, 45.0, 62.0):
        notice.poll()
    assert [line.split(":")[0] for line in said] == [
        "waiting for 31 s for 90 CPUs (workers = 90)",
        "waiting for 62 s for 90 CPUs (workers = 90)",
    ]
    assert "6 CPUs and no GPU" in said[0]
    at_hand = WaitNotice(Demand("workers = 1", ({"CPU": 1.0},), ""), clock=lambda: now[0], say=said.append)
    now[0] = 93.0
    at_hand.poll()
    assert said[-1].startswith("waiting for 31 s for Ray to start workers = 1: nothing else is missing (1 CPU)")


def test_lost_nodes_are_not_waited_for_for_ever(ray_cluster, monkeypatch):  # noqa: ARG001 - the Ray that is asked
    monkeypatch.setenv("MORPHOGEN_REJOIN_WAIT_S", "100")
    now, said = [0.0], []
    demand = Demand("workers = 90", ({"CPU": 1.0},) * 90, "use fewer --workers")
    notice = WaitNotice(demand, clock=lambda: now[0], say=said.append)
    for now[0] in (31.0, 62.0, 93.0, 124.0):
        notice.poll(started=True)
    assert len(said) == 4, "a job that has started says it, too"
    now[0] = 155.0
    with pytest.raises(ClusterLostError, match=r"90 CPUs, and for 124 s .*6 CPUs.* use fewer --workers"):
        notice.poll(started=True)
    fitting = WaitNotice(Demand("workers = 1", ({"CPU": 1.0},), ""), clock=lambda: now[0], say=said.append)
    for now[0] in (200.0, 300.0, 400.0):
        fitting.poll(started=True)
    assert len(said) == 4, "what fits is slow, or waits for others, and is no reason to give up"


def test_what_fits_and_is_never_started_is_not_waited_for_for_ever(ray_cluster, monkeypatch):  # noqa: ARG001
    monkeypatch.setenv("MORPHOGEN_START_WAIT_S", "60")
    now, said = [0.0], []
    notice = WaitNotice(Demand("workers = 1", ({"CPU": 1.0},), ""), clock=lambda: now[0], say=said.append)
    for now[0] in (31.0, 62.0):
        notice.poll()
    assert len(said) == 2
    now[0] = 93.0
    with pytest.raises(ClusterLostError, match=r"1 CPU have been free for 62 s, .* MORPHOGEN_START_WAIT_S"):
        notice.poll()


def test_a_driver_whose_node_the_cluster_gave_up_ends(ray_cluster, monkeypatch):  # noqa: ARG001
    here = ray.get_runtime_context().get_node_id()
    nodes = [{**node, "Alive": node["NodeID"] != here} for node in ray.nodes()]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    now = [0.0]
    notice = WaitNotice(Demand("workers = 1", ({"CPU": 1.0},), ""), clock=lambda: now[0], say=print)
    now[0] = 31.0
    with pytest.raises(ClusterLostError, match="given up the node of this command"):
        notice.poll(started=True)


@pytest.mark.parametrize("setting", ["MORPHOGEN_REJOIN_WAIT_S", "MORPHOGEN_COLLECTIVE_TIMEOUT_S"])
def test_a_wrong_time_to_wait_is_named(monkeypatch, setting):
    monkeypatch.setenv(setting, "soon")
    with pytest.raises(InvalidRequestError, match=rf"{setting} = 'soon': expected seconds"):
        rejoin_seconds() if "REJOIN" in setting else collective_seconds()


def lakes(folder):
    lake = tiny_lake(folder / "lake")
    lake.params.put("tiny", parse_spec(TINY_SPEC).model_dump(mode="json"))
    return lake


def generation(**changes):
    return lambda lake: run_generation(lake, GenerateRequest(lake.params.get("tiny@1"), 1024, **changes))


def training(parallel="ddp", **changes):
    return lambda lake: train_on_ray(TrainJob(parse_config(CONFIG), lake, "run", parallel=parallel), **changes)


def live(lake):
    request = LiveRequest(params="tiny@1", tokens=16 * TINY_SPEC["seq_len"], actors=3)
    config = parse_config(CONFIG | {"data": [{"dataset": "tiny@1"}], "batch_sequences": 4})
    train_live(TrainJob(config, lake, "run"), request, workers=4)


@pytest.mark.parametrize(
    ("job", "asked", "needs"),
    [
        (generation(cpus_per_actor=64), "cpus_per_actor = 64", "64 CPUs on one node"),
        (generation(gpus_per_actor=1.0), "gpus_per_actor = 1", "1 CPU and 1 GPU"),
        (training(workers=6), "workers = 6", "7.5 CPUs"),
        (training(workers=2, use_gpu=True), "workers = 2", "2 GPUs"),
        (training(workers=6, parallel="fsdp"), "workers = 6", "7.5 CPUs"),
        (live, "workers = 4 and actors = 3, live", "8 CPUs"),
    ],
    ids=["wide actor", "GPU actor", "workers", "GPU workers", "FSDP", "live"],
)
def test_what_can_never_start_is_refused_before_any_run_begins(ray_cluster, tmp_path, job, asked, needs):  # noqa: ARG001
    lake = lakes(tmp_path)
    with pytest.raises(InvalidRequestError) as raised:
        job(lake)
    said = str(raised.value)
    assert said.startswith(f"{asked}: ")
    assert needs in said
    assert "6 CPUs and no GPU" in said
    assert len(said.splitlines()) == 1
    assert lake.runs.list() == []


def test_a_part_of_a_gpu_or_whole_ones():
    params = object()
    for wrong in (1.5, -1.0, float("nan")):
        with pytest.raises(InvalidRequestError, match="gpus_per_actor"):
            GenerateRequest(params, 1, gpus_per_actor=wrong)


def test_by_default_there_are_as_many_workers_as_fit(ray_cluster, monkeypatch):  # noqa: ARG001
    import orchestration.training.ray_train as module

    assert default_workers(parse_config(CONFIG)) == (2, False)
    monkeypatch.setattr(module, "cluster_nodes", lambda: [{"CPU": 2.0, "GPU": 0.0}])
    assert default_workers(parse_config(CONFIG)) == (1, False)


def test_a_cluster_that_is_being_started_gets_time_and_one_that_grows_all_of_it(ray_cluster, monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    monkeypatch.setattr(ray_resources, "LOOK_S", 0.01)
    demand = Demand("cpus_per_actor = 64", ({"CPU": 64.0},), "lower it")
    assert not autoscales()
    stop = Stop()
    stop.ask("SIGTERM", 143)
    with pytest.raises(JobStopped, match="before it began"):
        require(demand, stop)
    nodes = iter([[{"CPU": 6.0}]] * 3 + [[{"CPU": 6.0}, {"CPU": 64.0}]])
    monkeypatch.setattr(ray_resources, "cluster_nodes", lambda: next(nodes))
    require(demand)
    assert "waiting for nodes to join" in capsys.readouterr().err
    monkeypatch.setattr(ray_resources, "cluster_nodes", lambda: [{"CPU": 6.0}])
    monkeypatch.setenv("MORPHOGEN_CLUSTER_WAIT_S", "0")
    with pytest.raises(InvalidRequestError, match="MORPHOGEN_CLUSTER_WAIT_S"):
        require(demand)
    monkeypatch.setattr(ray_resources, "autoscales", lambda: True)
    require(demand)


def test_a_ray_of_one_s_own_has_the_logical_cpus_that_the_job_needs(monkeypatch):
    from orchestration.cluster import session as ray_session

    asked = []
    monkeypatch.setattr(ray_session.ray, "init", lambda **options: asked.append(options["num_cpus"]))
    monkeypatch.setattr(ray_session, "local_cores", lambda: 2)
    for cpus in (0, 4.5, 1000):
        ray_session._start({}, cpus)
    assert asked == [4, 5, 16], "and no more than the machine can bear"


def no_read_access():
    class DiesAtItsStart:
        def __init__(self) -> None:
            raise PermissionError("no read access to /lake")

    return DiesAtItsStart, {}


def no_environment():
    class NeedsFolder:
        pass

    return NeedsFolder, {"runtime_env": {"working_dir": "gcs://_ray_pkg_0123456789abcdef.zip"}}


@pytest.mark.parametrize(
    ("actor", "reason"),
    [(no_read_access, "PermissionError: no read access to /lake"), (no_environment, "environment could not be set up")],
)
def test_an_actor_that_cannot_start_says_why(ray_cluster, actor, reason):  # noqa: ARG001
    import ray

    from orchestration.cluster.pool import ActorPool
    from orchestration.errors import WorkerDiedError
    from orchestration.generation.pool import ShardTasks

    cls, options = actor()
    faults = []
    demand = Demand("an actor", ({"CPU": 1.0},), "")
    remote = ray.remote(num_cpus=0, **options)(cls)
    with (
        ActorPool(lambda _: remote.remote(), lambda: 4, demand, fault=lambda *_, **facts: faults.append(facts)) as pool,
        pytest.raises(WorkerDiedError, match=reason),
    ):
        pool.work(ShardTasks([(0, 1)] * 4, lambda *_: None, "x"), lambda: None)
    assert reason in faults[0]["reason"]


def test_a_head_that_does_not_answer_drains_nothing(ray_cluster, monkeypatch):  # noqa: ARG001
    class Away:
        def get_draining_nodes(self, _timeout):
            raise RpcError("Deadline Exceeded")

    assert draining_nodes() == set()
    monkeypatch.setattr(ray_resources, "_client", lambda _address: Away())
    assert draining_nodes() == set()
