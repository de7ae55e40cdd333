"""Losses whose gradient is worked out in the same pass agree with float64; threads change no bit."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests.trainer.test_cpu_attention import assert_threads_change_no_bit
from trainer.loss import token_losses


def drawn(count: int, dim: int, vocab: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, a head, targets and what each token's loss counts."""
    generator = torch.Generator().manual_seed(seed)
    hidden, head = torch.randn(count, dim, generator=generator), torch.randn(vocab, dim, generator=generator)
    return hidden, head, torch.randint(0, vocab, (count,), generator=generator), torch.rand(count, generator=generator)


def with_gradients(hidden: Tensor, head: Tensor, targets: Tensor, factors: Tensor, limit: int | None) -> list[Tensor]:
    parts = [part.detach().requires_grad_() for part in (hidden, head)]
    losses = token_losses(*parts, targets, limit)
    return [losses.detach(), *torch.autograd.grad(losses, parts, factors)]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 40),
    dim=st.integers(1, 20),
    vocab=st.integers(1, 70),
    limit=st.sampled_from([None, 100]),
    seed=st.integers(0, 2**31),
)
def test_they_are_the_formula(count: int, dim: int, vocab: int, limit: int | None, seed: int) -> None:
    """Whole, and in chunks that are computed again."""
    hidden, head, targets, factors = drawn(count, dim, vocab, seed)
    exact = [part.double().requires_grad_() for part in (hidden, head)]
    wanted = F.cross_entropy(F.linear(*exact), targets, reduction="none")
    gradients = torch.autograd.grad(wanted, exact, factors.double())
    found = with_gradients(hidden, head, targets, factors, limit)
    for ours, theirs in zip(found, [wanted, *gradients], strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=2e-5, atol=2e-5)


def test_logits_far_apart() -> None:
    head = torch.tensor([[1e4], [-1e4], [0.0]])
    losses = token_losses(torch.ones(2, 1).requires_grad_(), head, torch.tensor([0, 2]))
    assert losses.tolist() == [0.0, 1e4]


def test_what_is_no_number_stays_none() -> None:
    hidden, head, targets, _ = drawn(4, 8, 20)
    hidden[1, 3] = math.nan
    losses = token_losses(hidden.requires_grad_(), head, targets)
    assert losses.isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize("token", [-1, 20])
def test_a_token_that_the_head_has_not_is_refused(token: int) -> None:
    """PyTorch refuses it, too; the kernel would write where nothing is."""
    hidden, head, targets, _ = drawn(4, 8, 20)
    targets[2] = token
    with pytest.raises(IndexError, match=f"token {max(token, int(targets.max()))}.*must be 0 to 19"):
        token_losses(hidden.requires_grad_(), head, targets)


def test_a_frozen_head_and_frozen_states() -> None:
    hidden, head, targets, factors = drawn(6, 8, 20)
    both = with_gradients(hidden, head, targets, factors, None)
    for number, parts in enumerate(((hidden.requires_grad_(), head), (hidden.detach(), head.requires_grad_()))):
        (gradient,) = torch.autograd.grad(token_losses(*parts, targets), parts[number], factors)
        assert torch.equal(gradient, both[1 + number])


def test_threads_change_no_bit() -> None:
    logits, _, targets, factors = drawn(50, 40, 40)
    exact = torch.eye(40)  # MKL's own sums may depend on threads; these have one term
    assert_threads_change_no_bit(lambda: with_gradients(logits, exact, targets, factors, None)[:2])
