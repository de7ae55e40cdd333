"""Event-driven steps without gradients: a cell is computed again only when something that it sees has moved.

Each cell has announced a state, which is what its neighbours and its own change are computed from. When its state has
moved by more than ``threshold`` from what it announced, it announces anew, and it and its neighbours become stale. A
stale cell's change is computed when it next fires; any other cell's is the one computed last. With a threshold of 0
that is the dense step, in whole numbers to the bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.lattice.cell import Effective
from trainer.lattice.config import LatticeConfig
from trainer.lattice.neighbours import Neighbours
from trainer.lattice.norm import normalise
from trainer.lattice.quantise import ACTIVATION_BITS, rounded
from trainer.lattice.step import Shape, delta, rows_at, with_nothing


class Sparse:
    """The event-driven steps of one rollout. ``computed`` and ``possible`` count the cells computed and those that a
    dense step would have."""

    def __init__(self, threshold: float) -> None:
        if not threshold >= 0:
            raise ValueError(
                f"sparse = {threshold}: a threshold of 0 or more is needed; 0 changes nothing but the time"
            )
        self._threshold = threshold
        self._announced: Tensor | None = None
        self.computed = self.possible = 0

    @torch.no_grad()
    def step(
        self,
        config: LatticeConfig,
        wiring: Neighbours,
        w: Effective,
        state_NBC: Tensor,
        fires: Tensor | None,
        whole: bool,
    ) -> Tensor:
        """The next state; arguments as of ``step``."""
        if self._announced is None:
            self._announced = state_NBC.clone()
            self._change = torch.zeros_like(state_NBC)
            self._stale = torch.ones(len(state_NBC), dtype=torch.bool, device=state_NBC.device)
            self._real = wiring.order >= 0
        moved = (state_NBC - self._announced).abs().amax((1, 2)) > self._threshold
        self._announced[moved] = state_NBC[moved]
        self._stale |= torch.cat([moved, moved.new_zeros(1)])[wiring.gather].any(1)
        due = self._stale & self._real
        if fires is not None:
            due &= (fires != 0).any(1).squeeze(-1)
        self._compute(config, wiring, w, due, whole)
        self._stale &= ~due
        self.computed += int(due.sum())
        self.possible += config.cells
        after = state_NBC + (self._change if fires is None else self._change * fires)
        return after.clamp(-config.limit, config.limit)

    def _compute(self, config: LatticeConfig, wiring: Neighbours, w: Effective, due: Tensor, whole: bool) -> None:
        """Put the changes of the rows that are ``due`` beside those of the others."""
        assert self._announced is not None
        by_group = due.view(wiring.groups, wiring.members)
        groups = by_group.any(1).nonzero()[:, 0]
        if not len(groups):
            return
        # Rows that are due come first in each group; a group with fewer than the most is filled up with others.
        members = int(by_group.sum(1).max())
        first = by_group[groups].to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :members]
        rows = groups[:, None] * wiring.members + first
        s = Shape(len(groups), members, self._announced.shape[1], config.channels, config.gate, config.feed)
        x_hat, _, _ = normalise(config.norm, self._announced)
        x_hat = with_nothing(x_hat.to(w.w_in.dtype))
        if whole:
            x_hat = rounded(x_hat, ACTIVATION_BITS)
        for part in s.chunks(self._announced.device):
            mine, g = rows[part].reshape(-1), part.stop - part.start
            own = self._announced[mine].reshape(g, members * s.batch, s.channels).to(x_hat.dtype)
            seen = rows_at(x_hat, wiring.gather[mine]).view(g, s.rows, s.channels)
            chosen = Effective(*(tensor[groups[part]] for tensor in w.tensors()))
            change, _ = delta(config.norm, whole, chosen, slice(0, g), seen, own, s)
            self._change[mine] = change.view(-1, s.batch, s.channels).to(self._change.dtype)
