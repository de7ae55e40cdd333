"""A checkpoint's files carry everything, to the bit, and refuse what does not fit."""

import pytest
import torch

from trainer import checkpoint
from trainer.config import ModelConfig, OptimizerConfig
from trainer.errors import CheckpointError, DivergedError
from trainer.model import Llama
from trainer.optim import make_optimizer


def trained(steps: int, **overrides: object) -> tuple[Llama, torch.optim.AdamW]:
    model = Llama(
        ModelConfig.model_validate({"depth": 1, "dim": 16, "heads": 2, **overrides}).shape(30),
        0,
    )
    optimizer = make_optimizer(model, OptimizerConfig())
    for step in range(steps):
        train(model, optimizer, step)
    return model, optimizer


def train(model: Llama, optimizer: torch.optim.AdamW, step: int) -> float:
    x_BT = torch.randint(0, 30, (2, 9), generator=torch.Generator().manual_seed(step))
    optimizer.zero_grad()
    loss = model(x_BT).mean()
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("tied", [False, True])
def test_continues_to_the_same_bits(tied: bool) -> None:
    model, optimizer = trained(5, tied=tied)
    files = checkpoint.pack(model, optimizer, {"step": 5})
    assert files == checkpoint.pack(model, optimizer, {"step": 5})
    other, other_optimizer = trained(0, tied=tied)
    assert checkpoint.unpack(files, other, other_optimizer) == {"format": 1, "step": 5}
    assert [train(model, optimizer, step) for step in (5, 6, 7)] == [
        train(other, other_optimizer, step) for step in (5, 6, 7)
    ]
    assert checkpoint.pack(model, optimizer, {"step": 8}) == checkpoint.pack(other, other_optimizer, {"step": 8})


def test_weights_that_are_not_finite_make_no_checkpoint() -> None:
    model, optimizer = trained(1)
    with torch.no_grad():
        model.lm_head.weight[3, 2] = float("nan")
    with pytest.raises(DivergedError, match=r"step 4: weight lm_head.weight is not finite"):
        checkpoint.pack(model, optimizer, {"step": 4})


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"dim": 32}, "weights are"),
        ({"layers": 2}, "layers.1.input_layernorm.weight: unknown in the weights"),
        ({"tied": True}, "lm_head.weight: missing"),
    ],
)
def test_other_shapes_are_refused(overrides: dict, says: str) -> None:
    files = checkpoint.pack(*trained(1, **overrides), {"step": 1})
    with pytest.raises(CheckpointError, match=says):
        checkpoint.unpack(files, *trained(0))


def test_cut_short_and_other_formats_are_refused() -> None:
    files = checkpoint.pack(*trained(1), {"step": 1})
    with pytest.raises(CheckpointError, match="checkpoint at step 1 cannot be read"):
        checkpoint.unpack(files | {checkpoint.MODEL: files[checkpoint.MODEL][:-9]}, *trained(0))
    with pytest.raises(CheckpointError, match="format = 2"):
        checkpoint.unpack(files | {checkpoint.STATE: b'{"format": 2, "step": 1}'}, *trained(0))
