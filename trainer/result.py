"""What a run came to, and its curve, as the lake has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from datalake import Lake
from trainer.metrics import Record


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    ``status`` is "finished" or "stopped"; ``step`` counts updates made; ``evals`` maps each held-out dataset to what
    ``evaluate`` returned last; ``model`` is the published "NAME@VERSION" or None; ``facts`` holds parameters, shape,
    groups (rule, tensors, parameters, decayed of each), moved (transferred tensors), precision, world, batch_tokens,
    flops_per_token and, if a dataset was made meanwhile, live (what its maker counted).
    """

    status: str
    run: str
    step: int
    evals: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def to_record(self) -> dict[str, Any]:
        """JSON-able, as stored in the run's log."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TrainResult:
        """The inverse of ``to_record``."""
        return cls(**record)


def load_metrics(lake: Lake, run: str) -> list[Record]:
    """The run's curve up to its newest checkpoint, each step once: what the step loop logged, oldest first."""
    return lake.runs.get(run).metric_records()
