"""The definition: one step of the lattice in whole numbers, in NumPy, as anyone can read it.

States are whole numbers in units of 1/32 from -127 to 127; normalised states, activations and read-outs in units of
1/16. ``down(x, k)`` divides by 2^k and rounds half a unit up; every sum is below 2²⁴, so float32 would be exact, too.
"""

import numpy as np

from generator.lattice.draws import Draws, draw, fires
from generator.lattice.spec import LatticeSpec
from generator.lattice.weights import Network
from generator.lattice.wiring import POSITIONS, neighbour_cells, type_of_cells

MOST = 127
TOP = 96  # 6 in units of 1/16
LEAST_EXPONENT = -5


def down(x: np.ndarray, shift: np.ndarray | int) -> np.ndarray:
    """x / 2^shift, half a unit up; a negative shift multiplies."""
    shift = np.asarray(shift)
    up, by = np.maximum(-shift, 0), np.maximum(shift, 0)
    half = np.where(by > 0, 1 << np.maximum(by - 1, 0), 0)
    return ((x << up) + half) >> by


def normalised(x: np.ndarray, unit: int) -> np.ndarray:
    """x (last axis: channels, in units of 2^-unit) times the power of two that brings its mean magnitude into
    [1/2, 1), 32 at most; in units of 1/16, within ±127."""
    total = np.abs(x).sum(-1, keepdims=True)
    width = x.shape[-1].bit_length() - 1
    bits = np.frexp(total.astype(np.float64))[1].astype(np.int64)  # the bit length of a whole number
    exponent = np.maximum(bits - unit - width, LEAST_EXPONENT)
    return np.clip(down(x, exponent + unit - 4), -MOST, MOST)


def weights_of_cells(network: Network, types_X: np.ndarray) -> dict[str, np.ndarray]:
    """Every cell's own copy of its weights, int64 [X, …]."""
    return {name: array.astype(np.int64)[types_X] for name, array in network.arrays.items()}


def changes(
    network: Network,
    w: dict[str, np.ndarray],
    seen: np.ndarray,
    own: np.ndarray,
    extra: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """The change of every cell, int64 [X, C].

    ``w`` are its weights, ``seen`` [X, 7, C] the normalised states at its positions, ``own`` [X, C] its state,
    ``extra`` (left [7H], right [C]) the modulation.
    """
    s = network.shifts
    a = np.einsum("xpc,xce->xpe", seen, w["w_in"]) + w["b_in"][:, None]
    a = np.clip(down(a, s["w_in"]), 0, TOP)
    u, v = a[..., : network.gate], a[..., network.gate :]
    m = np.einsum("xqp,xph->xqh", w["w_gate"], normalised(v, 4))
    gate = m * w["gain"][:, None] + w["shift"]
    gate = np.clip(down(gate, s["w_gate"] + s["gain"] - 1), -MOST, MOST)
    z = np.clip(down(u * gate, 5), -MOST, MOST).reshape(len(own), POSITIONS * network.gate)
    left, right = extra
    r = np.einsum("xr,xrc->xc", z, w["w_read"]) + w["b_read"] + (z @ left)[:, None] * right
    r = down(r, s["w_read"] - 1)
    q = np.einsum("xc,xcf->xf", normalised(own + r, 5), w["w_up"]) + w["b_up"]
    q = np.clip(down(q, s["w_up"]), 0, TOP)
    f = np.einsum("xf,xfc->xc", q, w["w_down"]) + w["b_down"]
    return r + down(f, s["w_down"] - 1)


def simulate_frames(
    spec: LatticeSpec, network: Network, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray
) -> np.ndarray:
    """Frames uint8 [N, F, *grid] of colours: bit b of a colour says that visible channel b is above zero."""
    drawn = draw(spec, network, seed, ids_N, attempts_N)
    frames = np.empty((len(ids_N), spec.frames, spec.cells), dtype=np.uint8)
    states = np.zeros((len(ids_N), spec.cells, network.channels), dtype=np.int64)
    around = neighbour_cells(spec.grid, spec.boundary, nobody=spec.cells)
    w = weights_of_cells(network, type_of_cells(spec.grid, spec.layout, network.types))
    for step in range(spec.steps + 1):
        frame, between = divmod(step - spec.burn_in, spec.stride)
        if frame >= 0 and between == 0:
            shown = states[:, :, : spec.bits] > 0
            frames[:, frame] = (shown << np.arange(spec.bits)).sum(-1)
        if step < spec.steps:
            firing = fires(spec, seed, ids_N, attempts_N, step)
            for n in range(len(ids_N)):
                states[n] = next_state(network, around, w, states[n], drawn, n, step, firing[n])
    return frames.reshape(len(ids_N), spec.frames, *spec.grid)


def next_state(
    network: Network,
    around: np.ndarray,
    w: dict[str, np.ndarray],
    state_XC: np.ndarray,
    drawn: Draws,
    n: int,
    step: int,
    firing_X: np.ndarray,
) -> np.ndarray:
    """Sequence ``n``'s state after ``step``: damage, the goal at the seed cell, then the cells that fire change."""
    state = state_XC.copy()
    if drawn.moment_N[n] == step:
        state[drawn.gone_NX[n]] = 0
    goal = slice(network.visible, network.visible + network.goal)
    state[drawn.seed_N[n], goal] = drawn.goal_NG[n]
    hat = np.concatenate([normalised(state, 5), np.zeros((1, network.channels), np.int64)])
    extra = (drawn.left_NR[n].astype(np.int64), drawn.right_NC[n].astype(np.int64))
    change = changes(network, w, hat[around], state, extra)
    return np.clip(state + change * firing_X[:, None], -MOST, MOST)
