"""One step of all cells, forward and, by hand, backward: products batched over sets of weights, cells outermost.

The backward pass gives the state's gradient at once and leaves each weight's two factors in a ``Ledger``, which
multiplies many steps' factors in one product: 62 M gradients are not written once per step.

On a CPU the sets of weights are gone through in chunks whose activations stay in its cache.

Axes: G sets of weights, M cells of each, B volumes, C channels, E = 2H hidden, F feed-forward. N = G·M rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import hardtanh, pad

from generator.lattice.wiring import POSITIONS
from trainer.lattice.cell import TOP, Effective
from trainer.lattice.config import LatticeConfig
from trainer.lattice.ledger import Ledger
from trainer.lattice.neighbours import Neighbours
from trainer.lattice.norm import normalise, normalise_back
from trainer.lattice.quantise import ACTIVATION_BITS, STATE_BITS, rounded, unclipped

CACHE_BYTES = 1 << 20  # of one chunk's widest activation

hardtanh_back = torch.ops.aten.hardtanh_backward


@dataclass(frozen=True)
class Shape:
    """The sizes of one step's arrays."""

    groups: int
    members: int
    batch: int
    channels: int
    gate: int
    feed: int

    @classmethod
    def of(cls, config: LatticeConfig, wiring: Neighbours, batch: int) -> Shape:
        return cls(wiring.groups, wiring.members, batch, config.channels, config.gate, config.feed)

    @property
    def rows(self) -> int:
        """Rows of one set of weights that are widened: a position of a cell of a volume each."""
        return self.members * POSITIONS * self.batch

    def chunks(self, device: torch.device) -> list[slice]:
        """Runs of groups whose activations fit a CPU's cache; all at once elsewhere."""
        each = self.rows * 2 * self.gate * 4
        size = max(1, CACHE_BYTES // each) if device.type == "cpu" else self.groups
        return [slice(first, min(first + size, self.groups)) for first in range(0, self.groups, size)]

    def rows_of(self, part: slice) -> slice:
        """The rows of the cells of groups ``part``."""
        return slice(part.start * self.members, part.stop * self.members)


class Made(NamedTuple):
    """What a chunk's forward pass leaves for its backward pass, with g = its groups.

    a [g, M·7·B, E]; v_hat, m [g, M, 7, B, H]; y, y_hat [g, M·B, C]; q [g, M·B, F]; means and scales beside them.
    """

    a: Tensor
    v_hat: Tensor
    v_mean: Tensor
    v_scale: Tensor
    m: Tensor
    y: Tensor
    y_hat: Tensor
    y_mean: Tensor
    y_scale: Tensor
    q: Tensor


class Kept(NamedTuple):
    """What a step's forward pass leaves for its backward pass: ``parts`` by chunk, ``inside`` where nothing clamped."""

    state: Tensor
    x_hat: Tensor
    mean: Tensor
    scale: Tensor
    fires: Tensor | None
    inside: Tensor
    parts: list[Made]


def rows_at(padded: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` (any shape) of ``padded``: [*index, *row]."""
    return padded.index_select(0, index.reshape(-1)).view(*index.shape, *padded.shape[1:])


def with_nothing(x: Tensor) -> Tensor:
    """``x`` [rows, B, C] and one row of zeros, which is what is seen where there is nobody."""
    return pad(x, (0, 0, 0, 0, 0, 1))


def delta(
    kind: str, whole: bool, w: Effective, part: slice, seen: Tensor, own: Tensor, s: Shape
) -> tuple[Tensor, Made]:
    """The change r + f of the cells of groups ``part``, [g, M·B, C].

    ``seen`` [g, M·7·B, C] are the normalised states seen, ``own`` [g, M·B, C] the cells' own states. With ``whole``
    everything is rounded as ``trainer.lattice.quantise`` says.
    """
    narrow, wide = (_rounded8, _rounded32) if whole else (_as_is, _as_is)
    g, view = part.stop - part.start, (s.members, POSITIONS, s.batch)
    a = torch.bmm(seen, w.w_in[part])
    a = narrow(hardtanh(a.add_(w.b_in[part]), 0.0, TOP))
    u, v = (half.view(g, *view, s.gate) for half in a.split(s.gate, dim=2))
    v_hat, v_mean, v_scale = normalise(kind, v)
    v_hat = narrow(v_hat)
    mixing = w.w_gate[part].repeat_interleave(s.members, 0)
    m = torch.bmm(mixing, v_hat.reshape(g * s.members, POSITIONS, -1)).view(g, *view, s.gate)
    z = narrow(u * gating(whole, w, part, m))
    z = z.transpose(2, 3).reshape(g, s.members * s.batch, POSITIONS * s.gate)
    r = wide(torch.bmm(z, w.w_read[part]).add_(w.b_read[part]))
    y = own + r
    y_hat, y_mean, y_scale = normalise(kind, y)
    y_hat = narrow(y_hat)
    q = narrow(hardtanh(torch.bmm(y_hat, w.w_up[part]).add_(w.b_up[part]), 0.0, TOP))
    change = wide(torch.bmm(q, w.w_down[part]).add_(w.b_down[part])).add_(r)
    return change, Made(a, v_hat, v_mean, v_scale, m, y, y_hat, y_mean, y_scale, q)


def gating(whole: bool, w: Effective, part: slice, m: Tensor) -> Tensor:
    """What the gated half is multiplied by: 1 and what the positions add to it, [g, M, 7, B, H]."""
    made = torch.addcmul(w.shift[part], w.gain[part], m)
    return rounded(made, STATE_BITS) if whole else made


def _as_is(x: Tensor) -> Tensor:
    return x


def _rounded8(x: Tensor) -> Tensor:
    return rounded(x, ACTIVATION_BITS)


def _rounded32(x: Tensor) -> Tensor:
    return unclipped(x, STATE_BITS)


def step(
    config: LatticeConfig,
    wiring: Neighbours,
    w: Effective,
    state_NBC: Tensor,
    fires: Tensor | None,
    keep: bool = False,
    whole: bool = False,
) -> tuple[Tensor, Kept | None]:
    """The next state, and with ``keep`` what ``step_back`` needs. Differentiable by autograd, if slowly.

    ``state_NBC`` in the order of rows; ``fires`` [N, B, 1] of 0 and 1 (None: all fire).
    """
    s = Shape.of(config, wiring, state_NBC.shape[1])
    x_hat, mean, scale = normalise(config.norm, state_NBC)
    x_hat = with_nothing(x_hat.to(w.w_in.dtype))
    if whole:
        x_hat = _rounded8(x_hat)
    changes, parts = [], []
    for part in s.chunks(state_NBC.device):
        rows, g = s.rows_of(part), part.stop - part.start
        seen = rows_at(x_hat, wiring.gather[rows]).view(g, s.rows, s.channels)
        own = state_NBC[rows].reshape(g, s.members * s.batch, s.channels).to(seen.dtype)
        change, made = delta(config.norm, whole, w, part, seen, own, s)
        changes.append(change)
        if keep:
            parts.append(made)
    change = (changes[0] if len(changes) == 1 else torch.cat(changes)).view(state_NBC.shape).to(state_NBC.dtype)
    after = state_NBC + (change if fires is None else change * fires)
    limit = config.limit
    kept = Kept(state_NBC, x_hat, mean, scale, fires, after.abs() < limit, parts) if keep else None
    return after.clamp(-limit, limit), kept


def step_back(
    config: LatticeConfig,
    wiring: Neighbours,
    w: Effective,
    kept: Kept,
    grad_after: Tensor,
    ledger: Ledger,
    whole: bool = False,
) -> Tensor:
    """The gradient at the state before a step, of ``grad_after`` [N, B, C] at the one after it.

    The weights' factors go into ``ledger`` as those of one more step.
    """
    s = Shape.of(config, wiring, grad_after.shape[1])
    grad_after = grad_after * kept.inside
    grad_change = grad_after if kept.fires is None else grad_after * kept.fires
    dtype = w.w_in.dtype
    grad_seen = torch.empty(len(wiring.order) * POSITIONS + 1, s.batch, s.channels, dtype=dtype, device=w.w_in.device)
    grad_seen[-1].zero_()
    grad_own = torch.empty_like(grad_after)
    ledger.begin_step()
    for number, part in enumerate(s.chunks(grad_after.device)):
        rows, g = s.rows_of(part), part.stop - part.start
        seen = rows_at(kept.x_hat, wiring.gather[rows]).view(g, s.rows, s.channels)
        out = grad_change[rows].reshape(g, s.members * s.batch, s.channels).to(dtype)
        d_seen, d_own = delta_back(config.norm, whole, w, part, kept.parts[number], seen, out, s, ledger.page(number))
        grad_seen[rows.start * POSITIONS : rows.stop * POSITIONS] = d_seen.view(-1, s.batch, s.channels)
        grad_own[rows] = d_own.view(-1, s.batch, s.channels)
    grad_hat = rows_at(grad_seen, wiring.scatter).sum(1).to(grad_after.dtype)
    back = normalise_back(config.norm, grad_hat, kept.state, kept.mean, kept.scale)
    return back.add_(grad_own).add_(grad_after)


def delta_back(
    kind: str,
    whole: bool,
    w: Effective,
    part: slice,
    made: Made,
    seen: Tensor,
    grad: Tensor,
    s: Shape,
    page: dict[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """The gradients at ``seen`` and ``own`` of ``grad`` at ``delta``'s change; factors into ``page``."""
    g, view = part.stop - part.start, (s.members, POSITIONS, s.batch)
    page["seen"].copy_(seen)
    page["q"].copy_(made.q)
    page["y_hat"].copy_(made.y_hat)
    page["d_down"].copy_(grad)
    d_up = hardtanh_back.grad_input(torch.bmm(grad, w.w_down[part].mT), made.q, 0.0, TOP, grad_input=page["d_up"])
    d_own = normalise_back(kind, torch.bmm(d_up, w.w_up[part].mT), made.y, made.y_mean, made.y_scale)
    d_read = torch.add(grad, d_own, out=page["d_read"])
    d_z = torch.bmm(d_read, w.w_read[part].mT).view(g, s.members, s.batch, POSITIONS, s.gate).transpose(2, 3)
    u, v = (half.view(g, *view, s.gate) for half in made.a.split(s.gate, dim=2))
    gates = gating(whole, w, part, made.m)
    z = page["z"].view(g, s.members, s.batch, POSITIONS, s.gate).transpose(2, 3)
    torch.mul(u, gates, out=z)
    if whole:
        z.copy_(_rounded8(z))
    d_u, d_v = (half.view(g, *view, s.gate) for half in page["d_in"].split(s.gate, dim=2))
    hardtanh_back.grad_input(gates.mul_(d_z), u, 0.0, TOP, grad_input=d_u)
    d_gating = u * d_z
    sums = page["shift"].dtype
    page["shift"] += d_gating.sum((1, 3), keepdim=True, dtype=sums)
    d_m = d_gating * w.gain[part]
    page["gain"] += d_gating.mul_(made.m).sum((1, 2, 3), keepdim=True, dtype=sums)
    flat = (g * s.members, POSITIONS, s.batch * s.gate)
    mixing = w.w_gate[part].repeat_interleave(s.members, 0)
    page["w_gate"] += torch.bmm(d_m.view(flat), made.v_hat.reshape(flat).mT).view(g, s.members, 7, 7).sum(1)
    d_hat = torch.bmm(mixing.mT, d_m.view(flat)).view(g, *view, s.gate)
    hardtanh_back.grad_input(normalise_back(kind, d_hat, v, made.v_mean, made.v_scale), v, 0.0, TOP, grad_input=d_v)
    return torch.bmm(page["d_in"], w.w_in[part].mT), d_own
