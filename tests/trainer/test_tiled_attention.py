"""Attention in tiles agrees with the formula in float64, whatever the shape and the strides; threads change no bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.trainer.test_cpu_attention import assert_threads_change_no_bit, drawn, formula, with_gradients
from trainer.config import ModelConfig
from trainer.cpu_attention import cpu_attention
from trainer.model import Llama
from trainer.tiled_attention import attend
from trainer.tiles import QUERIES


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 3 * QUERIES + 9),
    kv_heads=st.integers(1, 3),
    groups=st.integers(1, 3),
    width=st.sampled_from([16, 32, 64, 80, 128]),
    size=st.sampled_from([1e-3, 1.0, 30.0]),
    seed=st.integers(0, 2**31),
)
@example(batch=1, length=QUERIES, kv_heads=1, groups=1, width=16, size=1.0, seed=0)
@example(batch=1, length=QUERIES + 1, kv_heads=1, groups=2, width=48, size=1.0, seed=0)
@example(batch=2, length=2 * QUERIES + 16, kv_heads=2, groups=2, width=112, size=1.0, seed=0)
@example(batch=1, length=4 * QUERIES + 31, kv_heads=1, groups=1, width=96, size=1.0, seed=0)
def test_it_is_the_formula(
    batch: int, length: int, kv_heads: int, groups: int, width: int, size: float, seed: int
) -> None:
    q, grad = (drawn(batch, length, kv_heads * groups, width, seed=seed + number) for number in range(2))
    k, v = (drawn(batch, length, kv_heads, width, seed=seed + number) for number in (2, 3))
    q = q * size / math.sqrt(width / 8)  # up to where nearly all the weight is one position's
    found = with_gradients(attend, [q, k, v], grad)
    wanted = with_gradients(formula, [part.double() for part in (q, k, v)], grad.double())
    for ours, exact in zip(found, wanted, strict=True):
        assert ours.shape == exact.shape
        torch.testing.assert_close(ours.double(), exact, rtol=3e-5 * max(1.0, size), atol=3e-5 * max(1.0, size))


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(2, 3 * QUERIES + 9),
    part=st.floats(0, 1),
    groups=st.integers(1, 2),
    width=st.sampled_from([16, 80]),
    seed=st.integers(0, 2**31),
)
@example(length=2 * QUERIES + 16, part=0.3, groups=1, width=16, seed=0)
def test_what_comes_later_changes_no_bit(length: int, part: float, groups: int, width: int, seed: int) -> None:
    """Nor do positions whose output nobody wants get any gradient from those before them."""
    kept = 1 + int(part * (length - 2))
    q = drawn(2, length, 2 * groups, width, seed=seed)
    k, v = (drawn(2, length, 2, width, seed=seed + number) for number in (1, 2))
    others = [torch.cat([x[:, :kept], 7 * drawn(*x[:, kept:].shape, seed=seed + 3)], dim=1) for x in (q, k, v)]
    grad = drawn(*q.shape, seed=seed + 4)
    grad[:, kept:] = 0.0
    for one, other in zip(with_gradients(attend, [q, k, v], grad), with_gradients(attend, others, grad), strict=True):
        assert torch.equal(one[:, :kept], other[:, :kept])
    for gradient in with_gradients(attend, others, grad)[1:]:
        assert not gradient[:, kept:].any()


def test_what_memory_held_before_changes_no_bit() -> None:
    """What the kernel works in is not cleared: pieces of memory of its size are left full of what is no number."""
    parts, grad = [drawn(1, 77, 2, 32, seed=seed) for seed in range(3)], drawn(1, 77, 2, 32, seed=3)
    first = with_gradients(attend, parts, grad)
    for _ in range(5):
        for size in range(10_000, 50_000, 2_000):
            np.full(size, math.nan, np.float32)
        for one, other in zip(first, with_gradients(attend, parts, grad), strict=True):
            assert torch.equal(one, other)


def test_weights_too_small_to_count_are_none() -> None:
    """From e^-87 of the largest on, with no trace of a number that is not normal."""
    q, k = torch.ones(1, 3, 1, 16), torch.zeros(1, 3, 1, 16)
    k[0, 1] = 25.0
    v = drawn(1, 3, 1, 16)
    out = attend(q, k, v)
    assert torch.equal(out[0, 0], v[0, 0])
    assert torch.equal(out[0, 1:], v[0, 1].expand(2, 1, 16))


def test_strides_change_no_bit() -> None:
    """Parts of one wide product, heads before positions, numbers of a head apart, a gradient that is one number."""
    whole = drawn(2, 70, 12, 32)
    parts = whole.split(4, dim=2)
    grad = torch.ones(1, 1, 1, 1).expand(2, 70, 4, 32)
    plain = with_gradients(attend, [part.contiguous() for part in parts], grad.contiguous())
    turned = [part.transpose(1, 2).contiguous().transpose(1, 2) for part in parts]
    apart = [part.transpose(2, 3).contiguous().transpose(2, 3) for part in parts]
    for given_ in (list(parts), turned, apart):
        for one, other in zip(plain, with_gradients(attend, given_, grad), strict=True):
            assert torch.equal(one, other)


def test_scores_too_large_for_exp_are_no_trouble() -> None:
    q, k, v = (drawn(2, 59, 3, 16, seed=seed) * factor for seed, factor in enumerate((1e4, 1e3, 1.0)))
    out = attend(q, k, v)
    assert bool(out.isfinite().all())
    torch.testing.assert_close(out.double(), formula(q.double(), k.double(), v.double()), rtol=1e-4, atol=1e-4)


def test_what_is_no_number_stays_none() -> None:
    """A run that diverges is stopped by its guard, which has to see it."""
    q, k, v = (drawn(1, 50, 1, 16, seed=seed) for seed in range(3))
    v[0, 20, 0, 1] = math.nan
    assert bool(attend(q, k, v)[0, 20:, 0, 1].isnan().all())
    q[0, 3] = math.nan
    assert bool(attend(q, k, v)[0, 3].isnan().all())


def test_threads_change_no_bit() -> None:
    parts, grad = [drawn(5, 61, 3, 32, seed=seed) for seed in range(3)], drawn(5, 61, 3, 32, seed=3)
    assert_threads_change_no_bit(lambda: with_gradients(attend, parts, grad))


def test_the_operators_keep_pytorchs_rules() -> None:
    """Shapes without data, gradients, what is read and written: what a compiler takes for granted."""
    parts = tuple(drawn(3, 5, 2, 16, seed=seed).requires_grad_() for seed in range(3))
    torch.library.opcheck(torch.ops.morphogen.attention_in_tiles, parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wide_heads_are_computed_in_tiles(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 also where the rest is bfloat16; a head of 24 numbers is no multiple of a vector."""
    monkeypatch.setattr("trainer.cpu_attention.HAS_AMX", False)
    monkeypatch.setattr("trainer.tiled_attention.HAS_AVX512", True)  # the kernel runs, slower, on any processor
    called: list[tuple[int, ...]] = []

    def counted(*parts: Tensor) -> Tensor:
        called.append(tuple(parts[0].shape))
        return attend(*parts)

    monkeypatch.setattr("trainer.cpu_attention.attend", counted)
    for width in (16, 24, 64):
        parts = [drawn(1, 9, 2, width, seed=seed, dtype=dtype) for seed in range(3)]
        assert cpu_attention(*parts, None).dtype == dtype
    assert called == [(1, 9, 2, 16), (1, 9, 2, 64)]


def test_a_model_has_the_gradients_that_pytorchs_attention_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled or not, with keys shared by two heads."""
    tokens = torch.randint(0, 50, (3, 80), generator=torch.Generator().manual_seed(1))
    config = {"depth": 1, "layers": 2, "dim": 64, "heads": 4, "kv_heads": 2}
    shape = ModelConfig.model_validate(config).shape(50)

    def run(compiled: bool) -> dict[str, Tensor]:
        model = Llama(shape, 3)
        if compiled:
            for layer in model.model.layers:
                layer.compile(backend="aot_eager")
        model(tokens).mean().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    tiles, compiled = run(False), run(True)
    monkeypatch.setattr("trainer.cpu_attention.has_tiles", lambda _width: False)
    plain = run(False)
    for name, gradient in plain.items():
        torch.testing.assert_close(tiles[name], gradient, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-4, atol=1e-6)
