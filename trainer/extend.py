"""More steps for a run that has come to its end: what may change, and what keeps its past true.

A run extended to more steps has the losses of one that was begun with all of them and this schedule: its schedule keeps
the length that it had (``schedule.steps``), and what comes after is ``schedule.after``.
"""

from __future__ import annotations

from typing import Any

from datalake import Lake
from datalake.runs.conflict import differences
from trainer.config import TrainConfig, parse_config
from trainer.errors import ConfigError
from trainer.inputs import open_inputs
from trainer.record import KIND

# What has no part in the updates made so far.
FREE = (
    "steps", "schedule.steps", "schedule.after", "checkpoint_every", "keep_last", "keep_every", "eval", "eval_every",
    "eval_sequences", "log_every", "publish", "tasks", "tensorboard",
)  # fmt: skip


def extend_run(lake: Lake, run: str, config: TrainConfig) -> TrainConfig:
    """Let ``run`` go on under ``config``, which asks for more steps; returns what it is from now on.

    Where ``config`` does not say how long its schedule is, it is as long as it was. Done twice, nothing changes.
    Raises ConfigError, naming field and both values, for a change that its past contradicts, and what
    ``RunRepository.extend`` raises.
    """
    state = lake.runs.get(run).state
    if state["kind"] != KIND:
        raise ConfigError(f"run {run!r} is of kind {state['kind']}: only a training (kind {KIND}) can be extended")
    before = parse_config(state["config"])
    if config.schedule.steps is None and config.steps > before.horizon:
        schedule = config.schedule.model_copy(update={"steps": before.horizon})
        config = config.model_copy(update={"schedule": schedule})
    there, here = _fields(before), _fields(config)
    if here == there:
        return config
    for path, old, new in differences(there, here):
        if path not in FREE and not path.startswith(("eval.", "tasks.")):
            raise ConfigError(
                f"{path} = {new!r}: run {run!r} was trained with {old!r}, and --extend changes none of what its past "
                'was made with; use that, or begin a new run from its weights (init = "MODEL@V")'
            )
    if config.steps <= before.steps:
        raise ConfigError(f"steps = {config.steps}: run {run!r} has {before.steps}; to extend it, give more")
    if config.horizon != before.horizon:
        raise ConfigError(
            f"schedule.steps = {config.horizon}: run {run!r} was trained on a schedule of {before.horizon} steps; "
            "leave it out"
        )
    if before.steps > before.horizon and config.schedule.after != before.schedule.after:
        raise ConfigError(
            f"schedule.after = {config.schedule.after!r}: run {run!r} has gone on by {before.schedule.after!r} "
            "already; use that"
        )
    lake.runs.extend(run, here, open_inputs(config, lake).describe(), over=state["config_digest"])
    return config


def _fields(config: TrainConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")
