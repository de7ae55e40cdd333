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


def injection(model: Lattice, target: Target, codes_BL: np.ndarray) -> Injection:
    """The goal of each sample at the task's input cells."""
    device = model.wiring.order.device
    inputs = model.wiring.row_of[torch.from_numpy(target.inputs).to(device)]
    return Injection(model.config, model.wiring, inputs, torch.from_numpy(target.goals(codes_BL)).to(device))


def shown(model: Lattice, target: Target, rows_NBC: Tensor) -> Tensor:
    """What the judged cells show, [J, B]."""
    return rows_NBC[model.wiring.row_of[torch.from_numpy(target.judged).to(rows_NBC.device)], :, 0]


def run_samples(
    config: LatticeTrainConfig,
    model: Lattice,
    target: Target,
    pool: Pool | None,
    update: int,
    samples: range,
    precision: Precision,
    whole: bool,
) -> tuple[float, int]:
    """Add the gradient of the mean loss over the batch to every parameter, for ``samples`` of ``update``.

    Returns the sum of their losses and the number of cell updates.
    """
    total, count, device = 0.0, 0, model.wiring.order.device
    steps = time_of(config, update)
    for piece in np.array_split(np.array(samples), config.micro_batches):
        part = range(int(piece[0]), int(piece[-1]) + 1)
        ids = update * config.batch + piece
        rows = empty_rows(model, len(part))
        if pool is None:
            codes = target.draw(config.seed, ids)
        else:
            states, codes = pool.draw(update, part, config.lattice.channels)
            rows[model.wiring.row_of] = states.to(device)
        masks = FireMasks(config.seed, torch.from_numpy(ids).to(device), config.lattice.fire, model.wiring.order)
        rows = rollout(
            *(model, rows, steps, masks, injection(model, target, codes)),
            segment=config.segment,
            dtype=torch_dtype(precision),
            keep=not config.recompute,
            offload=config.offload,
            whole=whole,
        )
        loss = misses(shown(model, target, rows), torch.from_numpy(target.wanted(codes)).to(device))
        (loss / config.batch).backward()
        total += float(loss.detach())
        count += steps * len(part) * config.lattice.cells
        if pool is not None:
            pool.put(part, rows.detach()[model.wiring.row_of], codes)
    return total, count
