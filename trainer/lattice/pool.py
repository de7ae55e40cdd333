"""The pool: states that updates take up where earlier ones left them. Gradients end where a state enters or leaves it.

Each sample of a batch has slots of its own, and which one it draws is a function of (seed, update, sample): so ranks
need not talk, and a run on another number of ranks draws the same states.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from generator import philox
from trainer.errors import CheckpointError
from trainer.lattice.damage import damaged_cells
from trainer.lattice.masks import POOL
from trainer.lattice.targets import Target
from trainer.lattice.train_config import PoolConfig

Drawn = tuple[Tensor, np.ndarray]  # states [cells, B, C], codes [B, L]


class Pool:
    """The slots of samples ``samples`` (numbers within the batch) of each update; states on the CPU, cells in order."""

    def __init__(self, config: PoolConfig, target: Target, size: tuple[int, int, int], seed: int, batch: int) -> None:
        self._config, self._target, self._size, self._seed, self._batch = config, target, size, seed, batch
        self.states: dict[int, Tensor] = {}  # by sample, [slots, cells, C]
        self.codes: dict[int, Tensor] = {}  # by sample, int64 [slots, L]; -1 where a slot was never used
        self._slots: dict[int, int] = {}

    def draw(self, update: int, samples: range, channels: int) -> Drawn:
        """What the samples of ``update`` begin with: a slot's state, damaged or not, or nothing and a fresh code."""
        ids = update * self._batch + np.array(samples)
        words = philox.words(self._seed, POOL, ids, np.zeros_like(ids), 4)
        fresh = words[:, 1] < self._config.fresh * 2.0**32
        hit = (words[:, 2] < self._config.damage * 2.0**32) & ~fresh
        codes = self._target.draw(self._seed, ids)
        cells = int(np.prod(self._size))
        states = torch.zeros(cells, len(samples), channels)
        for at, sample in enumerate(samples):
            if sample not in self.states:
                self.states[sample] = torch.zeros(self._config.slots, cells, channels)
                self.codes[sample] = torch.full((self._config.slots, codes.shape[1]), -1)
            slot = int(philox.below(words[at, 0], self._config.slots))
            self._slots[sample] = slot
            if not fresh[at] and self.codes[sample][slot, 0] >= 0:
                codes[at] = self.codes[sample][slot].numpy()
                states[:, at] = self.states[sample][slot]
        gone = torch.from_numpy(damaged_cells(self._size, self._seed, ids) & hit)
        states[gone] = 0
        return states, codes

    def put(self, samples: range, states_NBC: Tensor, codes_BL: np.ndarray) -> None:
        """Put the samples' states after the update into the slots that they were drawn from."""
        for at, sample in enumerate(samples):
            slot = self._slots[sample]
            self.states[sample][slot] = states_NBC[:, at].cpu()
            self.codes[sample][slot] = torch.from_numpy(codes_BL[at])

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name, for a checkpoint."""
        return {
            f"{kind}.{sample}": part for kind in ("states", "codes") for sample, part in getattr(self, kind).items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint's slots; CheckpointError unless they are of this pool."""
        for name, tensor in tensors.items():
            kind, _, sample = name.partition(".")
            if len(tensor) != self._config.slots:
                raise CheckpointError(f"pool {name} has {len(tensor)} slots, the config {self._config.slots}")
            getattr(self, kind)[int(sample)] = tensor
