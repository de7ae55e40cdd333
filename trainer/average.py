"""Averages of the weights along the run, kept beside them and shown in their place for evaluation and publishing.

What an update adds to the average is a pure function of the step, so the averaged tensors are all that a checkpoint
must hold of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainer.config import AverageConfig
from trainer.errors import CheckpointError


def share(config: AverageConfig, done: int, steps: int) -> float:
    """How much of the weights after update ``done`` (1 … steps) goes into the average; 0: none, 1: all, a beginning.

    ``late``: the n-th member of a mean has share 1/n, so that all weigh the same in the end.
    """
    start = int(config.start_fraction * steps)
    if config.name == "ema":
        return 0.0 if done <= start else 1.0 if done == start + 1 else 1.0 - config.decay
    first = (start // config.every + 1) * config.every
    if done < first or done % config.every:
        return 0.0
    return 1.0 / ((done - first) // config.every + 1)


class Average:
    """The average of ``model``'s parameters; before it begins there is none, and the model's own weights stand."""

    def __init__(self, model: nn.Module, config: AverageConfig | None) -> None:
        self._parameters = dict(model.named_parameters())
        self._config = config
        self.tensors: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, done: int, steps: int) -> None:
        """Take in the weights after update ``done`` of ``steps``."""
        weight = share(self._config, done, steps) if self._config else 0.0
        if weight == 0.0:
            return
        for name, parameter in self._parameters.items():
            if weight == 1.0:
                self.tensors[name] = parameter.detach().clone()
            else:
                self.tensors[name].lerp_(parameter, weight)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model with the averaged weights; its own are back, to the bit, on the way out."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint's average; CheckpointError unless it is of this model."""
        if tensors and {name: tensor.shape for name, tensor in tensors.items()} != {
            name: parameter.shape for name, parameter in self._parameters.items()
        }:
            raise CheckpointError("the checkpoint's averaged weights are another model's; check the config")
        self.tensors = {name: tensor.to(self._parameters[name].device) for name, tensor in tensors.items()}

    @torch.no_grad()
    def _swap(self) -> None:
        for name, tensor in self.tensors.items():
            own = self._parameters[name].detach().clone()
            self._parameters[name].copy_(tensor)
            tensor.copy_(own)
