"""Products with weights are the same by oneDNN as in float64, with their gradients, and the same bits each time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from trainer import products
from trainer.config import ModelConfig, OptimizerConfig
from trainer.model import Llama
from trainer.optim import Optimizer
from trainer.products import LEAST_ROWS, LEAST_WIDTH, linear

by_onednn = pytest.mark.skipif(not products.HAS_ONEDNN, reason="this build of PyTorch has no oneDNN")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@by_onednn
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(LEAST_ROWS, 3 * LEAST_ROWS),
    inner=st.integers(LEAST_WIDTH, 3 * LEAST_WIDTH),
    outer=st.integers(LEAST_WIDTH, 3 * LEAST_WIDTH),
    turned=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_product_and_its_gradients(rows: int, inner: int, outer: int, turned: bool, seed: int) -> None:
    x, weight, grad = (
        drawn(rows, inner, seed=seed),
        drawn(outer, inner, seed=seed + 1),
        drawn(rows, outer, seed=seed + 2),
    )
    x = x.t().contiguous().t() if turned else x
    parts = [part.requires_grad_() for part in (x, weight)]
    exact = [part.detach().double().requires_grad_() for part in parts]
    y, wanted = products._linear(*parts), F.linear(*exact)
    found = [y, *torch.autograd.grad(y, parts, grad)]
    for ours, theirs in zip(found, [wanted, *torch.autograd.grad(wanted, exact, grad.double())], strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)


@by_onednn
def test_only_products_that_gain_by_it_go_to_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, ...]] = []
    product = products._product

    def counted(x: Tensor, *rest: object) -> Tensor:
        taken.append(tuple(x.shape))
        return product(x, *rest)

    monkeypatch.setattr(products, "_product", counted)
    monkeypatch.setattr(products, "HAS_AVX512", True)
    weight = drawn(LEAST_WIDTH, LEAST_WIDTH)
    y = linear(drawn(2, LEAST_ROWS // 2, LEAST_WIDTH), weight)
    assert y.shape == (2, LEAST_ROWS // 2, LEAST_WIDTH)
    linear(drawn(LEAST_ROWS - 1, LEAST_WIDTH), weight)
    linear(drawn(LEAST_ROWS, LEAST_WIDTH), drawn(LEAST_WIDTH - 1, LEAST_WIDTH))
    linear(drawn(LEAST_ROWS, LEAST_WIDTH).double(), weight.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(drawn(LEAST_ROWS, LEAST_WIDTH), weight).dtype == torch.bfloat16
    assert taken == [(LEAST_ROWS, LEAST_WIDTH)]


@by_onednn
def test_gradients_of_frozen_weights_are_not_computed() -> None:
    x, weight = drawn(300, 64).requires_grad_(), drawn(80, 64)
    products._linear(x, weight).sum().backward()
    assert x.grad is not None
    weight.requires_grad_()
    products._linear(x.detach(), weight).sum().backward()
    assert weight.grad is not None


@by_onednn
def test_the_operator_keeps_pytorchs_rules() -> None:
    """Shapes without data, gradients, what is read and written: what a compiler takes for granted."""
    torch.library.opcheck(torch.ops.morphogen.linear, (drawn(7, 5).requires_grad_(), drawn(3, 5).requires_grad_()))


@pytest.mark.parametrize("compiled", [False, True])
def test_steps_of_a_wide_model_are_the_same_bits(compiled: bool) -> None:
    """Memory that lies elsewhere, as after a restart, changes nothing."""
    shape = ModelConfig.model_validate({"depth": 1, "layers": 2, "dim": 96, "heads": 3}).shape(300)
    tokens = torch.randint(0, 300, (4, 91), generator=torch.Generator().manual_seed(1))

    def run(displaced: int) -> list[Tensor]:
        kept = torch.empty(displaced)
        model = Llama(shape, 3)
        if compiled:
            for layer in model.model.layers:
                layer.compile(backend="aot_eager")
        optimizer = Optimizer(model, OptimizerConfig())
        for _ in range(3):
            model(tokens).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert kept.numel() == displaced
        return [parameter.detach().clone() for parameter in model.parameters()]

    first, second = run(1), run(12_347)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
