"""What counts and what is read when: both functions of position and step alone."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datalake import Plan, PlanSource
from trainer.config import DataConfig
from trainer.mask import TargetMasks, frame_tokens, target_mask
from trainer.mixture import factor, mixture_schedule, weights_at

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
