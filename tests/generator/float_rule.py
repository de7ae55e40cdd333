"""The published network in floats: what the lattice approximates, and what the golden data were made by.

One-hot colours [H, W, C], optionally wrap-padded by one channel on both sides, through a periodic 3x3 cross-correlation
to `embed` channels, a pointwise layer to `hidden`, ReLU, a pointwise layer to C logits. No biases.
"""

import numpy as np

from generator.nca.lattice import TRUNCATED_STD, Lattice, neighbor_offsets
from generator.nca.rules import Rules
from generator.nca.spec import NcaSpec
from generator.tables import WEIGHT_STEPS


def one_hot(cells: np.ndarray, colors: int, channel_wrap: bool) -> np.ndarray:
    """float32 [*grid, inputs]; with channel_wrap, input j shows colour (j - 1) mod colors."""
    seen = (np.arange(-1, colors + 1) % colors) if channel_wrap else np.arange(colors)
    return (cells[..., None] == seen).astype(np.float32)


def logits(
    conv_KIE: np.ndarray,
    first_EH: np.ndarray,
    second_HC: np.ndarray,
    cells: np.ndarray,
    *,
    channel_wrap: bool,
    neighborhood: str = "moore",
) -> np.ndarray:
    """float32 [*grid, C] of one grid state uint8 [*grid]; kernel taps are in row-major order of the neighbourhood."""
    inputs = one_hot(cells, second_HC.shape[1], channel_wrap)
    axes = tuple(range(cells.ndim))
    embedded = sum(
        np.roll(inputs, tuple(-o for o in offset), axis=axes) @ tap
        for offset, tap in zip(neighbor_offsets(cells.ndim, neighborhood), conv_KIE, strict=True)
    )
    return np.maximum(embedded @ first_EH, 0) @ second_HC


def float_weights(spec: NcaSpec, rules: Rules, which: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rule `which` as float32 weights with LeCun's standard deviations sqrt(1 / fan_in): the network it stands for."""
    lattice = Lattice.of(spec)
    fans = (lattice.neighbors * lattice.inputs, spec.embed, spec.hidden)
    layers = (rules.conv_NKIE[which], rules.first_NEH[which], rules.second_NHC[which])
    steps = WEIGHT_STEPS * float(TRUNCATED_STD)
    conv, first, second = ((q / (steps * fan**0.5)).astype(np.float32) for q, fan in zip(layers, fans, strict=True))
    return conv, first, second
