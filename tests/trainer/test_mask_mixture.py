"""What counts and what is read when: both functions of position and step alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datalake import Plan, PlanSource
from tests.trainer.lake_data import add_dataset, patterned, tiny_config, tiny_lake
from trainer import TrainJob, run_training
from trainer.config import DataConfig
from trainer.errors import ConfigError
from trainer.mask import frame_tokens, target_mask
from trainer.mixture import factor, mixture_schedule, weights_at
from trainer.target_masks import TargetMasks

PAPER = {"family": "nca", "grid": [12, 12], "patch": 2}


def test_frames_by_spec() -> None:
    assert frame_tokens(PAPER) == 38
    assert frame_tokens({"family": "shuffled", "base": PAPER}) == 38
    assert frame_tokens({"family": "nca", "grid": [4, 4, 4], "patch": 2}) == 10
    assert frame_tokens({"family": "dyck", "brackets": 3}) is None


def test_the_published_mask() -> None:
    """The published trainer's targets: the first 37 of 1,024 positions do not count, 987 do (one is past our last)."""
    counted_T = target_mask(1025, 38, "first_frame")
    assert not counted_T[:37].any()
    assert counted_T[37:].all()
    assert counted_T.sum() == 987


def test_delimiters_are_the_frames_edges() -> None:
    tokens = ["<", "a", "b", ">"] * 3 + ["<", "c"]
    counted_T = target_mask(len(tokens), 4, "first_frame+delimiters")
    assert [token for token, counts in zip(tokens[1:], counted_T, strict=True) if counts] == ["a", "b", "a", "b", "c"]


@pytest.mark.parametrize(("frame", "mask"), [(None, "first_frame"), (38, "none")])
def test_all_counts_without_frames_or_without_mask(frame: int | None, mask: str) -> None:
    assert target_mask(100, frame, mask).all()  # type: ignore[arg-type]


def test_counts_come_from_the_plan() -> None:
    plan = Plan([PlanSource(5, 1.0, "a"), PlanSource(7, 2.0, "b")], seed=3, batch=4, schedule=[(6, (1.0, 0.0))])
    framed_T = target_mask(9, 4, "first_frame")
    masks = TargetMasks(plan, [framed_T, np.ones(8, dtype=bool)], torch.device("cpu"))
    for step in range(12):
        weights_BT = masks.of(plan.rows(step))
        assert weights_BT is not None
        assert masks.count(step) == weights_BT.sum()
        assert torch.equal(weights_BT[:, 0] == 0, torch.from_numpy(plan.rows(step)[:, 0] == 0))
    assert TargetMasks(plan, [np.ones(8, dtype=bool)] * 2, torch.device("cpu")).of(plan.rows(0)) is None


def test_front_loaded_ends() -> None:
    first, changes = mixture_schedule(
        [
            DataConfig(dataset="nca@1", weight=3.0, share="front_loaded", until_fraction=0.2),
            DataConfig(dataset="text@1"),
        ],
        100,
    )
    assert (first, changes) == ((3.0, 1.0), [(20, (0.0, 1.0))])


def test_constant_shares_change_nothing() -> None:
    assert mixture_schedule([DataConfig(dataset="a@1", weight=0.5), DataConfig(dataset="b@1")], 9) == ((0.5, 1.0), [])


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.integers(1, 300), until=st.floats(0.01, 1.0), share=st.sampled_from(["annealed", "front_loaded"]))
def test_the_schedule_says_every_change(steps: int, until: float, share: str) -> None:
    data = [
        DataConfig.model_validate({"dataset": "a@1", "share": share, "until_fraction": min(until, 0.99)}),
        DataConfig(dataset="b@1", weight=2.0),
    ]
    current, changes = mixture_schedule(data, steps)
    coming = dict(changes)
    factors = [factor(data[0], step, steps) for step in range(steps)]
    assert factors == sorted(factors, reverse=True)
    for step in range(steps):
        current = coming.pop(step, current)
        assert current == weights_at(data, step, steps)
    assert not coming
    Plan([PlanSource(9, weight) for weight in mixture_schedule(data, steps)[0]], seed=0, batch=512, schedule=changes)


def test_a_mask_that_leaves_nothing_is_refused_before_the_first_step(tmp_path: Path) -> None:
    """Rows that end within their first frame: the loss would be a division by no predictions."""
    lake = tiny_lake(tmp_path / "lake")
    for name, grid in (("framed", [12, 12]), ("small", [4, 4])):  # frames of 38 and of 6 tokens, rows of 24
        add_dataset(lake, name, patterned(8), **{**PAPER, "grid": grid})
    for changes, says in (
        (
            {"data": [{"dataset": "framed@1"}]},
            r"nothing to predict in dataset framed@1, whose rows of 24 tokens",
        ),
        ({"data": [{"dataset": "small@1"}, {"dataset": "framed@1"}]}, "first frame of 38; set it to 'none'"),
        ({"data": [{"dataset": "small@1"}], "eval": ["framed@1"]}, "in dataset framed@1"),
    ):
        for mask in ("first_frame", "first_frame+delimiters"):
            with pytest.raises(ConfigError, match=says):
                run_training(
                    TrainJob(tiny_config(**{"eval": [], **changes, "loss_mask": mask}), lake, "run"), threads=1
                )
    assert lake.runs.list() == []
    run_training(
        TrainJob(tiny_config(data=[{"dataset": "framed@1"}], eval=[], steps=1, schedule={}), lake, "run"), threads=1
    )


def test_an_evaluation_of_rows_that_stand_for_no_bytes_has_no_bits_per_byte(tmp_path: Path) -> None:
    lake = tiny_lake(tmp_path / "lake")
    add_dataset(lake, "ends", np.zeros((4, 24), dtype="<u2"), kind="text", no_bytes=True)
    result = run_training(TrainJob(tiny_config(eval=["ends@1"], steps=1, schedule={}), lake, "run"), threads=1)
    assert result.evals["ends@1"]["bytes"] == 0
    assert "bits_per_byte" not in result.evals["ends@1"]


def test_a_folder_for_curves_that_takes_no_files_is_refused(tmp_path: Path) -> None:
    lake = tiny_lake(tmp_path / "lake")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"tensorboard = .*no files can be made in .*leave tensorboard out"):
        run_training(TrainJob(tiny_config(tensorboard=str(tmp_path / "file" / "curves")), lake, "run"), threads=1)
    assert lake.runs.list() == []
