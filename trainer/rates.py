"""Every group's rate, decay and momentum at a step: where the schedules meet the groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from trainer.config import OptimizerConfig, ScheduleConfig, TransferConfig
from trainer.optim import Group, Rates
from trainer.schedule import decay_factor, lr_factor, muon_momentum, place, transfer_factor


class Scheduled(Protocol):
    """What rates are a function of, of whatever run."""

    @property
    def optimizer(self) -> OptimizerConfig: ...

    @property
    def schedule(self) -> ScheduleConfig: ...

    @property
    def transfer(self) -> TransferConfig | None: ...

    @property
    def horizon(self) -> int: ...


def rates_at(config: Scheduled, groups: Sequence[Group], step: int) -> dict[str, Rates]:
    """Rates by group name for update ``step``, a pure function of its arguments."""
    optimizer, steps = config.optimizer, config.horizon
    at = place(config.schedule, step, steps)
    overall = lr_factor(config.schedule, at, steps)
    decay = optimizer.weight_decay * decay_factor(optimizer, at, steps)
    rates = {}
    for group in groups:
        lr = overall * ((optimizer.muon.lr or optimizer.lr) if group.rule == "muon" else optimizer.lr)
        moves = 1.0
        if group.transferred and config.transfer is not None:
            moves = transfer_factor(config.transfer, step)
        momentum = muon_momentum(optimizer.muon, step) if group.rule == "muon" else None
        rates[group.name] = Rates(lr * moves, decay, momentum, frozen=moves == 0.0)
    return rates


def learning_rate(config: Scheduled, step: int) -> float:
    """The rate of ``optimizer.lr`` at update ``step``, which is what a run's curve shows."""
    return config.optimizer.lr * lr_factor(
        config.schedule, place(config.schedule, step, config.horizon), config.horizon
    )
