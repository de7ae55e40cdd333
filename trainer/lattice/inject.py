"""What is written into states between steps: the goal at input cells, and the coarse lattice's view of each block."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trainer.lattice.config import LatticeConfig
from trainer.lattice.neighbours import Neighbours


class Injection:
    """Writes before each step; ``back`` is the adjoint.

    ``inputs_I`` int64 are the rows of the input cells, ``goal_IBG`` what their goal channels are set to.
    """

    def __init__(self, config: LatticeConfig, wiring: Neighbours, inputs_I: Tensor, goal_IBG: Tensor) -> None:
        self._goal = config.goal_channels
        self._inputs, self._values = inputs_I, goal_IBG
        self._coarse = config.coarse
        self._average: Tensor | None = None
        if config.coarse is not None:
            blocks = torch.from_numpy(block_of_cells(config)).to(wiring.order.device)
            count = int(np.prod(config.coarse.grid))
            self._average = torch.zeros(count, len(wiring.order), device=wiring.order.device)
            self._average[blocks, wiring.row_of] = 1.0
            self._spread = self._average.T.clone()
            self._average /= self._average.sum(1, keepdim=True)

    def _due(self, number: int) -> bool:
        return self._coarse is not None and number % self._coarse.every == 0

    def apply(self, state_NBC: Tensor, number: int) -> Tensor:
        """The state with which step ``number`` begins."""
        state = state_NBC.clone()
        if self._due(number):
            assert self._coarse is not None
            assert self._average is not None
            k = self._coarse.channels
            means = torch.einsum("kn,nbc->kbc", self._average.to(state.dtype), state[..., :k])
            state[..., -k:] = torch.einsum("nk,kbc->nbc", self._spread.to(state.dtype), means)
        state[self._inputs, :, self._goal] = self._values.to(state.dtype)
        return state

    def back(self, grad_NBC: Tensor, number: int) -> Tensor:
        """The gradient before ``apply`` of ``grad_NBC`` after it; overwritten in place."""
        # A plain assignment of 0 through an index copies that 0 from the host, in every step.
        grad_NBC[..., self._goal].index_fill_(0, self._inputs, 0.0)
        if self._due(number):
            assert self._coarse is not None
            assert self._average is not None
            k = self._coarse.channels
            sums = torch.einsum("nk,nbc->kbc", self._spread.to(grad_NBC.dtype), grad_NBC[..., -k:])
            grad_NBC[..., -k:] = 0
            grad_NBC[..., :k] += torch.einsum("kn,kbc->nbc", self._average.to(grad_NBC.dtype), sums)
        return grad_NBC


def block_of_cells(config: LatticeConfig) -> np.ndarray:
    """The coarse block of each cell, int64 [cells]: each side cut into parts of nearly equal length."""
    assert config.coarse is not None
    along = [np.arange(side) * blocks // side for side, blocks in zip(config.size, config.coarse.grid, strict=True)]
    _, y, z = config.coarse.grid
    return (along[0][:, None, None] * y * z + along[1][None, :, None] * z + along[2][None, None, :]).reshape(-1)
