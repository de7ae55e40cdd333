"""Drawing rules and initial states: from Philox addresses to integers. This is the definition; kernels repeat it."""

from dataclasses import dataclass

import numpy as np

from generator import philox
from generator.initial import colors_from_words, cumulative_colors
from generator.nca.lattice import Lattice
from generator.nca.spec import NcaSpec
from generator.spec import BaseSpec
from generator.tables import WEIGHT_Q

TRIES_PER_RULE = 8


@dataclass(frozen=True)
class Rules:
    """N rules as integers: conv_NKIE int64 [N, neighbours, inputs, embed], first_NEH, second_NHC."""

    conv_NKIE: np.ndarray
    first_NEH: np.ndarray
    second_NHC: np.ndarray


def rule_address(spec: BaseSpec, ids_N: np.ndarray, attempts_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(group, rule try) under which the rule of each (sequence id, attempt) is drawn.

    With one sequence per rule, rule and initial state are redrawn together. Otherwise each rule is given
    TRIES_PER_RULE initial states: attempt = try * TRIES_PER_RULE + state.
    """
    if spec.rule_group == 1:
        return ids_N, attempts_N
    return ids_N // spec.rule_group, attempts_N // TRIES_PER_RULE


def draw_rules(spec: NcaSpec, seed: int, groups_N: np.ndarray, tries_N: np.ndarray) -> Rules:
    """The weights: each byte of the RULE stream looked up in WEIGHT_Q; convolution, first, second pointwise in turn."""
    lattice = Lattice.of(spec)
    conv, first, second = lattice.weight_counts
    stream = philox.stream_bytes(seed, philox.RULE, groups_N, tries_N, conv + first + second)
    q_NW = WEIGHT_Q[stream].astype(np.int64)
    n = len(q_NW)
    return Rules(
        q_NW[:, :conv].reshape(n, lattice.neighbors, lattice.inputs, spec.embed),
        q_NW[:, conv : conv + first].reshape(n, spec.embed, spec.hidden),
        q_NW[:, conv + first :].reshape(n, spec.hidden, spec.colors),
    )


def unwrap_channels(conv: np.ndarray, colors: int) -> np.ndarray:
    """Kernel over colours [..., colors, embed] equal to one over wrap-padded channels [..., colors + 2, embed].

    Padded channel j shows colour (j - 1) mod colors, so the first and last channels add to the last and first colours.
    """
    out = conv[..., 1:-1, :].copy()
    out[..., colors - 1, :] += conv[..., 0, :]
    out[..., 0, :] += conv[..., -1, :]
    return out


def fold_tables(spec: NcaSpec, rules: Rules) -> np.ndarray:
    """int64 [N, neighbours, colors, hidden]: convolution times first pointwise layer, shifted with rounding."""
    lattice = Lattice.of(spec)
    conv = unwrap_channels(rules.conv_NKIE, spec.colors) if spec.compat.channel_wrap else rules.conv_NKIE
    exact = np.einsum("nkce,neh->nkch", conv, rules.first_NEH)
    return (exact + (1 << lattice.table_shift >> 1)) >> lattice.table_shift


def draw_cells(spec: NcaSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray) -> np.ndarray:
    """Initial colours, uint8 [N, cells]."""
    words = philox.words(seed, philox.CELLS, ids_N, attempts_N, spec.cells)
    weights = None
    if spec.compat.init == "categorical":
        weights = cumulative_colors(seed, ids_N, attempts_N, spec.colors)
    return colors_from_words(words, spec.colors, weights)


def draw_noise(spec: NcaSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray, step: int) -> np.ndarray:
    """Gumbel noise of one step, int64 [N, cells, colors], in lattice logits.

    Block (step * groups + g) * cells + x of the NOISE stream serves colours 8g to 8g + 7 of cell x: its words' halves,
    low half first, each by its top 12 bits.
    """
    groups = -(-spec.colors // 8)
    words = philox.words(
        seed, philox.NOISE, ids_N, attempts_N, 4 * groups * spec.cells, first=4 * step * groups * spec.cells
    )
    halves = np.stack([words & 0xFFFF, words >> 16], axis=-1).reshape(-1, groups, spec.cells, 8)
    by_cell = halves.transpose(0, 2, 1, 3).reshape(-1, spec.cells, 8 * groups)
    return Lattice.of(spec).gumbel[by_cell[..., : spec.colors] >> 4].astype(np.int64)
