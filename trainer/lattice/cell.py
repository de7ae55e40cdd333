"""The cell: what it holds, and how often each of its weights exists.

Perceive its own state and its six neighbours' as seven positions; normalise, widen, rectify; let a spatial gating unit
(Liu et al. 2021, arXiv 2105.08050) mix the positions; read out; feed forward; add. In formulas, for one cell, with x̂
the normalised states [7, C], H half of ``hidden`` and relu6 the rectifier cut off at 6::

    u, v = relu6(x̂·W_in + b_in)            [7, H] each, x̂ under a gain and bias
    z    = u ∘ (W_gate · norm(v) + b_gate)  [7, H], norm(v) under a gain and bias; W_gate [7, 7] begins near 0, b at 1
    r    = z.flatten() · W_read + b_read    [C]
    f    = relu6(norm(s + r)·W_up + b_up)·W_down + b_down
    s'   = clamp(s + fires · (r + f), ±limit)

At C = 32, hidden = 128, feed = 96 these are 25,112 numbers a cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from generator.lattice.wiring import POSITIONS
from trainer.init import normal
from trainer.lattice.config import LatticeConfig
from trainer.lattice.neighbours import type_of_cells, wire

TOP = 6.0  # of relu6: linear, and clipped on both sides, which whole numbers can do
GATE_STD = 0.01


@dataclass(frozen=True)
class Effective:
    """The weights as a step uses them: gains folded into what follows, low-rank differences added. G sets of them.

    w_in [G, C, 2H], b_in [G, 1, 2H]; w_gate [G, 7, 7], gain [G, 1, 1, 1, H], shift [G, 1, 7, 1, H]; w_read [G, 7H, C],
    b_read [G, 1, C]; w_up [G, C, F], b_up [G, 1, F]; w_down [G, F, C], b_down [G, 1, C].
    """

    w_in: Tensor
    b_in: Tensor
    w_gate: Tensor
    gain: Tensor
    shift: Tensor
    w_read: Tensor
    b_read: Tensor
    w_up: Tensor
    b_up: Tensor
    w_down: Tensor
    b_down: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in the order of the fields."""
        return tuple(vars(self).values())


class Lattice(nn.Module):
    """The weights of a lattice, ``types`` of each; float32. ``types_of_rows`` is kept with the wiring."""

    def __init__(self, config: LatticeConfig, seed: int | None = None) -> None:
        """Filled from ``seed``, each tensor by its name; uninitialised where weights are about to be read."""
        super().__init__()
        self.config = config
        self.wiring = wire(config)
        shapes = _shapes(config)
        self.vectors = frozenset(name for name, shape in shapes.items() if len(shape) == 2)  # gains and biases
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        self.group_types: Tensor | None = None
        if config.rank:
            self.group_types = torch.from_numpy(type_of_cells(config))
        if seed is not None:
            self.fill(seed)

    @torch.no_grad()
    def fill(self, seed: int) -> None:
        """Draw the initial weights. All types and cells begin different, but for what begins at 0 or 1."""
        config = self.config
        for name, parameter in self.named_parameters():
            if name in ("norm_gain", "gate_gain", "b_gate"):
                parameter.fill_(1.0)
                continue
            std = {
                "w_in": 1.0 / math.sqrt(config.channels),
                "w_gate": GATE_STD,
                "w_read": config.last_scale / math.sqrt(POSITIONS * config.gate),
                "w_up": 1.0 / math.sqrt(config.channels),
                "w_down": config.last_scale / math.sqrt(config.feed),
            }.get(name, 0.0)
            if name.endswith("_left"):  # of a low-rank difference, whose right factor begins at 0
                std = 1.0 / math.sqrt(parameter.shape[1])
            if std == 0.0:
                parameter.zero_()
            else:
                parameter.copy_(torch.from_numpy(normal(seed, name, tuple(parameter.shape))) * std)

    def to_device(self, device: torch.device) -> Lattice:
        """This module, its wiring included, on ``device``."""
        self.wiring = self.wiring.to(device)
        if self.group_types is not None:
            self.group_types = self.group_types.to(device)
        return self.to(device)

    def effective(self) -> Effective:
        """The weights as a step uses them; gradients flow back through it to every parameter."""
        p: dict[str, Tensor] = dict(self.named_parameters())
        if self.group_types is not None:
            for name in [name for name in p if not name.endswith(("_left", "_right"))]:
                p[name] = p[name][self.group_types]
            for name in ("w_in", "w_read", "w_up", "w_down"):
                p[name] = p[name] + p[f"{name}_left"] @ p[f"{name}_right"]
        return Effective(
            w_in=p["w_in"] * p["norm_gain"][:, :, None],
            b_in=p["b_in"][:, None] + p["norm_bias"][:, None] @ p["w_in"],
            w_gate=p["w_gate"],
            gain=p["gate_gain"][:, None, None, None],
            shift=(p["w_gate"].sum(2)[:, :, None] * p["gate_bias"][:, None] + p["b_gate"][:, :, None])[
                :, None, :, None
            ],
            w_read=p["w_read"],
            b_read=p["b_read"][:, None],
            w_up=p["w_up"],
            b_up=p["b_up"][:, None],
            w_down=p["w_down"],
            b_down=p["b_down"][:, None],
        )


def _shapes(config: LatticeConfig) -> dict[str, tuple[int, ...]]:
    """Each parameter's shape. Matrices map rows: [types, in, out]."""
    k, c, h, e, f = config.types, config.channels, config.gate, config.hidden, config.feed
    shapes: dict[str, tuple[int, ...]] = {
        "norm_gain": (k, c),
        "norm_bias": (k, c),
        "w_in": (k, c, e),
        "b_in": (k, e),
        "gate_gain": (k, h),
        "gate_bias": (k, h),
        "w_gate": (k, POSITIONS, POSITIONS),
        "b_gate": (k, POSITIONS),
        "w_read": (k, POSITIONS * h, c),
        "b_read": (k, c),
        "w_up": (k, c, f),
        "b_up": (k, f),
        "w_down": (k, f, c),
        "b_down": (k, c),
    }
    if config.rank:
        for name in ("w_in", "w_read", "w_up", "w_down"):
            _, rows, columns = shapes[name]
            shapes[f"{name}_left"] = (config.cells, rows, config.rank)
            shapes[f"{name}_right"] = (config.cells, config.rank, columns)
    return shapes
