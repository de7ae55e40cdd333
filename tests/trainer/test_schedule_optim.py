"""Schedules are pure functions of the step."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.config import MuonConfig, OptimizerConfig, ScheduleConfig, TransferConfig
from trainer.schedule import decay_factor, lr_factor, muon_momentum, transfer_factor


# A busy machine must not fail a test of pure arithmetic.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(["cosine", "wsd"]),
    shape=st.sampled_from(["linear", "sqrt"]),
    steps=st.integers(1, 400),
    warmup=st.floats(0, 1),
    decay=st.floats(0, 1),
    final=st.floats(0, 1),
)
def test_factor_bounds_and_order(name: str, shape: str, steps: int, warmup: float, decay: float, final: float) -> None:
    warmup_steps = int(warmup * steps)
    schedule = ScheduleConfig.model_validate(
        {
            "name": name,
            "warmup_steps": warmup_steps,
            "decay": shape,
            "decay_fraction": decay,
            "final_fraction": final,
        }
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


def test_sqrt_decay_falls_fastest_at_first() -> None:
    schedule = ScheduleConfig(name="wsd", decay="sqrt", decay_fraction=0.25, final_fraction=0.2)
    factors = [lr_factor(schedule, step, 16) for step in range(16)]
    assert factors == [1.0] * 12 + [pytest.approx(1 - 0.8 * done**0.5) for done in (0.25, 0.5, 0.75, 1.0)]


def test_freeze_then_ramp() -> None:
    transfer = TransferConfig(source="a@1", freeze_steps=3, ramp_steps=4)
    assert [transfer_factor(transfer, step) for step in range(9)] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert [transfer_factor(TransferConfig(source="a@1", freeze_steps=1), step) for step in range(3)] == [0, 1, 1]
    assert transfer_factor(TransferConfig(source="a@1"), 0) == 1


def test_weight_decay_goes_in_a_line() -> None:
    config = OptimizerConfig(weight_decay_final_fraction=0.0)
    assert [decay_factor(config, step, 5) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert decay_factor(OptimizerConfig(), 3, 5) == decay_factor(config, 0, 1) == 1.0


def test_muon_s_momentum_warms_up() -> None:
    config = MuonConfig(momentum=0.95, momentum_start=0.75, momentum_warmup_steps=4)
    assert [muon_momentum(config, step) for step in range(6)] == pytest.approx([0.75, 0.8, 0.85, 0.9, 0.95, 0.95])
