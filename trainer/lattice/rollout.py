"""Many steps with gradients through all of them, in the memory of a few: a segment of steps is computed again.

The forward pass keeps the state before each segment. The backward pass computes a segment again with its activations,
goes back through it and adds the weights' gradients up in one place, which autograd is given once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from trainer.lattice.cell import Effective, Lattice
from trainer.lattice.config import LatticeConfig
from trainer.lattice.inject import Injection
from trainer.lattice.ledger import Ledger
from trainer.lattice.masks import FireMasks
from trainer.lattice.neighbours import Neighbours
from trainer.lattice.quantise import quantised
from trainer.lattice.sparse import Sparse
from trainer.lattice.step import Kept, Shape, step, step_back


@dataclass
class Tape:
    """What all segments of one rollout share. ``weights`` are those computed with, ``keep`` says that activations of
    the forward pass stay in memory instead of being computed again."""

    config: LatticeConfig
    wiring: Neighbours
    weights: Effective
    masks: FireMasks
    injection: Injection
    segment: int
    keep: bool
    whole: bool
    sparse: Sparse | None = None
    ledger: Ledger | None = None

    def run(self, state: Tensor, first: int, count: int, keep: bool) -> tuple[Tensor, list[Kept]]:
        """Steps ``first`` … ``first + count - 1`` from ``state``, and with ``keep`` what goes back through them."""
        kept = []
        for number in range(first, first + count):
            state = self.injection.apply(state, number)
            fires = self.masks.at(number, state.dtype)
            if self.sparse is not None:
                state = self.sparse.step(self.config, self.wiring, self.weights, state, fires, self.whole)
                continue
            state, made = step(self.config, self.wiring, self.weights, state, fires, keep, self.whole)
            if made is not None:
                kept.append(made)
        return state, kept

    def back(self, kept: list[Kept], first: int, grad: Tensor) -> Tensor:
        """The gradient before the steps that ``kept`` is of, from ``grad`` after them."""
        if self.ledger is None:
            shape = Shape.of(self.config, self.wiring, grad.shape[1])
            narrow = shape.members * shape.batch
            rows = {"seen": shape.rows, "d_in": shape.rows} | dict.fromkeys(
                ("z", "d_read", "y_hat", "d_up", "q", "d_down"), narrow
            )
            self.ledger = Ledger(self.weights, shape.chunks(grad.device), rows, self.segment)
        for number in reversed(range(first, first + len(kept))):
            grad = step_back(self.config, self.wiring, self.weights, kept.pop(), grad, self.ledger, self.whole)
            grad = self.injection.back(grad, number)
        return grad

    def gradients(self) -> list[Tensor | None]:
        """What the weights' gradients came to, in the order of ``Effective``; the ledger's memory is let go of."""
        if self.ledger is None:
            return [None] * len(fields(Effective))
        self.ledger.flush()
        grads, self.ledger = self.ledger.grads, None
        return [grads[field.name] for field in fields(Effective)]


class _Weights(torch.autograd.Function):
    """A scalar that every segment depends on, so that its backward pass comes last: it hands the gradients over."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, *weights: Tensor) -> Tensor:
        ctx.tape = tape
        return weights[0].new_zeros(())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, _grad: Tensor) -> tuple[Any, ...]:
        return None, *ctx.tape.gradients()


class _Segment(torch.autograd.Function):
    """``count`` steps from step ``first``."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, anchor: Tensor, state: Tensor, first: int, count: int) -> Tensor:
        ctx.tape, ctx.first, ctx.count = tape, first, count
        after, ctx.kept = tape.run(state, first, count, tape.keep)
        if not tape.keep:
            ctx.save_for_backward(state)
        ctx.shape, ctx.dtype, ctx.device = anchor.shape, anchor.dtype, anchor.device
        return after

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        kept = ctx.kept
        if not ctx.tape.keep:
            (state,) = ctx.saved_tensors
            _, kept = ctx.tape.run(state, ctx.first, ctx.count, keep=True)
        before = ctx.tape.back(kept, ctx.first, grad)
        return None, torch.zeros(ctx.shape, dtype=ctx.dtype, device=ctx.device), before, None, None


def rollout(
    model: Lattice,
    state_NBC: Tensor,
    steps: int,
    masks: FireMasks,
    injection: Injection,
    *,
    segment: int = 8,
    dtype: torch.dtype = torch.float32,
    keep: bool = False,
    offload: bool = False,
    whole: bool = False,
    sparse: Sparse | None = None,
    after: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """The state after ``steps`` steps, gradients through all of them; [rows, B, C] in the order of rows.

    ``segment`` steps are computed again at once, in ``dtype``; with ``keep`` nothing is. ``offload`` keeps the states
    between segments in host memory. With ``whole`` weights
    and states are rounded to 8 bits. ``sparse`` makes the steps event-driven, for a rollout without gradients.
    ``after(step, state)`` sees the state after each segment. Raises ValueError for ``sparse`` with gradients.
    """
    effective = model.effective()
    with torch.no_grad():
        weights = Effective(*(tensor.detach() for tensor in effective.tensors()))
        if whole:
            weights = quantised(weights)
        weights = Effective(*(tensor.to(dtype) for tensor in weights.tensors()))
    tape = Tape(model.config, model.wiring, weights, masks, injection, min(segment, steps), keep, whole, sparse)
    gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in effective.tensors())
    if gradients and sparse is not None:
        raise ValueError("sparse: event-driven steps have no gradients; call rollout under torch.no_grad()")
    anchor = _Weights.apply(tape, *effective.tensors()) if gradients else None
    del effective
    with torch.autograd.graph.save_on_cpu() if offload else nullcontext():
        for first in range(0, steps, segment):
            count = min(segment, steps - first)
            if anchor is None:
                state_NBC, _ = tape.run(state_NBC, first, count, keep=False)
            else:
                state_NBC = _Segment.apply(tape, anchor, state_NBC, first, count)
            if after is not None:
                after(first + count, state_NBC.detach())
    return state_NBC
