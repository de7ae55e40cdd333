"""Batched equals the loop over cells, and computed again equals kept, in every kind of lattice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.lattice import FEATURES, config_of
from generator import philox
from tests.trainer.lattice.lattices import CUBE, naive_step, shaken
from trainer.lattice.cell import Lattice
from trainer.lattice.config import CoarseConfig, LatticeConfig
from trainer.lattice.inject import Injection
from trainer.lattice.masks import FIRE, FireMasks, words
from trainer.lattice.measure import measure_updates
from trainer.lattice.rollout import rollout
from trainer.lattice.sparse import Sparse
from trainer.lattice.step import step
from trainer.lattice.train_config import parse_lattice_config

KINDS = {
    "one type": {},
    "four types, unequal": {"types": 4},
    "one type a cell": {"types": 27, "boundary": "zero"},
    "columns": {"types": 3, "layout": "columns"},
    "low rank": {"types": 2, "rank": 2},
    "shift": {"types": 5, "norm": "shift", "boundary": "zero"},
    "no links": {"types": 2, "links": False},
    "coarse": {"types": 2, "coarse": CoarseConfig(grid=(2, 2, 1), every=2, channels=2)},
    "all fire": {"fire": 1.0},
    "flat torus": {"size": (1, 2, 5)},
}
VOLUMES, STEPS = 2, 5


def beginning(model: Lattice) -> tuple[torch.Tensor, FireMasks, Injection]:
    generator = torch.Generator().manual_seed(3)
    config, wiring = model.config, model.wiring
    state = torch.randn(wiring.rows, VOLUMES, config.channels, generator=generator, dtype=torch.float64)
    goal = torch.randn(2, VOLUMES, config.goal, generator=generator, dtype=torch.float64)
    masks = FireMasks(7, torch.arange(VOLUMES) + 2**40, config.fire, wiring.order)
    return state, masks, Injection(config, wiring, wiring.row_of[[0, 3]], goal)


@pytest.mark.parametrize("kind", KINDS)
def test_batched_cells_are_the_loop_over_cells(kind):
    model = shaken(LatticeConfig(**{**CUBE, **KINDS[kind]}))
    state, masks, _ = beginning(model)
    real = model.wiring.row_of
    fires = masks.at(4, torch.float64)
    batched, _ = step(model.config, model.wiring, model.effective(), state, fires)
    alone = naive_step(model, state[real], torch.ones(len(real), 2) if fires is None else fires[real, :, 0])
    assert (batched[real] - alone).abs().max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_computed_again_are_plain_ones(kind):
    """By autograd over the single steps; by segments of 2, of 3, all kept, and with states offloaded."""
    model = shaken(LatticeConfig(**{**CUBE, **KINDS[kind]}))
    state, masks, injection = beginning(model)
    weight = torch.linspace(-1, 1, model.config.channels, dtype=torch.float64)
    found = []
    for how in (None, {"segment": 2}, {"segment": 3, "offload": True}, {"segment": 9, "keep": True}):
        model.zero_grad()
        begun = state.clone().requires_grad_()
        if how is None:
            last, weights = begun, model.effective()
            for number in range(STEPS):
                last = injection.apply(last, number)
                last, _ = step(model.config, model.wiring, weights, last, masks.at(number, torch.float64))
        else:
            last = rollout(model, begun, STEPS, masks, injection, dtype=torch.float64, **how)
        last = last[model.wiring.row_of]
        (last.sin() * weight).sum().backward()
        found.append([last.detach(), begun.grad, *(parameter.grad for parameter in model.parameters())])
    assert all(part is not None and part.abs().max() > 0 for part in found[0][:3])
    for others in found[1:]:
        assert max(float((a - b).abs().max()) for a, b in zip(found[0], others, strict=True)) < 1e-10


def test_the_gradient_is_the_slope():
    model = shaken(LatticeConfig(**{**CUBE, "types": 3}))
    state, masks, injection = beginning(model)

    def loss() -> torch.Tensor:
        return rollout(model, state, 3, masks, injection, segment=2, dtype=torch.float64).square().mean()

    loss().backward()
    for name, parameter in model.named_parameters():
        at = int(parameter.grad.abs().argmax())
        with torch.no_grad():
            before = parameter.view(-1)[at].item()
            values = []
            for by in (1e-6, -1e-6):
                parameter.view(-1)[at] = before + by
                values.append(float(loss()))
            parameter.view(-1)[at] = before
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(float(parameter.grad.view(-1)[at]), rel=1e-5), name


def test_a_cell_of_the_full_lattice_is_25112_numbers_and_all_of_them_62_million():
    config = LatticeConfig(types=2475)
    with torch.device("meta"):
        assert sum(parameter[0].numel() for parameter in Lattice(config).parameters()) == 25_112
        assert sum(parameter.numel() for parameter in Lattice(config).parameters()) == 62_152_200


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_updates_at_full_size_take_no_more_memory_than_ten():
    config = config_of(False, FEATURES["base"], time=[2, 2], batch=1, micro_batches=1)
    found = measure_updates(parse_lattice_config(config), 110)
    assert found["bytes"]["parameters"] == 4 * 62_152_200
    assert np.isfinite(found["losses"]).all()
    assert len(found["losses"]) == len(found["held"]) == 111
    # Between updates the allocator holds up to a seventh more, or not; what it never holds less than must not grow.
    assert min(found["held"][61:]) - min(found["held"][11:61]) < 8 << 20
    assert found["bytes"]["peak"] < 2e9


def test_masks_are_the_generators_words_and_a_cells_own():
    ids = np.array([3, 2**33 + 5])
    expected = philox.words(2**40 + 9, FIRE, ids, np.zeros(2, int), 24, first=12)
    assert (words(2**40 + 9, FIRE, torch.from_numpy(ids), 3, 6).numpy() == expected.T).all()
    order = torch.tensor([5, 0, -1, 2])
    masks = FireMasks(1, torch.from_numpy(ids), 0.4, order)
    drawn = philox.words(1, FIRE, ids, np.zeros(2, int), 8, first=8 * 5)[:, [5, 0, 2]]
    assert (masks.at(5, torch.float32)[[0, 1, 3], :, 0].numpy() == (drawn < 0.4 * 2**32).T).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"types": 28}, "types = 28: the lattice has 27 cells"),
        ({"types": 10, "layout": "columns"}, "types = 10: the lattice has 9 columns"),
        ({"size": (300, 1, 1)}, "size: side 300 is out of range"),
        ({"hidden": 15}, "hidden = 15"),
        ({"goal": 12}, "channels = 12: visible, goal and coarse channels need 13"),
        ({"coarse": CoarseConfig(grid=(4, 1, 1))}, "coarse.grid: 4 blocks along a side of 3"),
    ],
)
def test_what_no_lattice_can_be_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        LatticeConfig(**{**CUBE, **changes})


@pytest.mark.parametrize("kind", KINDS)
def test_event_driven_steps_with_a_threshold_of_0_are_the_dense_ones(kind):
    model = shaken(LatticeConfig(**{**CUBE, **KINDS[kind]}))
    state, masks, injection = beginning(model)
    sparse = Sparse(0.0)
    with torch.no_grad():
        dense = rollout(model, state, 6, masks, injection, dtype=torch.float64)
        found = rollout(model, state, 6, masks, injection, dtype=torch.float64, sparse=sparse)
    real = model.wiring.row_of
    assert (dense[real] - found[real]).abs().max() < 1e-10
    assert sparse.possible == 6 * model.config.cells
    assert sparse.computed < sparse.possible or kind == "all fire"


def test_event_driven_whole_numbers_are_the_dense_ones_to_the_bit_and_come_to_rest():
    config = LatticeConfig(size=(4, 4, 4), types=5, norm="shift", boundary="zero", channels=8, hidden=16, feed=8)
    model = Lattice(config, 3)
    with torch.no_grad():
        model.w_read.copy_(torch.randn(model.w_read.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    masks = FireMasks(7, torch.arange(VOLUMES), config.fire, model.wiring.order)
    injection = Injection(config, model.wiring, model.wiring.row_of[[21]], torch.ones(1, VOLUMES, config.goal))
    begun, exact, loose = torch.zeros(model.wiring.rows, VOLUMES, config.channels), Sparse(0.0), Sparse(0.5)
    with torch.no_grad():
        dense = rollout(model, begun, 40, masks, injection, whole=True)
        assert torch.equal(rollout(model, begun, 40, masks, injection, whole=True, sparse=exact), dense)
        rollout(model, begun, 40, masks, injection, whole=True, sparse=loose)
    assert loose.computed < exact.computed < exact.possible
    with pytest.raises(ValueError, match="no gradients"):
        rollout(model, begun, 2, masks, injection, sparse=Sparse(0.0))
    with pytest.raises(ValueError, match="sparse = -1"):
        Sparse(-1.0)
