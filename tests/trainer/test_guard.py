"""A loss that leaps stops the run; noise, a fall and another mixture do not."""

import pytest

from trainer.errors import DivergedError
from trainer.guard import FIRST_STEPS, LossGuard


def guard_after(losses: list[float], limit: float | None = 3.0) -> LossGuard:
    guard = LossGuard(limit)
    for step, loss in enumerate(losses, 1):
        guard.check(step, loss, 1.0, int)
    return guard


def test_a_leap_is_said_in_one_line() -> None:
    guard = guard_after([10 - 0.1 * step for step in range(50)])
    with pytest.raises(DivergedError, match=r"step 51: loss = 9\.9000 is more than spike_nats = 3\.0 above") as caught:
        guard.check(51, 9.9, 1.0, lambda: 40)
    assert "the checkpoint at step 40 is kept" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan"))])
def test_no_number_stops_at_once(loss: float, norm: float) -> None:
    with pytest.raises(DivergedError, match=r"lower optimizer\.lr"):
        LossGuard(None).check(1, loss, norm, int)


def test_the_first_losses_and_small_ones_pass() -> None:
    guard_after([1.0] * (FIRST_STEPS - 1) + [100.0])
    guard_after([5.0, 7.0] * 40)
    guard_after([1.0] * 30 + [1000.0], limit=None)


def test_another_mixture_is_another_loss() -> None:
    guard = guard_after([1.0] * 50)
    guard.forget()
    guard.check(51, 9.0, 1.0, int)


def test_a_resumed_guard_judges_alike() -> None:
    losses = [4.0 - 0.01 * step for step in range(60)]
    whole, first, second = guard_after(losses), guard_after(losses[:33]), LossGuard(3.0)
    second.load(first.state)
    for loss in losses[33:]:
        second.check(0, loss, 1.0, int)
    assert second.state == whole.state
