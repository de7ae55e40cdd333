"""A checkpoint's files carry everything, to the bit, and refuse what does not fit."""

from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load

from trainer import checkpoint
from trainer.average import Average
from trainer.config import AverageConfig, ModelConfig, OptimizerConfig
from trainer.errors import CheckpointError, DivergedError
from trainer.model import Llama
from trainer.optim import Optimizer

RULES = [
    {"name": "adamw"},
    {"name": "muon", "muon": {"momentum_warmup_steps": 4}},
    {"name": "hybrid"},
    {"name": "adamw8bit"},
]
MOVED = ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.input_layernorm.weight")


class Parts(NamedTuple):
    """What a checkpoint holds, in ``pack``'s order."""

    model: Llama
    optimizer: Optimizer
    average: Average


def trained(steps: int, optimizer: dict | None = None, **overrides: object) -> Parts:
    model = Llama(ModelConfig.model_validate({"depth": 1, "dim": 16, "heads": 2, **overrides}).shape(30), 0)
    config = OptimizerConfig.model_validate(optimizer or {})
    parts = Parts(model, Optimizer(model, config, MOVED), Average(model, AverageConfig(decay=0.5)))
    for step in range(steps):
        train(parts, step)
    return parts


def pack(*parts: object, limit: int = 1 << 30) -> dict[str, bytes]:
    return {name: bytes(data) for name, data in checkpoint.encode(checkpoint.snapshot(*parts), limit).items()}


def train(parts: Parts, step: int) -> float:
    x_BT = torch.randint(0, 30, (2, 9), generator=torch.Generator().manual_seed(step))
    parts.optimizer.zero_grad()
    loss = parts.model(x_BT).mean()
    loss.backward()
    parts.optimizer.step()
    parts.average.update(step + 1, 100)
    return loss.item()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["name"])
def test_continues_to_the_same_bits(rule: dict, tied: bool) -> None:
    wide = {"dim": 64} if rule["name"] == "adamw8bit" else {}  # smaller matrices' moments stay in float32
    parts = trained(5, rule, tied=tied, **wide)
    files = pack(*parts, {"step": 5})
    assert files == pack(*parts, {"step": 5})
    others = trained(0, rule, tied=tied, **wide)
    assert checkpoint.unpack(files, *others) == {"format": 1, "step": 5}
    assert [train(parts, step) for step in (5, 6, 7)] == [train(others, step) for step in (5, 6, 7)]
    assert pack(*parts, {"step": 8}) == pack(*others, {"step": 8})


def test_8_bit_moments_are_stored_as_such() -> None:
    moments = load(pack(*trained(1, {"name": "adamw8bit"}, dim=64), {"step": 1})["optimizer.safetensors"])
    name = "model.layers.0.self_attn.q_proj.weight.exp_avg"
    assert moments[f"{name}.codes"].dtype == torch.uint8
    assert moments[f"{name}.scale"].numel() * 256 == moments[f"{name}.codes"].numel() == 64 * 64
    assert moments["model.norm.weight.exp_avg"].dtype == torch.float32


def test_weights_that_are_not_finite_make_no_checkpoint() -> None:
    parts = trained(1)
    with torch.no_grad():
        parts.model.lm_head.weight[3, 2] = float("nan")
    with pytest.raises(DivergedError, match=r"step 4: weight lm_head.weight is not finite"):
        pack(*parts, {"step": 4})


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"dim": 32}, "weights are"),
        ({"layers": 2}, "layers.1.input_layernorm.weight: unknown in the weights"),
        ({"tied": True}, "lm_head.weight: missing"),
    ],
)
def test_other_shapes_are_refused(overrides: dict, says: str) -> None:
    files = pack(*trained(1, **overrides), {"step": 1})
    with pytest.raises(CheckpointError, match=says):
        checkpoint.unpack(files, *trained(0))


def test_cut_short_and_other_formats_are_refused() -> None:
    files = pack(*trained(1), {"step": 1})
    with pytest.raises(CheckpointError, match="checkpoint at step 1 cannot be read"):
        checkpoint.unpack(files | {"model.safetensors": files["model.safetensors"][:-9]}, *trained(0))
    with pytest.raises(CheckpointError, match="format = 2"):
        checkpoint.unpack(files | {checkpoint.STATE: b'{"format": 2, "step": 1}'}, *trained(0))
