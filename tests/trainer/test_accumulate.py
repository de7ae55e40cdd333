"""A batch in pieces has the gradient of the batch, whatever counts in it, and its norm is that of the sum."""

import pytest
import torch

from trainer.accumulate import accumulate
from trainer.config import ModelConfig
from trainer.model import Llama

VOCAB, ROWS, LENGTH = 40, 7, 19


def gradients(pieces: int, weights_BT: torch.Tensor | None, **overrides: object) -> tuple[float, list[torch.Tensor]]:
    config = ModelConfig.model_validate({"depth": 2, "dim": 32, "heads": 2, **overrides})
    model = Llama(config.shape(VOCAB), 0, recompute=config.recompute)
    tokens_BT = torch.randint(0, VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    nats = accumulate(model, tokens_BT, weights_BT, pieces, 1 / (ROWS * LENGTH), "fp32")
    return float(nats), [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("pieces", [2, 3, 7])
@pytest.mark.parametrize("masked", [False, True])
def test_pieces_equal_the_whole(pieces: int, masked: bool) -> None:
    weights_BT = None
    if masked:
        weights_BT = torch.ones(ROWS, LENGTH - 1)
        weights_BT[:3, :6] = 0
    whole, whole_gradients = gradients(1, weights_BT)
    nats, found = gradients(pieces, weights_BT)
    assert nats == pytest.approx(whole, rel=1e-6)
    for one, other in zip(found, whole_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
    norm = torch.nn.utils.get_total_norm(found)
    torch.testing.assert_close(norm, torch.nn.utils.get_total_norm(whole_gradients), rtol=1e-5, atol=0)


def test_what_does_not_count_has_no_gradient() -> None:
    weights_BT = torch.zeros(ROWS, LENGTH - 1)
    nats, found = gradients(1, weights_BT)
    assert nats == 0
    assert all(gradient.eq(0).all() for gradient in found)


def test_recomputing_blocks_changes_nothing() -> None:
    whole, whole_gradients = gradients(1, None)
    nats, found = gradients(1, None, recompute=True)
    assert nats == whole
    assert all(torch.equal(one, other) for one, other in zip(found, whole_gradients, strict=True))
