"""One update's samples: what they begin with, their steps, their loss and its gradients."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from generator import philox
from trainer.lattice.cell import Lattice
from trainer.lattice.inject import Injection
from trainer.lattice.loss import misses
from trainer.lattice.masks import TIME, FireMasks
from trainer.lattice.pool import Pool
from trainer.lattice.replay import Given, Pass, Replays
from trainer.lattice.rollout import rollout
from trainer.lattice.targets import Target
from trainer.lattice.train_config import LatticeTrainConfig
from trainer.precision import Precision


def torch_dtype(precision: Precision) -> torch.dtype:
    """What products are computed in."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def time_of(config: LatticeTrainConfig, update: int) -> int:
    """The number of steps of one update, from ``time`` (both ends included)."""
    low, high = config.time
    word = philox.words(config.seed, TIME, np.array([update]), np.array([0]), 1)
    return low + int(philox.below(word, high - low + 1)[0, 0])


def empty_rows(model: Lattice, batch: int) -> Tensor:
    """States of nothing, [rows, B, C], where the model is."""
    return torch.zeros(model.wiring.rows, batch, model.config.channels, device=model.wiring.order.device)


def rows_of(model: Lattice, cells: np.ndarray) -> Tensor:
    """The rows of ``cells`` (int64, numbered x slowest), on the model's device."""
    return model.wiring.row_of[torch.from_numpy(cells).to(model.wiring.order.device)]


def injection(model: Lattice, target: Target, codes_BL: np.ndarray) -> Injection:
    """The goal of each sample at the task's input cells."""
    inputs = rows_of(model, target.inputs)
    return Injection(model.config, model.wiring, inputs, torch.from_numpy(target.goals(codes_BL)).to(inputs.device))


def shown(model: Lattice, target: Target, rows_NBC: Tensor) -> Tensor:
    """What the judged cells show, [J, B]."""
    return rows_NBC[rows_of(model, target.judged), :, 0]


def run_samples(
    config: LatticeTrainConfig,
    model: Lattice,
    target: Target,
    pool: Pool | None,
    update: int,
    samples: range,
    precision: Precision,
    whole: bool,
    replays: Replays,
) -> tuple[float, int]:
    """Add the gradient of the mean loss over the batch to every parameter, for ``samples`` of ``update``.

    Returns the sum of their losses and the number of cell updates. ``replays`` are those of ``model`` and ``config``.
    """
    total, count, device = 0.0, 0, model.wiring.order.device
    steps = time_of(config, update)
    inputs, judged = (rows_of(model, cells) for cells in (target.inputs, target.judged))

    def prepare(given: Given) -> Pass:
        masks = FireMasks(config.seed, given.ids, config.lattice.fire, model.wiring.order)
        injected = Injection(model.config, model.wiring, inputs, given.goals)

        def compute() -> tuple[Tensor, Tensor]:
            after = rollout(
                *(model, given.rows, steps, masks, injected),
                segment=config.segment,
                dtype=torch_dtype(precision),
                keep=not config.recompute,
                offload=config.offload,
                whole=whole,
            )
            return misses(after[judged, :, 0], given.wanted), after

        return compute

    for piece in np.array_split(np.array(samples), config.micro_batches):
        part = range(int(piece[0]), int(piece[-1]) + 1)
        ids = update * config.batch + piece
        rows = empty_rows(model, len(part))
        if pool is None:
            codes = target.draw(config.seed, ids)
        else:
            states, codes = pool.draw(update, part, config.lattice.channels)
            rows[model.wiring.row_of] = states.to(device)
        told = (torch.from_numpy(each).to(device) for each in (ids, target.goals(codes), target.wanted(codes)))
        loss, after = replays.run((len(part), steps, whole), prepare, Given(rows, *told), 1 / config.batch)
        total += float(loss)
        count += steps * len(part) * config.lattice.cells
        if pool is not None:
            pool.put(part, after[model.wiring.row_of], codes)
    return total, count
