"""Gradients of weights, deferred: the factors of several steps side by side, then one product for all of them.

The gradient of a matrix is Σ over steps of rowsᵀ · gradients. With weights of their own for each cell, a product per
step would read and write every gradient once per step; here it is once per ``steps`` steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.lattice.cell import Effective

# Each matrix: what came in, what its gradient is of, and the bias that shares the latter.
PRODUCTS = {
    "w_in": ("seen", "d_in", "b_in"),
    "w_read": ("z", "d_read", "b_read"),
    "w_up": ("y_hat", "d_up", "b_up"),
    "w_down": ("q", "d_down", "b_down"),
}


class Ledger:
    """The factors of up to ``steps`` steps, by chunk of groups, and the gradients that they come to.

    ``grads`` has the shapes of ``Effective``, float32 (float64 where the weights are).
    """

    def __init__(self, weights: Effective, chunks: list[slice], rows: dict[str, int], steps: int) -> None:
        """``rows`` of each factor that one set of weights has in one step."""
        self._chunks, self._steps, self._done = chunks, steps, 0
        w_in = weights.w_in
        kept = torch.promote_types(w_in.dtype, torch.float32)
        self.grads = {
            name: torch.zeros(tensor.shape, dtype=kept, device=w_in.device) for name, tensor in vars(weights).items()
        }
        self._rows = rows
        widths = {}
        for name, (left, right, _) in PRODUCTS.items():
            widths[left], widths[right] = getattr(weights, name).shape[1:]
        self._pages = [
            {
                name: torch.empty(
                    part.stop - part.start, steps, rows[name], width, dtype=w_in.dtype, device=w_in.device
                )
                for name, width in widths.items()
            }
            for part in chunks
        ]

    def begin_step(self) -> None:
        """Make room for one more step; the factors of those before are multiplied if there is none."""
        if self._done == self._steps:
            self.flush()
        self._done += 1

    def page(self, chunk: int) -> dict[str, Tensor]:
        """Where the step puts chunk ``chunk``'s factors (by name, [g, rows, width]), and the gradients of the three
        small tensors ("w_gate", "gain", "shift"), to be added to."""
        part = self._chunks[chunk]
        page = {name: buffer[:, self._done - 1] for name, buffer in self._pages[chunk].items()}
        return page | {name: self.grads[name][part] for name in ("w_gate", "gain", "shift")}

    def flush(self) -> None:
        """Multiply what has been put down and add it to the gradients."""
        if self._done == 0:
            return
        for part, pages in zip(self._chunks, self._pages, strict=True):
            for name, (left, right, bias) in PRODUCTS.items():
                into, after = (pages[factor][:, : self._done].flatten(1, 2) for factor in (left, right))
                grad = self.grads[name][part]
                if into.dtype == grad.dtype:
                    grad.baddbmm_(into.mT, after)
                else:
                    grad.add_(torch.bmm(into.mT, after))
                self.grads[bias][part] += after.sum(1, keepdim=True, dtype=grad.dtype)
        self._done = 0
