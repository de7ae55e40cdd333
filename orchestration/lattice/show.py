"""What a lattice does, as frames for ``orchestration.reports.picture``: its visible channel, by slices of depth."""

from __future__ import annotations

import numpy as np
import torch

from trainer.lattice.cell import Lattice
from trainer.lattice.evaluate import HELD_OUT, is_whole
from trainer.lattice.masks import FireMasks
from trainer.lattice.rollout import rollout
from trainer.lattice.sampling import empty_rows, injection, torch_dtype
from trainer.lattice.targets import make_target
from trainer.lattice.train_config import LatticeTrainConfig


@torch.no_grad()
def grown_frames(config: LatticeTrainConfig, model: Lattice, volumes: int, steps: int) -> np.ndarray:
    """uint8 [volumes, steps + 1, z, x, y]: 1 where the first visible channel is above zero, from nothing on.

    A growth target's volumes show its shapes one after the other; a surface's have random faces.
    """
    target = make_target(config.lattice, config.target)
    codes = target.draw(config.seed ^ HELD_OUT, np.arange(volumes))
    if config.target.kind == "growth":
        codes = (np.arange(volumes) % config.target.shapes)[:, None]
    place = model.wiring.order.device
    masks = FireMasks(
        config.seed ^ HELD_OUT, torch.arange(volumes, device=place), config.lattice.fire, model.wiring.order
    )
    rows = empty_rows(model, volumes)
    frames = [_volumes(model, rows)]
    rollout(
        *(model, rows, steps, masks, injection(model, target, codes)),
        segment=1,
        dtype=torch_dtype("fp32"),
        whole=is_whole(config),
        after=lambda _step, state: frames.append(_volumes(model, state)),
    )
    return np.stack(frames, axis=1)


def _volumes(model: Lattice, rows_NBC: torch.Tensor) -> np.ndarray:
    """uint8 [B, z, x, y]."""
    visible = (rows_NBC[model.wiring.row_of, :, 0] > 0).to(torch.uint8).cpu().numpy()
    return visible.T.reshape(-1, *model.config.size).transpose(0, 3, 1, 2)
