"""The mixture over the run, as the plan's schedule: weights change at recorded steps and are constant in between.

Rounding to whole rows begins anew at each change, so a share is met to within one row per stage: a run of a few steps
and rows may draw nothing from a small annealed share.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from trainer.config import DataConfig

ANNEAL_STAGES = 16

Change = tuple[int, tuple[float, ...]]


def factor(item: DataConfig, step: int, steps: int) -> float:
    """Factor in [0, 1] on the weight at ``step`` of ``steps``: 1, or down to 0 at ``until_fraction`` of the run.

    An annealed share goes down by ``ANNEAL_STAGES`` equal stages, each at the height of its middle.
    """
    if item.share == "constant":
        return 1.0
    end = max(1, round(item.until_fraction * steps))
    if step >= end:
        return 0.0
    if item.share == "front_loaded":
        return 1.0
    return 1.0 - (step * ANNEAL_STAGES // end + 0.5) / ANNEAL_STAGES


def weights_at(data: Sequence[DataConfig], step: int, steps: int) -> tuple[float, ...]:
    """The weight of each source at ``step``."""
    return tuple(item.weight * factor(item, step, steps) for item in data)


def mixture_schedule(data: Sequence[DataConfig], steps: int) -> tuple[tuple[float, ...], list[Change]]:
    """The weights at step 0, and (step, weights) of each change after it, for ``datalake.Plan``."""
    whole = [weights_at(data, step, steps) for step in _candidates(data, steps)]
    changes = [
        (step, after)
        for step, (before, after) in zip(_candidates(data, steps)[1:], pairwise(whole), strict=True)
        if before != after
    ]
    return whole[0], changes


def _candidates(data: Sequence[DataConfig], steps: int) -> list[int]:
    """Steps at which a weight may change: 0, ends of shares, edges of an annealed share's stages."""
    found = {0}
    for item in data:
        end = max(1, round(item.until_fraction * steps))
        if item.share == "annealed":
            found |= {-(-stage * end // ANNEAL_STAGES) for stage in range(1, ANNEAL_STAGES)}
        if item.share != "constant":
            found.add(end)
    return sorted(step for step in found if step < steps)
