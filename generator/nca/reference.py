"""The definition of an `nca` trajectory, in plain NumPy. Every other backend equals this bit for bit."""

import numpy as np

from generator.nca.lattice import HIDDEN_MAX, Lattice, neighbor_offsets
from generator.nca.rules import draw_cells, draw_noise, draw_rules, fold_tables, rule_address
from generator.nca.spec import NcaSpec


def step_logits(spec: NcaSpec, tables_NKCH: np.ndarray, second_NHC: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Integer logits int64 [N, *grid, colors] of grid states uint8 [N, *grid], bias included, noise not."""
    lattice = Lattice.of(spec)
    axes = tuple(range(1, cells.ndim))
    row = np.arange(len(cells)).reshape(-1, *([1] * len(axes)))
    total = np.zeros((*cells.shape, spec.hidden), dtype=np.int64)
    for k, offset in enumerate(neighbor_offsets(len(spec.grid), spec.neighborhood)):
        # np.roll moves contents forward, so the cell at `offset` arrives here when rolled by minus `offset`.
        seen = np.roll(cells, tuple(-o for o in offset), axis=axes)
        total += tables_NKCH[row, k, seen]
    hidden = np.clip((total + (1 << lattice.hidden_shift >> 1)) >> lattice.hidden_shift, 0, HIDDEN_MAX)
    logits = np.einsum("n...h,nhc->n...c", hidden, second_NHC)
    return logits + lattice.identity_logit * (cells[..., None] == np.arange(spec.colors))


def simulate_frames(spec: NcaSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray) -> np.ndarray:
    """Grid states after burn-in, uint8 [N, frames, *grid], of each (sequence id, attempt)."""
    ids_N, attempts_N = np.asarray(ids_N, dtype=np.int64), np.asarray(attempts_N, dtype=np.int64)
    rules = draw_rules(spec, seed, *rule_address(spec, ids_N, attempts_N))
    tables = fold_tables(spec, rules)
    cells = draw_cells(spec, seed, ids_N, attempts_N).reshape(-1, *spec.grid)
    frames = np.empty((len(ids_N), spec.frames, *spec.grid), dtype=np.uint8)
    for step in range(spec.steps + 1):
        if step >= spec.burn_in and (step - spec.burn_in) % spec.stride == 0:
            frames[:, (step - spec.burn_in) // spec.stride] = cells
        if step == spec.steps:
            break
        logits = step_logits(spec, tables, rules.second_NHC, cells)
        if spec.temperature:
            logits += draw_noise(spec, seed, ids_N, attempts_N, step).reshape(logits.shape)
        # argmax takes the first of equals: the lowest colour.
        cells = logits.argmax(axis=-1).astype(np.uint8)
    return frames
