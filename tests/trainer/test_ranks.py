"""Two processes train as one: the same losses to rounding, resumable to the bit, on any number of ranks after."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from datalake import Lake
from generator import parse_spec
from tests.processes import run_ranks
from tests.ray_fixtures import TINY_SPEC
from tests.trainer.lake_data import add_dataset, curve, eval_curve, patterned, tiny_config, tiny_lake
from trainer import Ranks, TrainJob, TrainResult, load_metrics, run_training
from trainer.inputs import open_inputs
from trainer.parallel import Parallel

CONFIG = tiny_config(publish="tiny")
WORLD = 2
PIECES: dict[str, Any] = {
    "data": [{"dataset": "framed@1"}, {"dataset": "train@1"}],
    "loss_mask": "first_frame",
    "micro_batches": 2,
    "lanes": 2,
    "steps": 6,
    "publish": None,
}


class Killed(BaseException):
    """Leaves the loop, on every rank at once, as nothing it catches could."""


def train(
    rank: int,
    lake_uri: str,
    run: str,
    *,
    world: int = WORLD,
    parallel: Parallel = "ddp",
    kill_at: int | None = None,
    **changes: Any,
) -> Any:
    """One rank's call; returns the rows it was given, by step."""
    rows: dict[int, list] = {}

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == kill_at:
            raise Killed

    def spying(*args: Any) -> Any:
        from trainer import local_batches

        for batch in local_batches(*args):
            rows[batch.step] = batch.rows.tolist()
            yield batch

    config = tiny_config(**{"publish": "tiny", **changes})
    lake = Lake.open(lake_uri)
    job = TrainJob(config, lake, run, parallel, batches=spying)
    with contextlib.suppress(Killed):
        run_training(job, Ranks.here(rank, world), on_event=watch, threads=1)
    return rows


def worker(rank: int, port: int, lake_uri: str, report: str) -> None:
    """Every scenario in one pair of processes, since starting them costs more than running them."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    facts: dict[str, Any] = {"rows": train(rank, lake_uri, "pair")}
    train(rank, lake_uri, "killed", kill_at=8)
    train(rank, lake_uri, "killed")
    facts["then-two"] = train(rank, lake_uri, "one-two-one", kill_at=10)
    train(rank, lake_uri, "pieces", **PIECES)
    for name, changes in (
        ("uneven", {"batch_sequences": 5}),
        ("diverges", {"optimizer": {"lr": 1e30, "grad_clip": None}, "schedule": {}, "checkpoint_every": 1}),
        ("pair", {"seed": 1}),
    ):
        try:
            train(rank, lake_uri, name, **changes)
        except Exception as error:  # noqa: BLE001  (reported to the test)
            facts[f"{name}-error"] = f"{type(error).__name__}: {error}"
    Path(f"{report}.{rank}").write_text(json.dumps(facts))
    dist.barrier()
    dist.destroy_process_group()
    # All is reported. Once, on a busy machine, a C++ thread that was still unwinding made the interpreter's own way out
    # abort ("terminate called without an active exception"); what this test is about was over by then.
    os._exit(0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("pair")
    lake = tiny_lake(folder / "lake")
    add_dataset(lake, "framed", patterned(16, seed=2), family="nca", grid=[4, 4], patch=2)
    train(0, lake.uri, "pieces-alone", world=1, **PIECES)
    first = train(0, lake.uri, "one-two-one", world=1, kill_at=5)
    run_ranks(worker, free_port(), lake.uri, str(folder / "report"))
    reports = [json.loads((folder / f"report.{rank}").read_text()) for rank in range(WORLD)]
    reports[0]["first-one"] = first
    return lake, reports


def test_losses_equal_one_process_to_rounding(pair: tuple[Lake, list[dict]], whole: tuple[Lake, TrainResult]) -> None:
    found, expected = load_metrics(pair[0], "pair"), load_metrics(whole[0], "whole")
    assert len(curve(found)) == 14
    for row, other in zip(curve(found), curve(expected), strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    for row, other in zip(eval_curve(found), eval_curve(expected), strict=True):
        assert row["eval"]["held@1"]["loss"] == pytest.approx(other["eval"]["held@1"]["loss"], rel=1e-4)


def test_each_row_goes_to_one_rank(pair: tuple[Lake, list[dict]]) -> None:
    plan = open_inputs(CONFIG, pair[0]).plan
    for step in range(CONFIG.steps):
        together = [row for report in pair[1] for row in report["rows"][str(step)]]
        assert together == plan.rows(step).tolist()


def test_killed_pair_resumes_to_the_bit(pair: tuple[Lake, list[dict]]) -> None:
    lake, _ = pair
    assert lake.runs.get("killed").state["attempts"] == 2
    assert curve(load_metrics(lake, "killed")) == curve(load_metrics(lake, "pair"))
    assert eval_curve(load_metrics(lake, "killed")) == eval_curve(load_metrics(lake, "pair"))
    files = [version.files for version in lake.models.history("tiny")]
    assert all(version == files[0] for version in files)


def test_one_then_two_then_one_read_the_plan_s_rows(pair: tuple[Lake, list[dict]]) -> None:
    """Killed alone after step 5, as a pair after step 10, finished alone: each starts at the checkpoint before."""
    lake, reports = pair
    alone, zero, one = reports[0]["first-one"], *(report["then-two"] for report in reports)
    last = train(0, lake.uri, "one-two-one", world=1)
    assert (list(alone), list(zero), list(last)) == ([0, 1, 2, 3, 4], [*"3456789"], [9, 10, 11, 12, 13])
    together = {**alone, **{int(step): zero[step] + one[step] for step in zero}, **last}
    plan = open_inputs(CONFIG, lake).plan
    assert [together[step] for step in range(14)] == [plan.rows(step).tolist() for step in range(14)]
    for row, other in zip(curve(load_metrics(lake, "one-two-one")), curve(load_metrics(lake, "pair")), strict=True):
        assert row == pytest.approx(other, rel=1e-4)


def test_masked_pieces_of_a_pair_equal_one_process(pair: tuple[Lake, list[dict]]) -> None:
    """Micro-batches, a mask that differs by source: the norm is that of the whole batch's gradient."""
    found, expected = (curve(load_metrics(pair[0], run)) for run in ("pieces", "pieces-alone"))
    assert len(found) == 6
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-4)


def test_failures_reach_every_rank(pair: tuple[Lake, list[dict]]) -> None:
    zero, one = pair[1]
    assert zero["uneven-error"] == one["uneven-error"]
    assert "batch_sequences = 5: must be a multiple of the 2 ranks" in one["uneven-error"]
    assert zero["diverges-error"].startswith("DivergedError")
    assert one["diverges-error"].startswith(("DivergedError", "RankZeroError"))
    assert zero["pair-error"].startswith("RunConflictError: run 'pair' exists with another config")
    assert one["pair-error"] == f"RankZeroError: rank 0 failed: {zero['pair-error']}"
    assert "uneven" not in pair[0].runs.list()


def soak_worker(rank: int, port: int, lake_uri: str, world: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    parallel: Parallel
    for parallel in ("ddp", "fsdp"):
        for run, kill_at in (("whole", None), ("killed", 8), ("killed", None)):
            name = f"{run}-{parallel}"
            train(
                rank, lake_uri, name, world=world, parallel=parallel, kill_at=kill_at, batch_sequences=12, publish=name
            )
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


@pytest.mark.soak
@pytest.mark.parametrize("world", [3, 4])
def test_more_ranks_resume_to_the_bit(tmp_path: Path, world: int) -> None:
    """With more than two ranks the order of additions shows; DDP regroups its buckets after the first pass."""
    lake = tiny_lake(tmp_path / "lake")
    train(0, lake.uri, "alone", world=1, batch_sequences=12)
    run_ranks(soak_worker, free_port(), lake.uri, world, world=world)
    alone = curve(load_metrics(lake, "alone"))
    for parallel in ("ddp", "fsdp"):
        whole, killed = (f"{run}-{parallel}" for run in ("whole", "killed"))
        assert lake.runs.get(killed).state["attempts"] == 2
        assert curve(load_metrics(lake, killed)) == curve(load_metrics(lake, whole))
        assert lake.models.get(f"{killed}@1").files == lake.models.get(f"{whole}@1").files
        for row, other in zip(curve(load_metrics(lake, whole)), alone, strict=True):
            assert row == pytest.approx(other, rel=1e-4)


def add_both(lake: Lake, rows: int = 200) -> None:
    """``computed@1``, which names no shard, and ``stored@1``, the same rows written."""
    # Not what every rank of these tests is to be forked with (tests/processes.py).
    from orchestration.generation.local import generate_here
    from orchestration.generation.request import GenerateRequest, commit_computed

    spec = parse_spec(TINY_SPEC | {"seq_len": 24})
    params = lake.params.put("automata", spec.model_dump(mode="json"))
    request = GenerateRequest(params, rows * spec.seq_len, dataset="stored", seed=5, shard_sequences=16)
    generate_here(lake, request)
    commit_computed(lake, replace(request, dataset="computed"))


def computed_worker(rank: int, port: int, lake_uri: str, world: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    for order, lanes in (("plain", {}), ("lanes", {"lanes": 12})):
        for run, name, kill_at in (
            ("stored", "stored", None),
            ("computed", "computed", None),
            ("killed", "computed", 8),
            ("killed", "computed", None),
        ):
            data = {"data": [{"dataset": f"{name}@1"}], "eval": [f"{name}@1"], "batch_sequences": 12, "steps": 40}
            train(rank, lake_uri, f"{run}-{order}", world=world, kill_at=kill_at, publish=None, **data, **lanes)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_lose_on_computed_rows_what_they_lose_on_stored_ones(tmp_path: Path, world: int) -> None:
    """To the bit, over two epochs, across a kill and a resume, in either order of rows."""
    lake = tiny_lake(tmp_path / "lake")
    add_both(lake)
    run_ranks(computed_worker, free_port(), lake.uri, world, world=world)
    for order in ("plain", "lanes"):
        metrics = {run: load_metrics(lake, f"{run}-{order}") for run in ("stored", "computed", "killed")}
        assert len(curve(metrics["stored"])) == 40
        evals = {
            run: [[step["eval"][name] for name in step["eval"]] for step in eval_curve(metrics[run])] for run in metrics
        }
        assert lake.runs.get(f"killed-{order}").state["attempts"] == 2
        for run in ("computed", "killed"):
            assert curve(metrics[run]) == curve(metrics["stored"])
            assert evals[run] == evals["stored"]
