"""What a config states in epochs, in steps: an epoch is what the rows of the run's one dataset take in whole batches.

The config itself stays as it was written, and is the run's identity: how long an epoch is follows from the data, which
the run's record names by digest.
"""

from __future__ import annotations

from trainer.config import ScheduleConfig, TrainConfig
from trainer.errors import ConfigError


def steps_of(epochs: float, config: TrainConfig, sequences: int) -> int:
    """The whole number of updates nearest to ``epochs`` of ``sequences`` rows."""
    return round(epochs * sequences / config.batch_sequences)


def schedule_in_steps(config: TrainConfig, sequences: int) -> ScheduleConfig:
    """The config's schedule with nothing stated in epochs of ``sequences`` rows.

    ConfigError where a part of it is longer than the schedule.
    """
    schedule, horizon = config.schedule, config.horizon
    changes: dict[str, object] = {"warmup_epochs": None, "decay_epochs": None}
    if schedule.warmup_epochs is not None:
        changes["warmup_steps"] = _within(config, "warmup_epochs", schedule.warmup_epochs, 1, sequences)
    if schedule.decay_epochs is not None:
        changes["decay_fraction"] = _within(config, "decay_epochs", schedule.decay_epochs, 1, sequences) / horizon
    if (cycle := schedule.cycle) is not None:
        length = cycle.steps
        if cycle.epochs is not None:
            length = max(1, _within(config, "cycle.epochs", cycle.epochs, cycle.count, sequences))
        if length is not None and cycle.count * length > horizon:
            raise ConfigError(
                f"schedule.cycle: {cycle.count} of {length} steps, the schedule has {horizon}; give fewer or shorter"
            )
        changes["cycle"] = cycle.model_copy(update={"steps": length, "epochs": None})
    return schedule.model_copy(update=changes)


def _within(config: TrainConfig, field: str, epochs: float, times: int, sequences: int) -> int:
    steps = steps_of(epochs, config, sequences)
    if times * steps > config.horizon:
        raise ConfigError(
            f"schedule.{field} = {epochs}: {steps} steps of {config.batch_sequences} of the data's {sequences} rows, "
            f"{f'{times} times, ' if times > 1 else ''}and the schedule has {config.horizon} steps; lower it"
        )
    return steps


def repeats_from(config: TrainConfig, sequences: int) -> int:
    """How many updates are made before layers repeat: 0 where they always do, or there are none to repeat.

    ConfigError where the run ends before that, since what it publishes repeats them.
    """
    again = config.model.repeat
    if again is None or not again.times:
        return 0
    if again.from_epoch is not None:
        start, said = steps_of(again.from_epoch, config, sequences), f"from_epoch = {again.from_epoch}"
    else:
        start, said = int(again.from_fraction * config.horizon), f"from_fraction = {again.from_fraction}"
    if start >= config.steps:
        raise ConfigError(
            f"model.repeat.{said}: layers would repeat after {start} updates, the run has {config.steps}; lower it, "
            "or set model.repeat.times = 0"
        )
    return start
