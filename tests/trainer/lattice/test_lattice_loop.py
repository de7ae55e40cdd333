"""A lattice's run: exact resume at every step, two ranks as one, publishing, and what is refused before it begins."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from datalake import Lake
from generator.lattice import weights
from tests.processes import run_ranks
from tests.trainer.lattice.lattices import RUN, run_config
from trainer import load_metrics
from trainer.errors import ConfigError, DivergedError
from trainer.lattice.evaluate import evaluate_lattice
from trainer.lattice.learner import LatticeJob
from trainer.lattice.loop import run_lattice
from trainer.lattice.publish import open_lattice
from trainer.lattice.targets import make_target
from trainer.lattice.train_config import parse_lattice_config
from trainer.lattice.whole_file import WHOLE
from trainer.ranks import Ranks


class Killed(BaseException):
    """Leaves the loop as nothing it catches could."""


def rows(lake: Lake, run: str) -> list[dict]:
    return [{k: v for k, v in row.items() if not k.endswith("_per_s")} for row in load_metrics(lake, run)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Lake, dict]:
    lake = Lake.open(str(tmp_path_factory.mktemp("lattice")))
    result = run_lattice(LatticeJob(run_config(), lake, "whole"), threads=1)
    return lake, result.to_record()


def test_a_run_killed_at_every_step_is_the_run_never_killed(whole):
    lake, expected = whole
    for kill_at in range(1, 11):

        def kill(event: dict, kill_at: int = kill_at) -> None:
            if event["event"] == "step" and event["step"] == kill_at:
                raise Killed

        try:
            run_lattice(LatticeJob(run_config(), lake, "killed"), threads=1, on_event=kill)
        except Killed:
            continue
    result = run_lattice(LatticeJob(run_config(), lake, "killed"), threads=1)
    assert result.evals == expected["evals"]
    assert rows(lake, "killed") == rows(lake, "whole")
    assert len([row for row in rows(lake, "whole") if "loss" in row]) == 10
    models = [lake.models.get(f"grown@{version}") for version in (1, 2)]
    assert models[0].files == models[1].files


def test_what_is_published_opens_and_scores_the_same(whole):
    lake, result = whole
    config, model = open_lattice(lake, lake.models.get("grown@1"))
    assert config == run_config()
    found = evaluate_lattice(config, model, make_target(config.lattice, config.target), "fp32", full=True)
    assert found["overlap"] == result["evals"]["goal"]["overlap"]
    assert set(found["persists"]) == {"4", "16"}
    assert len(found["by_time"]) == len(found["recovers"]) == 8
    network = weights.parse(lake.models.open_file("grown@1", WHOLE))
    assert (network.types, network.channels, network.hidden) == (3, 8, 16)


def pair(rank: int, port: int, uri: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)

    def kill(event: dict) -> None:
        if event["event"] == "step" and event["step"] == 6:
            raise Killed

    with contextlib.suppress(Killed):
        run_lattice(LatticeJob(run_config(), Lake.open(uri), "pair"), Ranks.here(rank, 2), threads=1, on_event=kill)
    run_lattice(LatticeJob(run_config(), Lake.open(uri), "pair"), Ranks.here(rank, 2), threads=1)
    dist.destroy_process_group()


def test_two_ranks_train_as_one(whole):
    lake, _ = whole
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_ranks(pair, port, lake.store.uri)
    together, alone = rows(lake, "pair"), rows(lake, "whole")
    assert [row["step"] for row in together] == [row["step"] for row in alone]
    for ours, theirs in zip(together[:7], alone[:7], strict=True):  # until rounding to 8 bits tells last bits apart
        if "loss" in theirs:
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)  # 3e-4 apart with AVX-512


def test_accumulated_pieces_and_kept_activations_give_the_same_losses(tmp_path):
    lake = Lake.open(str(tmp_path))
    changes = {"quantise_fraction": 0.0, "steps": 4, "publish": None, "eval_every": 9}
    losses = []
    for name, more in (("a", {}), ("b", {"micro_batches": 3}), ("c", {"recompute": False}), ("d", {"segment": 8})):
        run_lattice(LatticeJob(run_config(**changes, **more), lake, name), threads=1)
        losses.append([row["loss"] for row in rows(lake, name) if "loss" in row])
    for others in losses[1:]:
        assert others == pytest.approx(losses[0], rel=1e-4)


def test_a_surface_run_warns_of_its_light_cone(tmp_path):
    lattice = {**RUN["lattice"], "types": 16, "layout": "columns", "fire": 1.0, "last_scale": 0.3}
    config = run_config(lattice=lattice, target={"kind": "surface"}, time=[2, 2], steps=2, pool=None, publish=None)
    events: list[dict] = []
    run_lattice(LatticeJob(config, Lake.open(str(tmp_path)), "surface"), threads=1, on_event=events.append)
    (warning,) = [event for event in events if event["event"] == "warning"]
    assert "needs 3 steps to reach" in warning["message"]


def test_a_run_that_diverges_says_so(tmp_path):
    config = run_config(optimizer={"lr": 1e30, "grad_clip": None}, quantise_fraction=0.0, publish=None)
    with pytest.raises(DivergedError):
        run_lattice(LatticeJob(config, Lake.open(str(tmp_path)), "diverges"), threads=1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"time": [0, 3]}, "time = "),
        ({"batch": 3, "micro_batches": 4}, "micro_batches = 4: batch = 3"),
        ({"optimizer": {"name": "muon"}}, "optimizer.name = 'muon'"),
        ({"lattice": {**RUN["lattice"], "norm": "layer"}}, "whole numbers have no layer norm"),
        ({"keep_every": 3}, "keep_every = 3"),
        ({"lattice": {**RUN["lattice"], "types": 99}}, "types = 99"),
        ({"colour": 1}, "colour: unknown field"),
    ],
)
def test_configs_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        parse_lattice_config({**RUN, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": {"kind": "growth", "extent": 5}}, "target.extent = 5: larger than the lattice"),
        ({"target": {"kind": "growth", "shapes": 8}}, "target.shapes = 8: lattice.goal = 2 channels code 4"),
        ({"lattice": {**RUN["lattice"], "boundary": "torus"}, "target": {"kind": "surface"}}, "lattice.boundary"),
        ({"lattice": {**RUN["lattice"], "channels": 12}}, "lattice.channels = 12"),
        ({"publish": "no/name"}, "publish"),
    ],
)
def test_a_run_that_cannot_be_begins_nothing(tmp_path: Path, changes, said):
    lake = Lake.open(str(tmp_path))
    with pytest.raises(Exception, match=said):
        run_lattice(LatticeJob(run_config(**changes), lake, "never"), threads=1)
    assert list(lake.runs.list()) == []
