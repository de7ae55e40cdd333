"""What only a CUDA device can show of the trainer: its own ways of computing are the CPU's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainer.config import ModelConfig
from trainer.documents import numbered
from trainer.lattice.cell import Lattice
from trainer.lattice.pool import Pool
from trainer.lattice.replay import Replays
from trainer.lattice.sampling import run_samples
from trainer.lattice.targets import make_target
from trainer.lattice.train_config import LatticeTrainConfig, parse_lattice_config
from trainer.loss import token_losses
from trainer.model import Llama
from trainer.optim import Optimizer
from trainer.precision import Precision

pytestmark = pytest.mark.cuda
END = 31
WINDOWED: dict[str, Any] = {
    "window_pattern": "S",
    "window": 70,
    "value_embeddings": True,
    "repeat": {"first": 0, "last": 0},
}
LATTICE: dict[str, Any] = {
    "lattice": {"size": [3, 3, 3], "types": 27, "fire": 0.5},
    "target": {"kind": "growth", "shapes": 2},
    "steps": 8,
    "batch": 4,
    "micro_batches": 2,
    "time": [4, 6],
    "segment": 2,
    "optimizer": {"name": "adamw", "weight_decay": 0.0},
}


@pytest.mark.parametrize("head_dim", [16, 64])
@pytest.mark.parametrize(
    ("options", "by_document"),
    [({}, True), (WINDOWED, True), (WINDOWED, False)],
    ids=["documents", "windows in documents", "windows"],
)
def test_attention_within_documents_and_windows_is_that_of_a_cpu(
    head_dim: int, options: dict[str, Any], by_document: bool
) -> None:
    """FlexAttention and its gradients, in float32, against the mask of a CPU; rows of several blocks, of odd length."""
    fields = {"depth": 2, "dim": 4 * head_dim, "heads": 4, "kv_heads": 2, **options}
    shape = ModelConfig.model_validate(fields).shape(32)
    drawn = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(0, 32, (3, 301), generator=drawn)
    torch.set_float32_matmul_precision("highest")
    losses, gradients = [], []
    for device in ("cpu", "cuda"):
        model = Llama(shape, 0).to(device)
        moved_BT = tokens_BT.to(device)
        found_BT = model(moved_BT, numbered(moved_BT, END) if by_document else None)
        found_BT.sum().backward()
        losses.append(found_BT.detach().cpu())
        gradients.append(
            {name: weight.grad.cpu() for name, weight in model.named_parameters() if weight.grad is not None}
        )
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-4)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-3 * float(gradient.abs().max()))


@pytest.mark.parametrize("limit", [None, 64 * 96], ids=["at once", "in pieces"])
def test_the_compiled_loss_is_that_of_a_cpu(limit: int | None) -> None:
    """Losses and gradients in float32 of 200 tokens, kept whole and in pieces of 64 that are computed again."""
    drawn = torch.Generator().manual_seed(0)
    hidden_ND, head_VD = torch.randn(200, 32, generator=drawn), torch.randn(96, 32, generator=drawn)
    targets_N = torch.randint(0, 96, (200,), generator=drawn)
    torch.set_float32_matmul_precision("highest")
    found = []
    for device in ("cpu", "cuda"):
        hidden, head = (each.to(device).requires_grad_() for each in (hidden_ND, head_VD))
        losses_N = token_losses(hidden, head, targets_N.to(device), limit, compiled=True)
        losses_N.sum().backward()
        assert hidden.grad is not None
        assert head.grad is not None
        found.append([each.detach().cpu() for each in (losses_N, hidden.grad, head.grad)])
    for there, here in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"pool": {"slots": 2}}, {"precision": "bf16"}], ids=["plain", "pool", "bf16"])
def test_recorded_passes_are_the_ones_launched_kernel_by_kernel(changes: dict[str, Any]) -> None:
    """Eight updates of drawn lengths, each length recorded when it comes again: the same losses and weights."""
    config = parse_lattice_config({"precision": "fp32", **LATTICE, **changes})
    plain, recorded = trained(config, False), trained(config, True)
    torch.testing.assert_close(recorded[0], plain[0], rtol=1e-5, atol=1e-6)
    for name, weight in plain[1].items():
        torch.testing.assert_close(recorded[1][name], weight, rtol=1e-4, atol=1e-5)


def trained(config: LatticeTrainConfig, record: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The losses of ``config.steps`` updates, and the weights after them."""
    model = Lattice(config.lattice, 0).to_device(torch.device("cuda"))
    optimizer, target, replays = (
        Optimizer(model, config.optimizer),
        make_target(config.lattice, config.target),
        Replays(model, record),
    )
    pool = None
    if config.pool is not None:
        pool = Pool(config.pool, target, config.lattice.size, config.seed, config.batch)
    losses = []
    for update in range(config.steps):
        precision: Precision = "bf16" if config.precision == "bf16" else "fp32"
        what = (target, pool, update, range(config.batch), precision, False, replays)
        losses.append(run_samples(config, model, *what)[0])
        optimizer.step()
        optimizer.zero_grad()
    return torch.tensor(losses), {name: weight.detach().cpu() for name, weight in model.named_parameters()}
