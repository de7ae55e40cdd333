"""The network in whole numbers: the trainer's float32 rollout and the generator's integers agree to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from generator.lattice import reference, weights
from generator.lattice.draws import UNIT
from generator.lattice.spec import LatticeSpec
from generator.lattice.wiring import neighbour_cells, type_of_cells
from trainer.lattice.cell import Lattice
from trainer.lattice.config import LatticeConfig
from trainer.lattice.inject import Injection
from trainer.lattice.masks import FireMasks
from trainer.lattice.rollout import rollout
from trainer.lattice.whole_file import whole_file

VOLUMES, STEPS = 3, 12


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("layout", ["blocks", "columns"])
def test_the_trainers_rollout_is_the_generators(seed, layout):
    shape = {"channels": 16 if seed % 2 else 8, "hidden": 32 if seed > 1 else 16, "types": 3 + seed}
    config = LatticeConfig(
        size=(4, 3, 5), boundary="zero", feed=10, goal=3, norm="shift", layout=layout, fire=0.7, **shape
    )
    model = Lattice(config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    goal = torch.where(torch.rand(1, VOLUMES, 3, generator=generator) > 0.5, 1.0, -1.0)
    inputs = model.wiring.row_of[[17]]
    masks = FireMasks(5, torch.arange(VOLUMES), config.fire, model.wiring.order)
    frames: list[torch.Tensor] = []
    with torch.no_grad():
        rollout(
            *(model, torch.zeros(model.wiring.rows, VOLUMES, config.channels), STEPS, masks),
            Injection(config, model.wiring, inputs, goal),
            segment=1,
            whole=True,
            after=lambda _step, rows: frames.append(rows[model.wiring.row_of] * UNIT),
        )

    network = weights.parse(bytes(whole_file(model)))
    spec = LatticeSpec(weights="0" * 64, grid=config.size, patch=(1, 1, 1), layout=layout, boundary="zero")
    around = neighbour_cells(spec.grid, spec.boundary, nobody=spec.cells)
    w = reference.weights_of_cells(network, type_of_cells(spec.grid, spec.layout, network.types))
    nothing = (np.zeros(7 * network.gate, np.int64), np.zeros(network.channels, np.int64))
    for volume in range(VOLUMES):
        state = np.zeros((config.cells, config.channels), dtype=np.int64)
        for step in range(STEPS):
            state[17, config.goal_channels] = goal[0, volume].numpy() * UNIT
            hat = np.concatenate([reference.normalised(state, 5), np.zeros((1, config.channels), np.int64)])
            change = reference.changes(network, w, hat[around], state, nothing)
            fires = masks.at(step, torch.float32)[model.wiring.row_of, volume, 0].numpy().astype(np.int64)
            state = np.clip(state + change * fires[:, None], -127, 127)
            assert (frames[step][:, volume].numpy() == state).all(), (volume, step)
    assert len(np.unique(state)) > 20
