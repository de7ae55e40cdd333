"""Schedules: pure functions of the step, so a resumed run needs no scheduler state.

``step`` is the index of the update about to be made, 0 … steps-1. Update i of a warm-up of w has factor (i+1)/w, so the
first update already moves and update w-1 runs at the full rate.
"""

from __future__ import annotations

import math

from trainer.config import CycleConfig, MuonConfig, OptimizerConfig, ScheduleConfig, TransferConfig


def place(schedule: ScheduleConfig, step: int, steps: int) -> int:
    """Where update ``step`` of a run is within a schedule of ``steps``: beyond its end, what ``after`` says."""
    if step < steps:
        return step
    return step % steps if schedule.after == "restart" else steps - 1


def lr_factor(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """Factor in [0, 1] on the base learning rate for update ``step`` of ``steps``."""
    if step < schedule.warmup_steps:
        factor = (step + 1) / schedule.warmup_steps
    elif schedule.name == "cosine":
        factor = cosine(step, schedule.warmup_steps, steps, schedule.final_fraction)
    else:
        factor = stable_decay(step, schedule.decay_fraction, steps, schedule.final_fraction, schedule.decay)
    return factor if schedule.cycle is None else cycled(schedule.cycle, factor, step, steps)


def cycled(cycle: CycleConfig, factor: float, step: int, steps: int) -> float:
    """``factor`` before the last cycles; within one half a cosine from it (or ``floor``, if higher) to ``floor``."""
    length = cycle.steps if cycle.steps is not None else max(1, round((cycle.fraction or 0.0) * steps))
    into = step - (steps - cycle.count * length)
    if into < 0:
        return factor
    top = max(factor, cycle.floor)
    return cycle.floor + (top - cycle.floor) * 0.5 * (1.0 + math.cos(math.pi * (into % length) / length))


def cosine(step: int, warmup_steps: int, steps: int, final: float) -> float:
    """Half a cosine from 1 just after warm-up to ``final`` at the last update (SGDR, arXiv 1608.03983)."""
    span = max(1, steps - 1 - warmup_steps)
    progress = min(1.0, (step - warmup_steps) / span)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def stable_decay(step: int, decay_fraction: float, steps: int, final: float, decay: str = "linear") -> float:
    """1, then down to ``final`` over the last ``decay_fraction`` of the updates (MiniCPM, arXiv 2404.06395).

    With x the part of the decay that is done, ``linear`` is 1 - (1-final)·x and ``sqrt`` 1 - (1-final)·sqrt(x) (Hägele
    et al. 2024, arXiv 2405.18392).
    """
    decay_steps = round(decay_fraction * steps)
    into_decay = step - (steps - decay_steps) + 1
    if into_decay <= 0:
        return 1.0
    done = into_decay / decay_steps
    return 1.0 - (1.0 - final) * (math.sqrt(done) if decay == "sqrt" else done)


def decay_factor(config: OptimizerConfig, step: int, steps: int) -> float:
    """Factor on ``weight_decay``: a line from 1 at the first update to ``weight_decay_final_fraction`` at the last."""
    return 1.0 + (config.weight_decay_final_fraction - 1.0) * step / max(1, steps - 1)


def transfer_factor(transfer: TransferConfig, step: int) -> float:
    """Factor on the rate of what moved: 0 while frozen, then a line that reaches 1 with the last update of the ramp."""
    thawed = step - transfer.freeze_steps + 1
    if thawed <= 0:
        return 0.0
    return min(1.0, thawed / max(1, transfer.ramp_steps))


def muon_momentum(config: MuonConfig, step: int) -> float:
    """Muon's momentum at update ``step``: a line from ``momentum_start`` to ``momentum`` over its warm-up."""
    if step >= config.momentum_warmup_steps:
        return config.momentum
    return config.momentum_start + (config.momentum - config.momentum_start) * step / config.momentum_warmup_steps
