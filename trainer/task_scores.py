"""Tasks that a run is scored on while it trains, by whoever can: this package knows only when, and on which weights."""

from __future__ import annotations

from typing import Protocol

import torch

from trainer.inputs import Inputs
from trainer.model import Llama
from trainer.precision import Precision
from trainer.recipe import TasksConfig

Scores = dict[str, dict[str, float]]
PREFIX = "task:"
"""What the name of a task is written with where a dataset's would stand."""


class TaskScorer(Protocol):
    """Scores ``tasks`` on a model that was trained on ``inputs``. Picklable: ranks get it with their job."""

    def check(self, tasks: TasksConfig, inputs: Inputs) -> None:
        """Raise what is wrong with the tasks, or with asking this model, before anything is trained."""
        ...

    def __call__(
        self, model: Llama, tasks: TasksConfig, inputs: Inputs, precision: Precision, device: torch.device
    ) -> Scores:
        """Metrics by task."""
        ...
