"""What each factor does on average over the others, and at which of its levels the treatment does more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestration.experiment.analysis.pairs import partner, seeds_of
from orchestration.experiment.analysis.problems import Problem
from orchestration.experiment.analysis.statistics import Estimate, estimate
from orchestration.experiment.result import NOT_APPLICABLE, Arm, ArmResult, ExperimentResult, Metric, ResultModel

BySeed = dict[int, float]


class FactorEffect(ResultModel):
    """Mean difference of final scores between two levels of a factor, over ``cells`` combinations of the others.

    With ``of`` it is an interaction: how much more the treatment's level ``of`` changes the loss (against the
    treatment's baseline) at ``level`` than at ``reference``. Descriptive: intervals are not corrected, and decide
    nothing. Cells with an arm that may not be compared, or lacks a seed, are left out.
    """

    factor: str
    level: str
    reference: str
    of: str | None
    cells: int
    estimate: Estimate


def factor_effects(result: ExperimentResult, problems: Sequence[Problem]) -> list[FactorEffect]:
    """Main effects of every factor's levels, then interactions of the treatment's levels with the other factors."""
    usable, metric = _usable(result, problems), result.metric
    factors = list(dict.fromkeys(name for arm in result.arms for name in arm.arm.factors))
    found = []
    for factor in factors:
        reference, *others = _levels(result, factor)
        for level in others:
            found += _effect(result, factor, level, reference, None, _main(usable, factor, level, reference, metric))
    base, *treated = _levels(result, result.treatment) or [NOT_APPLICABLE]
    for factor in factors:
        if factor == result.treatment:
            continue
        reference, *others = _levels(result, factor)
        for level in others:
            for of in treated:
                by_cell = _interaction(usable, result.treatment, of, base, factor, level, reference, metric)
                found += _effect(result, factor, level, reference, of, by_cell)
    return found


def _usable(result: ExperimentResult, problems: Sequence[Problem]) -> list[ArmResult]:
    bad = {problem.arm for problem in problems if problem.effect in ("refused", "void")}
    return [
        arm
        for arm in result.arms
        if arm.status == "finished" and arm.score(result.metric) is not None and not {arm.name, arm.arm.label} & bad
    ]


def _levels(result: ExperimentResult, factor: str) -> list[str]:
    """The factor's levels, its reference first."""
    found = list(dict.fromkeys(arm.arm.factors.get(factor, NOT_APPLICABLE) for arm in result.arms))
    levels = [level for level in found if level != NOT_APPLICABLE] or found
    return sorted(levels, key=lambda level: level != result.baseline.get(factor))


def _cell(arm: Arm, *without: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, level) for name, level in arm.factors.items() if name not in without))


def _difference(arms: Sequence[ArmResult], arm: ArmResult, factor: str, reference: str, metric: Metric) -> float | None:
    other = partner(arms, arm.arm, factor, reference)
    mine, theirs = arm.score(metric), None if other is None else other.score(metric)
    return None if mine is None or theirs is None else mine - theirs


def _main(arms: Sequence[ArmResult], factor: str, level: str, reference: str, metric: Metric) -> list[BySeed]:
    cells: dict[object, BySeed] = {}
    for arm in arms:
        if arm.arm.factors.get(factor) == level:
            value = _difference(arms, arm, factor, reference, metric)
            if value is not None:
                cells.setdefault(_cell(arm.arm, factor), {})[arm.arm.seed] = value
    return list(cells.values())


def _interaction(
    arms: Sequence[ArmResult],
    treatment: str,
    of: str,
    base: str,
    factor: str,
    level: str,
    reference: str,
    metric: Metric,
) -> list[BySeed]:
    cells: dict[object, BySeed] = {}
    for arm in arms:
        if arm.arm.factors.get(treatment) == of and arm.arm.factors.get(factor) == level:
            other = partner(arms, arm.arm, factor, reference)
            here = _difference(arms, arm, treatment, base, metric)
            there = None if other is None else _difference(arms, other, treatment, base, metric)
            if here is not None and there is not None:
                cells.setdefault(_cell(arm.arm, factor), {})[arm.arm.seed] = here - there
    return list(cells.values())


def _effect(
    result: ExperimentResult, factor: str, level: str, reference: str, of: str | None, by_cell: Sequence[BySeed]
) -> list[FactorEffect]:
    seeds = set(seeds_of(result))
    whole = [by_seed for by_seed in by_cell if by_seed.keys() == seeds]
    found = estimate(
        {seed: float(np.mean([cell[seed] for cell in whole])) for seed in seeds} if whole else {}, result.alpha
    )
    if found is None:
        return []
    return [FactorEffect(factor=factor, level=level, reference=reference, of=of, cells=len(whole), estimate=found)]
