"""Small lattices for tests, and the network written down once more, cell by cell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.lattice.cell import TOP, Lattice
from trainer.lattice.config import LatticeConfig
from trainer.lattice.neighbours import neighbour_cells, type_of_cells
from trainer.lattice.train_config import LatticeTrainConfig, parse_lattice_config

CUBE: dict[str, Any] = {"size": (3, 3, 3), "channels": 12, "hidden": 16, "feed": 10, "last_scale": 1.0, "fire": 0.6}
RUN: dict[str, Any] = {
    "lattice": {
        "size": [4, 4, 3],
        "boundary": "zero",
        "channels": 8,
        "hidden": 16,
        "feed": 16,  # the sizes of `lattice-small`: its compiled kernel serves these, too
        "goal": 2,
        "types": 3,
        "norm": "shift",
    },
    "target": {"kind": "growth", "shapes": 4},
    "steps": 10,
    "batch": 4,
    "time": [6, 8],
    "segment": 3,
    "pool": {"slots": 2},
    "quantise_fraction": 0.3,
    "checkpoint_every": 1,
    "keep_last": None,
    "eval_every": 5,
    "eval_volumes": 4,
    "log_every": 1,
    "publish": "grown",
}


def run_config(**changes: Any) -> LatticeTrainConfig:
    return parse_lattice_config({**RUN, **changes})


def shaken(config: LatticeConfig, seed: int = 1) -> Lattice:
    """A float64 lattice none of whose numbers is at its beginning."""
    model = Lattice(config, seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def naive_step(model: Lattice, state_NBC: Tensor, fires_NB: Tensor) -> Tensor:
    """One step by a loop over cells and volumes, cells in the lattice's order, from the formulas of the paper."""
    config, p = model.config, dict(model.named_parameters())
    near, types = neighbour_cells(config), type_of_cells(config)
    after = []
    for cell in range(config.cells):
        k = int(types[cell])
        w = {name: tensor[k] for name, tensor in p.items() if not name.endswith(("_left", "_right"))}
        for name in ("w_in", "w_read", "w_up", "w_down") if config.rank else ():
            w[name] = w[name] + p[f"{name}_left"][cell] @ p[f"{name}_right"][cell]
        volumes = []
        for b in range(state_NBC.shape[1]):
            nothing = state_NBC.new_zeros(config.channels)
            x_hat = torch.stack(
                [nothing if other < 0 else _normalised(config.norm, state_NBC[other, b]) for other in near[cell]]
            )
            x = (x_hat * w["norm_gain"] + w["norm_bias"]) @ w["w_in"] + w["b_in"]
            u, v = x.clamp(0, TOP).chunk(2, dim=1)
            v = _normalised(config.norm, v) * w["gate_gain"] + w["gate_bias"]
            z = u * (w["w_gate"] @ v + w["b_gate"][:, None])
            r = z.flatten() @ w["w_read"] + w["b_read"]
            y = _normalised(config.norm, state_NBC[cell, b] + r)
            f = (y @ w["w_up"] + w["b_up"]).clamp(0, TOP) @ w["w_down"] + w["b_down"]
            volumes.append((state_NBC[cell, b] + fires_NB[cell, b] * (r + f)).clamp(-config.limit, config.limit))
        after.append(torch.stack(volumes))
    return torch.stack(after)


def _normalised(kind: str, x: Tensor) -> Tensor:
    if kind == "layer":
        return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=1e-5)
    mean = x.detach().abs().mean(-1, keepdim=True).clamp(min=1 / 64)
    return x * 2.0 ** -(mean.log2().floor() + 1)
