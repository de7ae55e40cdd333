"""Attention on a CPU: our kernel and PyTorch's agree with the formula in float64, whatever the shape; threads change no
bit."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.config import ModelConfig
from trainer.cpu_attention import NARROW, PIECES, cpu_attention
from trainer.model import Llama


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def formula(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q·kᵀ/sqrt(E))·v, with no help from any kernel."""
    length, groups = q_BTHE.shape[1], q_BTHE.shape[2] // k_BTKE.shape[2]
    k_BTHE, v_BTHE = (part.repeat_interleave(groups, dim=2) for part in (k_BTKE, v_BTKE))
    scores_BHTS = torch.einsum("bthe,bshe->bhts", q_BTHE, k_BTHE) / math.sqrt(q_BTHE.shape[-1])
    allowed = torch.ones(length, length, dtype=torch.bool).tril() if mask is None else mask
    weights_BHTS = scores_BHTS.masked_fill(~allowed, -math.inf).softmax(dim=-1)
    return torch.einsum("bhts,bshe->bthe", weights_BHTS, v_BTHE)


def with_gradients(function: object, parts: list[Tensor], grad: Tensor) -> list[Tensor]:
    parts = [part.detach().requires_grad_() for part in parts]
    out = function(*parts)
    return [out.detach(), *torch.autograd.grad(out, parts, grad)]


def assert_threads_change_no_bit(run: Callable[[], list[Tensor]]) -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run())
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 9),
    length=st.integers(1, 40),
    heads=st.integers(1, 5),
    width=st.sampled_from([2, 4, 6, 8]),
    size=st.sampled_from([1e-3, 1.0, 30.0]),
    seed=st.integers(0, 2**31),
)
def test_narrow_heads_are_the_formula(batch: int, length: int, heads: int, width: int, size: float, seed: int) -> None:
    shape = (batch, length, heads, width)
    q, k, v, grad = (drawn(*shape, seed=seed + number) for number in range(4))
    q = q * size  # up to where nearly all the weight is one position's
    found = with_gradients(lambda *parts: cpu_attention(*parts, None), [q, k, v], grad)
    wanted = with_gradients(formula, [part.double() for part in (q, k, v)], grad.double())
    for ours, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=2e-5 * max(1.0, size), atol=2e-5 * max(1.0, size))


def test_scores_too_large_for_exp_are_no_trouble() -> None:
    q, k, v = (drawn(2, 9, 3, 4, seed=seed) * factor for seed, factor in enumerate((1e4, 1e3, 1.0)))
    out = cpu_attention(q, k, v, None)
    assert bool(out.isfinite().all())
    torch.testing.assert_close(out.double(), formula(q.double(), k.double(), v.double()), rtol=1e-4, atol=1e-4)


def test_what_is_no_number_stays_none() -> None:
    """A run that diverges is stopped by its guard, which has to see it."""
    q, k, v = (drawn(1, 5, 1, 4, seed=seed) for seed in range(3))
    v[0, 2, 0, 1] = math.nan
    out = cpu_attention(q, k, v, None)
    assert bool(out[0, :2].isfinite().all())
    assert bool(out[0, 2:, 0, 1].isnan().all())
    q[0, 3] = math.nan
    assert bool(cpu_attention(q, k, v, None)[0, 3].isnan().all())


@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 2, 4), (4, 4, 16), (2, 1, 64), (2, 2, 80)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_heads_are_the_formula(heads: int, kv_heads: int, width: int, dtype: torch.dtype) -> None:
    q = drawn(2, 17, heads, width, seed=1, dtype=dtype)
    k, v = (drawn(2, 17, kv_heads, width, seed=seed, dtype=dtype) for seed in (2, 3))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = cpu_attention(q, k, v, None)
    assert out.dtype == dtype
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    exact = formula(q.double(), k.double(), v.double())
    torch.testing.assert_close(out.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "kv_heads"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_compiled_heads_are_the_formula_at_any_length(
    dtype: torch.dtype, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several pieces or one, short or not, keys of one's own or shared."""
    monkeypatch.setattr("trainer.cpu_attention.SHORT", 140)
    monkeypatch.setattr("trainer.cpu_attention.has_tiles", lambda _width: False)
    torch._dynamo.reset()
    compiled = torch.compile(lambda *parts: cpu_attention(*parts, None), backend="aot_eager")
    tolerance = 2e-5 if dtype == torch.float32 else 4e-2
    for length in (32 * PIECES + 1, 32 * PIECES - 1, 141):
        q, grad = (drawn(2, length, 4, 16, seed=seed, dtype=dtype) for seed in (1, 4))
        k, v = (drawn(2, length, kv_heads, 16, seed=seed, dtype=dtype) for seed in (2, 3))
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            found = with_gradients(compiled, [q, k, v], grad)
        wanted = with_gradients(formula, [part.double() for part in (q, k, v)], grad.double())
        for ours, exact in zip(found, wanted, strict=True):
            assert ours.dtype == dtype
            torch.testing.assert_close(ours.double(), exact, rtol=tolerance, atol=tolerance)


def test_a_mask_holds_for_narrow_heads() -> None:
    q, k, v = (drawn(2, 12, 2, 4, seed=seed) for seed in range(3))
    mask = torch.ones(12, 12, dtype=torch.bool).tril() & (torch.arange(12)[:, None] - torch.arange(12) < 3)
    exact = formula(q.double(), k.double(), v.double(), mask)
    torch.testing.assert_close(cpu_attention(q, k, v, mask[None, None]).double(), exact, rtol=2e-5, atol=2e-5)


def test_threads_change_no_bit() -> None:
    parts, grad = [drawn(13, 21, 4, 4, seed=seed) for seed in range(3)], drawn(13, 21, 4, 4, seed=3)
    assert_threads_change_no_bit(lambda: with_gradients(lambda *parts: cpu_attention(*parts, None), parts, grad))


def test_the_operators_keep_pytorchs_rules() -> None:
    """Shapes without data, gradients, what is read and written: what a compiler takes for granted."""
    parts = tuple(drawn(3, 5, 2, 4, seed=seed).requires_grad_() for seed in range(3))
    torch.library.opcheck(torch.ops.morphogen.narrow_attention, parts)


def test_a_models_heads_are_computed_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of four heads at width 16, compiled or not, has the gradients that PyTorch's attention gives."""
    tokens = torch.randint(0, 50, (6, 20), generator=torch.Generator().manual_seed(1))
    shape = ModelConfig.model_validate({"depth": 1, "layers": 2, "dim": 16, "heads": 4}).shape(50)
    assert shape.head_dim <= NARROW

    def run(compiled: bool) -> dict[str, Tensor]:
        model = Llama(shape, 3)
        if compiled:
            for layer in model.model.layers:
                layer.compile(backend="aot_eager")
        model(tokens).mean().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    kernel, compiled = run(False), run(True)
    monkeypatch.setattr("trainer.cpu_attention.NARROW", 0)
    plain = run(False)
    for name, gradient in plain.items():
        torch.testing.assert_close(kernel[name], gradient, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of x86 processors")
@pytest.mark.parametrize("cpu", [("generic", ""), ("haswell", "+avx,+avx2,+fma,+bmi,+bmi2")], ids=lambda cpu: cpu[0])
def test_the_kernel_is_right_on_lesser_processors(cpu: tuple[str, str], tmp_path: Path) -> None:
    """Compiled for no more than SSE2, and for AVX2."""
    code = """
import torch
from tests.trainer.test_cpu_attention import cpu_attention, drawn, formula, with_gradients
parts, grad = [drawn(7, 19, 3, 4, seed=seed) for seed in range(3)], drawn(7, 19, 3, 4, seed=3)
found = with_gradients(lambda *parts: cpu_attention(*parts, None), parts, grad)
wanted = with_gradients(formula, [part.double() for part in parts], grad.double())
for ours, exact in zip(found, wanted, strict=True):
    torch.testing.assert_close(ours.double(), exact, rtol=2e-5, atol=2e-5)
"""
    environment = {**os.environ, "NUMBA_CPU_NAME": cpu[0], "NUMBA_CPU_FEATURES": cpu[1]} | {
        "NUMBA_CACHE_DIR": str(tmp_path)
    }
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=300)
