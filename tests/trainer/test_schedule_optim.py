"""Schedules are pure functions of the step; every parameter is in exactly one named group."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.config import ModelConfig, OptimizerConfig, ScheduleConfig
from trainer.model import Llama
from trainer.optim import make_optimizer, parameter_groups
from trainer.schedule import lr_factor


# A busy machine must not fail a test of pure arithmetic.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(["cosine", "wsd"]),
    steps=st.integers(1, 400),
    warmup=st.floats(0, 1),
    decay=st.floats(0, 1),
    final=st.floats(0, 1),
)
def test_factor_bounds_and_order(name: str, steps: int, warmup: float, decay: float, final: float) -> None:
    warmup_steps = int(warmup * steps)
    schedule = ScheduleConfig.model_validate(
        {"name": name, "warmup_steps": warmup_steps, "decay_fraction": decay, "final_fraction": final}
    )
    factors = [lr_factor(schedule, step, steps) for step in range(steps)]
    assert all(0.0 <= factor <= 1.0 + 1e-12 for factor in factors)
    rising, falling = factors[:warmup_steps], factors[warmup_steps:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)


def test_cosine_ends() -> None:
    schedule = ScheduleConfig(warmup_steps=10, final_fraction=0.1)
    factors = [lr_factor(schedule, step, 110) for step in range(110)]
    assert factors[0] == 0.1
    assert factors[9] == factors[10] == 1.0
    assert factors[-1] == pytest.approx(0.1)
    assert lr_factor(ScheduleConfig(final_fraction=0.0), 50, 101) == pytest.approx(0.5)


def test_stable_decay_is_flat_then_a_line() -> None:
    schedule = ScheduleConfig(name="wsd", warmup_steps=2, decay_fraction=0.25, final_fraction=0.0)
    factors = [lr_factor(schedule, step, 16) for step in range(16)]
    assert factors == [0.5] + [1.0] * 11 + [0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_is_in_one_group(tied: bool) -> None:
    model = Llama(ModelConfig(depth=2, dim=16, heads=2, tied=tied).shape(40), 0)
    groups = parameter_groups(model)
    names = [name for group in groups for name in group.parameters]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert {group.name: group.decayed for group in groups} == (
        {"hidden": True, "embedding": False, "norm": False}
        if tied
        else {"hidden": True, "head": True, "embedding": False, "norm": False}
    )


def test_only_matrices_decay() -> None:
    """With zero gradients AdamW's step is the decay alone."""
    model = Llama(ModelConfig(depth=1, dim=16, heads=2).shape(40), 0)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = make_optimizer(model, OptimizerConfig(lr=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, weight in model.named_parameters():
        decayed = weight.ndim == 2 and "embed" not in name
        torch.testing.assert_close(weight.detach(), before[name] * (0.95 if decayed else 1.0), msg=name)
