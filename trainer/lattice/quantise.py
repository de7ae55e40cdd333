"""Whole numbers in the network: what is rounded, to what, and the published file of 8-bit weights.

Every rounding is to a power of two, and every sum stays below 2²⁴ units of its last place: so float32 computes exactly
what ``generator.lattice`` computes with integers. Gradients pass a rounding as if it were not there (Bengio et al.
2013, arXiv 1308.3432).

Scales: states, changes and gates 1/32, normalised values and activations 1/16, weights 2⁻ˢ with one s a tensor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.errors import ConfigError
from trainer.lattice.cell import Effective
from trainer.lattice.config import LatticeConfig

STATE_BITS, ACTIVATION_BITS, MOST = 5, 4, 127
LIMIT = MOST / 2**STATE_BITS
EXACT = 1 << 24
MATRICES = {"w_in": "b_in", "w_read": "b_read", "w_up": "b_up", "w_down": "b_down"}


def rounded(x: Tensor, bits: int) -> Tensor:
    """``x`` in units of 2^-bits, half a unit up, within ±127 units."""
    return x.mul(2.0**bits).add_(0.5).floor_().clamp_(-MOST, MOST).mul_(2.0**-bits)


def unclipped(x: Tensor, bits: int) -> Tensor:
    """``x`` in units of 2^-bits, half a unit up."""
    return x.mul(2.0**bits).add_(0.5).floor_().mul_(2.0**-bits)


def check_quantisable(config: LatticeConfig) -> None:
    """ConfigError unless a lattice can be computed in whole numbers."""
    for name, value in (("channels", config.channels), ("hidden", config.hidden)):
        if value & (value - 1):
            raise ConfigError(
                f"lattice.{name} = {value}: whole numbers take means of powers of two; use {1 << value.bit_length()}"
            )
    if config.norm != "shift":
        raise ConfigError(f"lattice.norm = {config.norm!r}: whole numbers have no layer norm; set it to 'shift'")
    if config.limit != LIMIT:
        raise ConfigError(f"lattice.limit = {config.limit}: 8 bits of 1/32 reach {LIMIT}; set it to that")
    if config.coarse is not None or config.rank:
        raise ConfigError("lattice: coarse and rank have no form in whole numbers; leave them out")
    widest = max(7 * config.gate, config.channels, config.feed)
    if (widest + 1) * MOST * MOST >= EXACT:
        raise ConfigError(f"lattice.hidden = {config.hidden}: sums would leave 24 bits; lower it to 256")


@dataclass(frozen=True)
class Shifts:
    """The s of each tensor: its unit is 2^-s."""

    w_in: int
    w_gate: int
    gain: int
    w_read: int
    w_up: int
    w_down: int


def shifts_of(weights: Effective) -> Shifts:
    """The finest unit at which each tensor fits 8 bits; from 1 to 9, and gates' products within 24 bits."""

    def finest(name: str, most: int = 9) -> int:
        largest = float(getattr(weights, name).abs().max())
        return max(1, min(most, math.floor(math.log2(MOST / largest)) if largest else most))

    return Shifts(**{name: finest(name) for name in Shifts.__dataclass_fields__})


@torch.no_grad()
def quantised(weights: Effective) -> Effective:
    """``weights`` rounded: matrices to 8 bits, biases to the units of the sums that they join."""
    s = shifts_of(weights)
    sums = {
        "b_in": ACTIVATION_BITS + s.w_in,
        "b_read": ACTIVATION_BITS + s.w_read,
        "b_up": ACTIVATION_BITS + s.w_up,
        "b_down": ACTIVATION_BITS + s.w_down,
    }
    parts = {name: rounded(getattr(weights, name), getattr(s, name)) for name in Shifts.__dataclass_fields__}
    for name, bits in sums.items():
        parts[name] = _within(unclipped(getattr(weights, name), bits), bits)
    bits = ACTIVATION_BITS + s.w_gate + s.gain
    parts["shift"] = _within(unclipped(weights.shift, bits), bits)
    return Effective(**parts)


def _within(x: Tensor, bits: int) -> Tensor:
    """``x`` held so small that the products it is added to keep their sum exact."""
    most = (EXACT >> 4) / 2.0**bits
    return x.clamp(-most, most)
