"""The average is the mean it says it is, and showing it leaves the weights as they were."""

import pytest
import torch
from torch import nn

from trainer.average import Average, share
from trainer.config import AverageConfig
from trainer.errors import CheckpointError

STEPS = 20


def run(config: AverageConfig) -> tuple[nn.Linear, Average, list[torch.Tensor]]:
    """A "model" whose weights after update i are i."""
    model = nn.Linear(2, 1, bias=False)
    average = Average(model, config)
    for done in range(1, STEPS + 1):
        with torch.no_grad():
            model.weight.fill_(done)
        average.update(done, STEPS)
    return model, average, [tensor.mean().item() for tensor in average.tensors.values()]


def test_ema_is_the_weighted_sum_from_its_start() -> None:
    _, _, [found] = run(AverageConfig(decay=0.75, start_fraction=0.5))
    expected = 11.0
    for done in range(12, 21):
        expected = 0.75 * expected + 0.25 * done
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("every", "start", "members"), [(1, 0.8, range(17, 21)), (3, 0.5, (12, 15, 18)), (7, 0, (7, 14))]
)
def test_late_is_the_plain_mean_of_its_members(every: int, start: float, members: range) -> None:
    config = AverageConfig(name="late", every=every, start_fraction=start)
    assert [done for done in range(1, STEPS + 1) if share(config, done, STEPS)] == list(members)
    _, _, [found] = run(config)
    assert found == pytest.approx(sum(members) / len(members))


def test_shown_and_back_again() -> None:
    model, average, [mean] = run(AverageConfig(name="late"))
    with average.swapped_in():
        assert model.weight.mean().item() == mean == pytest.approx(10.5)
        assert next(iter(average.tensors.values())).mean() == STEPS
    assert model.weight.eq(STEPS).all()
    assert next(iter(average.tensors.values())).mean() == mean


def test_without_an_average_the_weights_stand() -> None:
    model = nn.Linear(2, 1)
    for config in (None, AverageConfig(start_fraction=0.9)):
        average = Average(model, config)
        average.update(1, STEPS)
        before = model.weight.detach().clone()
        with average.swapped_in():
            assert torch.equal(model.weight, before)


def test_another_model_s_average_is_refused() -> None:
    with pytest.raises(CheckpointError, match="averaged weights are another model's"):
        Average(nn.Linear(2, 1), None).load({"weight": torch.zeros(3)})
