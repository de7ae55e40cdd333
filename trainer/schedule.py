"""Learning-rate schedules: pure functions of the step, so a resumed run needs no scheduler state.

``step`` is the index of the update about to be made, 0 … steps-1. Update i of a warm-up of w has factor (i+1)/w, so the
first update already moves and update w-1 runs at the full rate.
"""

from __future__ import annotations

import math

from trainer.config import ScheduleConfig


def lr_factor(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """Factor in [0, 1] on the base learning rate for update ``step`` of ``steps``."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.name == "cosine":
        return cosine(step, schedule.warmup_steps, steps, schedule.final_fraction)
    return stable_decay(step, schedule.decay_fraction, steps, schedule.final_fraction)


def cosine(step: int, warmup_steps: int, steps: int, final: float) -> float:
    """Half a cosine from 1 just after warm-up to ``final`` at the last update (SGDR, arXiv 1608.03983)."""
    span = max(1, steps - 1 - warmup_steps)
    progress = min(1.0, (step - warmup_steps) / span)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def stable_decay(step: int, decay_fraction: float, steps: int, final: float) -> float:
    """1, then a line to ``final`` over the last ``decay_fraction`` of the updates (MiniCPM, arXiv 2404.06395)."""
    decay_steps = round(decay_fraction * steps)
    into_decay = step - (steps - decay_steps) + 1
    return 1.0 if into_decay <= 0 else 1.0 - (1.0 - final) * into_decay / decay_steps
