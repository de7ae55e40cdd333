"""Products with weights agree with float64, whatever the shapes and strides, and have the same bits each time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests.trainer.test_cpu_attention import assert_threads_change_no_bit
from trainer import native_threads, processor, products
from trainer.config import ModelConfig, OptimizerConfig
from trainer.model import Llama
from trainer.optim import Optimizer
from trainer.product_kernel import BLOCK, DEPTH, PACKED
from trainer.product_tiles import PANEL, TILE_ROWS
from trainer.products import LEAST_PRODUCTS, LEAST_WIDTH, linear, weight_gradient


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def laid(matrix: Tensor, order: str) -> Tensor:
    """The same numbers in memory by rows, by columns, as a part of more of them, or each of them far from the next."""
    if order == "columns":
        return matrix.t().contiguous().t()
    if order == "part":
        return F.pad(matrix, (3, 2, 1, 4), value=float("nan"))[1:-4, 3:-2]
    if order == "apart":
        return matrix.repeat_interleave(2, 1)[:, ::2]
    return matrix


def assert_near(found: Tensor, a: Tensor, b: Tensor) -> None:
    """Within what sums of float32 may be off: a part of the sum of what is summed, without signs."""
    a, b = a.double(), b.double()
    bound = (a.abs() @ b.abs()) * (DEPTH + a.shape[1] / DEPTH) * 2**-24
    assert ((found.double() - a @ b).abs() <= bound).all()


orders = st.sampled_from(["rows", "columns", "part", "apart"])


def test_the_kernels_rows_are_those_that_the_operator_counts_in() -> None:
    assert products.TILE_ROWS == TILE_ROWS


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 2 * BLOCK + TILE_ROWS),
    inner=st.integers(0, 2 * DEPTH + 40),
    columns=st.integers(1, 3 * PANEL),
    of_a=orders,
    of_b=orders,
    seed=st.integers(0, 2**31),
)
@example(rows=BLOCK + 1, inner=DEPTH, columns=PANEL, of_a="rows", of_b="columns", seed=0)
@example(rows=TILE_ROWS, inner=DEPTH + 1, columns=PANEL + 1, of_a="columns", of_b="rows", seed=0)
@example(rows=TILE_ROWS + 5, inner=2, columns=2 * PACKED // DEPTH - 16, of_a="rows", of_b="rows", seed=0)
@example(rows=TILE_ROWS - 1, inner=1, columns=48, of_a="part", of_b="apart", seed=0)
@example(rows=2 * TILE_ROWS, inner=DEPTH, columns=PACKED // DEPTH + 17, of_a="apart", of_b="columns", seed=0)
def test_a_product(rows: int, inner: int, columns: int, of_a: str, of_b: str, seed: int) -> None:
    a, b = laid(drawn(rows, inner, seed=seed), of_a), laid(drawn(inner, columns, seed=seed + 1), of_b)
    found = products._product(a, b)
    assert found.is_contiguous()
    assert_near(found, a, b)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 300),
    inner=st.integers(1, 3 * LEAST_WIDTH),
    outer=st.integers(1, 3 * LEAST_WIDTH),
    of_x=orders,
    of_grad=st.sampled_from(["rows", "columns", "part", "apart", "alike"]),
    seed=st.integers(0, 2**31),
)
def test_gradients(rows: int, inner: int, outer: int, of_x: str, of_grad: str, seed: int) -> None:
    x, weight = laid(drawn(rows, inner, seed=seed), of_x), drawn(outer, inner, seed=seed + 1)
    if of_grad == "alike":  # as that of a sum, whose numbers are one in memory
        grad = drawn(1, 1, seed=seed).expand(rows, outer)
    else:
        grad = laid(drawn(rows, outer, seed=seed + 2), of_grad)
    x.requires_grad_()
    weight.requires_grad_()
    y = products._linear(x, weight)
    grad_x, grad_weight = torch.autograd.grad(y, (x, weight), grad)
    x, weight = x.detach(), weight.detach()
    assert_near(y.detach(), x, weight.t())
    assert_near(grad_x, grad, weight)
    assert_near(grad_weight, grad.t(), x)


def test_a_number_has_the_same_bits_wherever_in_a_product_it_lies() -> None:
    a, b = drawn(2 * BLOCK + 5, 700), drawn(700, 5 * PANEL + 7, seed=1)
    whole = products._product(a, b)
    for first in (1, TILE_ROWS - 1, BLOCK):
        assert torch.equal(products._product(a[first:], b), whole[first:])
        assert torch.equal(products._product(a, b[:, first:]), whole[:, first:])
    by_columns = products._product(laid(a, "columns"), laid(b, "columns"))
    assert torch.equal(by_columns, whole)


def test_threads_change_no_bit() -> None:
    x, weight, grad = drawn(700, 90), drawn(130, 90, seed=1), drawn(700, 130, seed=2)

    def both() -> tuple[Tensor, ...]:
        parts = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = products._linear(*parts)
        return (y, *torch.autograd.grad(y, parts, grad))

    assert_threads_change_no_bit(both)


def test_what_is_no_number_stays_in_its_row_and_column() -> None:
    x, weight = drawn(41, 70), drawn(75, 70, seed=1)
    x[7, 3] = float("nan")
    weight[74, 69] = float("inf")
    y = products._linear(x, weight)
    finite = torch.ones(41, 75, dtype=torch.bool)
    finite[7], finite[:, 74] = False, False
    assert torch.equal(y.isfinite(), finite)
    grad_weight = products._product(y.t(), drawn(41, 70))
    assert not grad_weight.isfinite().any()


def test_rows_without_a_gradient_count_for_exactly_nothing() -> None:
    x, grad = drawn(900, 80), drawn(900, 90, seed=1)
    grad[::3] = 0.0
    other = x.clone()
    other[::3] = drawn(300, 80, seed=2)
    assert torch.equal(products._product(grad.t(), x), products._product(grad.t(), other))
    assert not products._product(grad, drawn(90, 80))[::3].any()


def test_only_products_that_gain_by_it_go_to_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, ...]] = []
    multiplied = products._multiplied

    def counted(a: Tensor, b: Tensor) -> Tensor:
        taken.append((*a.shape, b.shape[1]))
        return multiplied(a, b)

    monkeypatch.setattr(products, "_multiplied", counted)
    monkeypatch.setattr(products, "HAS_AVX512", True)
    rows = LEAST_PRODUCTS // LEAST_WIDTH**2
    x, weight, grad = drawn(rows, LEAST_WIDTH), drawn(LEAST_WIDTH, LEAST_WIDTH), drawn(rows, LEAST_WIDTH)
    assert linear(x.view(2, -1, LEAST_WIDTH), weight).shape == (2, rows // 2, LEAST_WIDTH)
    weight_gradient(grad, x)
    enough = list(taken)
    linear(x[1:], weight)
    linear(x, weight[1:])
    weight_gradient(grad[1:], x[1:])
    weight_gradient(grad[:, 1:], x)
    linear(x.double(), weight.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    assert enough == taken == [(rows, LEAST_WIDTH, LEAST_WIDTH), (LEAST_WIDTH, rows, LEAST_WIDTH)]
    monkeypatch.setattr(products, "HAS_AVX512", False)
    linear(x, weight)
    weight_gradient(grad, x)
    assert enough == taken


def test_what_is_left_undone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "run_in_threads", lambda *_: None)  # as where there is no memory for panels
    with pytest.raises(MemoryError, match="300 × 64 and 64 × 80"):
        products._linear(drawn(300, 64), drawn(80, 64))


def test_threads_of_python_do_the_same_where_openmp_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, before = drawn(100, 70), drawn(70, 90, seed=1), torch.get_num_threads()
    expected = products._product(a, b)
    monkeypatch.setattr(processor, "openmp", lambda: None)
    monkeypatch.setattr(native_threads, "openmp", lambda: None)
    torch.set_num_threads(3)
    try:
        assert torch.equal(products._product(a, b), expected)
    finally:
        torch.set_num_threads(before)


def test_gradients_of_frozen_weights_are_not_computed() -> None:
    x, weight = drawn(300, 64).requires_grad_(), drawn(80, 64)
    products._linear(x, weight).sum().backward()
    assert x.grad is not None
    weight.requires_grad_()
    products._linear(x.detach(), weight).sum().backward()
    assert weight.grad is not None


def test_the_operators_keep_pytorchs_rules() -> None:
    """Shapes without data, gradients, what is read and written: what a compiler takes for granted."""
    parts = drawn(9, 5).requires_grad_(), drawn(3, 5).requires_grad_()
    torch.library.opcheck(torch.ops.morphogen.product_with_weight, parts)
    torch.library.opcheck(torch.ops.morphogen.product_of_rows, (drawn(5, 9).t(), drawn(5, 3)))


@pytest.mark.parametrize("compiled", [False, True])
def test_steps_of_a_wide_model_are_the_same_bits(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that lies elsewhere, as after a restart, changes nothing."""
    monkeypatch.setattr(products, "HAS_AVX512", True)
    monkeypatch.setattr(products, "LEAST_PRODUCTS", 0)
    shape = ModelConfig.model_validate({"depth": 1, "layers": 2, "dim": 96, "heads": 3}).shape(300)
    tokens = torch.randint(0, 300, (4, 91), generator=torch.Generator().manual_seed(1))

    def run(displaced: int) -> list[Tensor]:
        kept = torch.empty(displaced)
        model = Llama(shape, 3)
        if compiled:
            for layer in model.model.layers:
                layer.compile(backend="aot_eager", fullgraph=True)
        optimizer = Optimizer(model, OptimizerConfig())
        for _ in range(3):
            model(tokens).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert kept.numel() == displaced
        return [parameter.detach().clone() for parameter in model.parameters()]

    first, second = run(1), run(12_347)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
