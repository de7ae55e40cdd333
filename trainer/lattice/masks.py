"""Who fires in a step: Philox 4×32-10 on the tensor's own device, the very words of ``generator.philox``.

A mask is a function of (seed, sample, step), so a segment that is computed again draws what it drew, and there is no
generator's state to keep.
"""

from __future__ import annotations

import torch
from torch import Tensor

from generator.philox import MUL_0, MUL_1, ROUNDS, WEYL_0, WEYL_1

FIRE, GOAL, POOL, DAMAGE, TIME = range(64, 69)  # purposes beside the generator's own
LOW = 0xFFFFFFFF


def words(seed: int, purpose: int, ids_B: Tensor, first: int, blocks: int) -> Tensor:
    """Words of ``blocks`` Philox blocks from block ``first`` on, int64 below 2³², [4 · blocks, B]."""
    count = len(ids_B)
    c0 = torch.arange(first, first + blocks, device=ids_B.device)[:, None].expand(blocks, count)
    c1 = torch.full_like(c0, purpose)
    c2 = (ids_B & LOW)[None, :].expand(blocks, count)
    c3 = (ids_B >> 32)[None, :].expand(blocks, count)
    k0, k1 = seed & LOW, (seed >> 32) & LOW
    for _ in range(ROUNDS):
        # A product of two 32-bit numbers wraps like an unsigned one; the mask undoes the sign of the shift.
        p0, p1 = c0 * MUL_0, c2 * MUL_1
        c0, c1, c2, c3 = ((p1 >> 32) & LOW) ^ c1 ^ k0, p1 & LOW, ((p0 >> 32) & LOW) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + WEYL_0) & LOW, (k1 + WEYL_1) & LOW
    return torch.stack([c0, c1, c2, c3], dim=1).reshape(4 * blocks, count)


# Steps whose masks are drawn at once: on a GPU the 160 small kernels of a draw take longer to launch than to run.
AHEAD = 16


class FireMasks:
    """The cells that fire, for samples ``ids_B`` (int64) of one seed: each with chance ``fire`` in each step."""

    def __init__(self, seed: int, ids_B: Tensor, fire: float, order: Tensor) -> None:
        self._seed, self._ids, self._order = seed, ids_B, order
        self._below = round(fire * 2**32)
        self._blocks = -(-int(order.max() + 1) // 4)
        self._ahead = AHEAD if ids_B.is_cuda else 1
        self._window, self._drawn = -1, ids_B

    def at(self, step: int, dtype: torch.dtype) -> Tensor | None:
        """1 where a cell fires in ``step``, else 0: [rows, B, 1]; None where all fire."""
        if self._below == 2**32:
            return None
        window, within = divmod(step, self._ahead)
        if window != self._window:
            blocks = self._ahead * self._blocks
            drawn = words(self._seed, FIRE, self._ids, window * blocks, blocks) < self._below
            self._window, self._drawn = window, drawn.view(self._ahead, 4 * self._blocks, -1)
        return self._drawn[within].to(dtype)[self._order.clamp(min=0)][:, :, None]
