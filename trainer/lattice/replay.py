"""An update's pass as a CUDA graph: recorded once for each shape, then launched whole.

Each step of the lattice is some hundred kernels of a few microseconds. Launched one by one they take far longer to
launch than to run (docs/decisions/0521); a graph launches a whole pass, forward and backward, at once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Given(NamedTuple):
    """What a pass is told of its volumes, on the model's device.

    rows [N, B, C]: the states that it begins with; ids int64 [B]: the samples' numbers; goals [I, B, goal]; wanted
    [J, B]: what judged cells should show.
    """

    rows: Tensor
    ids: Tensor
    goals: Tensor
    wanted: Tensor


Pass = Callable[[], tuple[Tensor, Tensor]]
"""Computes the loss [] that gradients are wanted of, and the states after the steps [N, B, C]."""
Prepare = Callable[[Given], Pass]
"""Makes ready whatever a pass needs that is not computed on the device alone."""


class Replays:
    """The recorded passes of one model: those of a shape are computed once as they are, and from then on launched.

    On a CPU, or with ``record`` False, all are computed as they are. Parameters must stay where they are in memory.
    """

    def __init__(self, model: nn.Module, record: bool = True) -> None:
        self._parameters = list(model.parameters())
        self._record = record and self._parameters[0].is_cuda
        self._graphs: dict[Hashable, _Graph | None] = {}
        self._sums: list[Tensor] = []

    def run(self, shape: Hashable, prepare: Prepare, given: Given, scale: float) -> tuple[Tensor, Tensor]:
        """Add the gradient of ``scale`` times a pass's loss to every parameter; returns the loss and the states after.

        Passes of the same ``shape`` differ in nothing but ``given``.
        """
        if not self._record or shape not in self._graphs:
            self._graphs[shape] = None  # its libraries are loaded by this pass; the next of its shape is recorded
            loss, after = prepare(given)()
            (loss * scale).backward()
            return loss.detach(), after.detach()
        self._hold_sums()
        graph = self._graphs[shape]
        if graph is None:
            other = next((each for each in self._graphs.values() if each is not None), None)
            graph = self._graphs[shape] = _Graph(self._parameters, self._sums, prepare, given, scale, other)
        return graph.launch(given)

    def _hold_sums(self) -> None:
        """Let every parameter's gradient be the tensor that graphs add to."""
        if not self._sums:
            self._sums = [torch.zeros_like(parameter) for parameter in self._parameters]
        for parameter, held in zip(self._parameters, self._sums, strict=True):
            if parameter.grad is not held:
                if parameter.grad is None:
                    held.zero_()
                else:
                    held.copy_(parameter.grad)
                parameter.grad = held


class _Graph:
    """One recorded pass: what is given is copied to where it was when it was recorded. It shares the memory of
    ``other``, since no two run at once."""

    def __init__(
        self,
        parameters: Sequence[Tensor],
        sums: list[Tensor],
        prepare: Prepare,
        given: Given,
        scale: float,
        other: _Graph | None,
    ) -> None:
        self._given = Given(*(tensor.clone() for tensor in given))
        # Kept, since the kernels read what it refers to, where it was when they were recorded.
        compute = self._compute = prepare(self._given)
        self._graph = torch.cuda.CUDAGraph()
        pool = None if other is None else other._graph.pool()
        # Other threads, such as one that writes a checkpoint, go on with what a recording thread may not do.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            loss, after = compute()
            gradients = torch.autograd.grad(loss * scale, parameters)
            torch._foreach_add_(sums, list(gradients))
            self._loss, self._after = loss.detach(), after.detach()

    def launch(self, given: Given) -> tuple[Tensor, Tensor]:
        """Run the pass on ``given``; its results are the caller's own."""
        for mine, theirs in zip(self._given, given, strict=True):
            mine.copy_(theirs)
        self._graph.replay()
        return self._loss.clone(), self._after.clone()
