"""An arm against its baseline, or against a control: the paired difference, its interval, and the verdict.

A verdict needs all pairs that were planned. A comparison with a pair lacking is ``incomplete`` whatever the others say:
if pre-pre-training makes one run in three diverge, the mean of the other two flatters it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from orchestration.experiment.analysis.curves import Reach, area, reaches
from orchestration.experiment.analysis.pairs import arms_of, is_baseline, labels, partner, seeds_of
from orchestration.experiment.analysis.problems import Problem
from orchestration.experiment.analysis.sequential import look_alphas
from orchestration.experiment.analysis.statistics import Estimate, Interval, estimate, holm, t_bounds
from orchestration.experiment.result import NOT_APPLICABLE, ArmResult, CurvePoint, ExperimentResult, Metric, ResultModel

Conformance = Literal["better", "worse", "within margin", "no effect found", "void", "incomplete", "refused"]
Family = Literal["baseline", "control"]
Pairs = dict[int, tuple[ArmResult, ArmResult]]


class BandPoint(ResultModel):
    """Mean paired difference of losses at ``tokens``, with its own t interval (of this point, not of the band)."""

    tokens: float
    mean: float
    low: float | None
    high: float | None


class Comparison(ResultModel):
    """One arm, over all seeds, against another: ``difference`` is of final losses (below zero is better), or of a
    task's accuracies (above zero is better).

    ``decided`` is the interval at the level that Holm's correction leaves this comparison: the verdict is whether it
    excludes zero, or lies within the margin that the file gives (an equivalence test, which the one interval decides,
    too, as it holds the truth whichever way). Comparisons that are not ``primary`` are corrected among themselves.
    Where pairs were looked at several times, it is the interval of the first look that decided, or the last look's
    (see ``sequential``), and there is no corrected p.
    ``area`` is the difference of mean losses over the tokens. ``reasons`` says why there is no verdict. A refused
    comparison has no numbers.
    """

    family: Family
    primary: bool = True
    label: str
    reference: str
    factors: dict[str, str]
    against: str
    verdict: Conformance
    reasons: tuple[str, ...] = ()
    difference: Estimate | None = None
    decided: Interval | None = None
    p_corrected: float | None = None
    relative: float | None = None
    bits_per_byte: Estimate | None = None
    area: Estimate | None = None
    reaches: tuple[Reach, ...] = ()
    over_tokens: tuple[BandPoint, ...] = ()


def comparisons(result: ExperimentResult, problems: Sequence[Problem]) -> list[Comparison]:
    """Every arm against its baseline, one family, and every gated arm against its controls, another."""
    treatment, base = result.treatment, result.baseline.get(result.treatment, NOT_APPLICABLE)
    arms = {label: next(arm for arm in result.arms if arm.arm.label == label) for label in labels(result)}
    treated = [arm for arm in arms.values() if not is_baseline(result, arm.arm)]
    gated = {arm.arm.factors.get(treatment) for arm in result.arms if arm.gated}
    controls = list(dict.fromkeys(level for arm in treated if (level := arm.arm.factors[treatment]) not in gated))
    families: dict[Literal["baseline", "control"], list[tuple[ArmResult, str]]] = {
        "baseline": [(arm, base) for arm in treated],
        "control": [
            (arm, control)
            for arm in treated
            for control in controls
            if arm.arm.factors[treatment] in gated and partner(result.arms, arm.arm, treatment, control)
        ],
    }
    compared = [
        [_compare(result, problems, family, arm, against) for arm, against in members]
        for family, members in families.items()
    ]
    if not result.primary:
        return [done for members in compared for done in _decide(result, members)]
    named = [each for members in compared for each in members]
    asked = [each for each in named if each.primary]
    decided = [*_decide(result, asked), *_decide(result, [each for each in named if not each.primary])]
    order = {(each.family, each.label, each.against): at for at, each in enumerate(named)}
    return sorted(decided, key=lambda each: order[each.family, each.label, each.against])


def is_primary(result: ExperimentResult, level: str, against: str, family: str) -> bool:
    """Whether the file names the comparison; all are primary where it names none."""
    said = f"{level} vs {against}"
    return not result.primary or said in result.primary or (family == "baseline" and level in result.primary)


def pairs_of(result: ExperimentResult, label: str, level: str) -> Pairs:
    """By seed, the arm of this label and its partner with another level of the treatment, both finished."""
    found: Pairs = {}
    for arm in arms_of(result, label):
        if arm.arm.seed not in found:
            other = partner(result.arms, arm.arm, result.treatment, level)
            if other is not None and arm.status == other.status == "finished":
                found[arm.arm.seed] = (arm, other)
    return found


def _compare(
    result: ExperimentResult,
    problems: Sequence[Problem],
    family: Family,
    arm: ArmResult,
    against: str,
) -> Comparison:
    """One comparison before the correction: its verdict is "no effect found" where one is still to be decided."""
    label = arm.arm.label
    partners = [partner(result.arms, each.arm, result.treatment, against) for each in arms_of(result, label)]
    reference = next((each.arm.label for each in partners if each is not None), against)
    pairs = pairs_of(result, label, against)
    found = Comparison(
        family=family,
        primary=is_primary(result, arm.arm.factors[result.treatment], against, family),
        label=label,
        reference=reference,
        factors=arm.arm.factors,
        against=against,
        verdict="no effect found",
    )
    names = {label, reference} | {f"{each}, seed {seed}" for each in (label, reference) for seed in seeds_of(result)}
    mine = [problem for problem in problems if problem.arm in names]
    if refusals := [str(problem) for problem in mine if problem.effect == "refused"]:
        return found.model_copy(update={"verdict": "refused", "reasons": tuple(refusals)})
    found = found.model_copy(update=_numbers(pairs, result.alpha, result.metric))
    reasons = [str(problem) for problem in mine if problem.effect == "incomplete"]
    if not reasons and len(pairs) < 2:
        reasons = [f"{len(pairs)} pair of seeds: an interval needs two or more, so run more seeds"]
    if reasons:
        return found.model_copy(update={"verdict": "incomplete", "reasons": tuple(reasons)})
    if voids := [str(problem) for problem in mine if problem.effect == "void"]:
        return found.model_copy(update={"verdict": "void", "reasons": tuple(voids)})
    return found


def _numbers(pairs: Pairs, alpha: float, metric: Metric) -> dict[str, object]:
    def paired(value: Callable[[ArmResult], float | None]) -> Estimate | None:
        both = {seed: (value(arm), value(other)) for seed, (arm, other) in pairs.items()}
        return estimate(
            {seed: mine - theirs for seed, (mine, theirs) in both.items() if mine is not None and theirs is not None},
            alpha,
        )

    difference = paired(lambda arm: arm.score(metric))
    baselines = [score for _, other in pairs.values() if (score := other.score(metric)) is not None]
    return {
        "difference": difference,
        "relative": difference.mean / float(np.mean(baselines)) if difference and any(baselines) else None,
        "bits_per_byte": paired(lambda arm: arm.bits_per_byte),
        "area": paired(lambda arm: area(arm.curve) if arm.curve else None),
        "reaches": tuple(reach for seed in sorted(pairs) for reach in reaches(*pairs[seed])),
        "over_tokens": _over_tokens(pairs, alpha),
    }


def _decide_by_looks(result: ExperimentResult, each: Comparison, family: int) -> Comparison:
    """The verdict at the first look that gives one, or the last look's so far; ``family`` comparisons share alpha.

    Intervals of all looks hold the truth at once, so what one of them decided stands, whatever comes after.
    """
    if each.verdict != "no effect found" or each.difference is None:
        return each
    differences = np.array(each.difference.differences)
    found = each
    for look, own in zip(result.looks, look_alphas(result.looks, result.alpha / family), strict=True):
        if look > len(differences) or found.verdict != "no effect found":
            break
        low, high = t_bounds(differences[:look], own)
        interval = Interval(low=float(low), high=float(high), level=1 - own)
        verdict = verdict_of(interval, result.metric, result.margin)
        found = each.model_copy(update={"decided": interval, "verdict": verdict})
    return found


def verdict_of(interval: Interval, metric: Metric, margin: float | None) -> Conformance:
    """What the interval of a difference says: on which side of zero it lies, or that it lies within ±``margin``."""
    if interval.excludes_zero:
        return "better" if (interval.high < 0) == (metric == "loss") else "worse"
    if margin is not None and -margin < interval.low and interval.high < margin:
        return "within margin"
    return "no effect found"


def _over_tokens(pairs: Pairs, alpha: float) -> tuple[BandPoint, ...]:
    """The difference at every evaluation of the baseline that both arms' curves span, linear between evaluations."""
    curves = [(arm.curve, other.curve) for arm, other in pairs.values() if arm.curve and other.curve]
    if not curves:
        return ()
    first = max(curve[0].tokens for both in curves for curve in both)
    last = min(curve[-1].tokens for both in curves for curve in both)
    at = np.array([point.tokens for point in curves[0][1] if first <= point.tokens <= last])
    if not at.size:
        return ()

    def losses(curve: Sequence[CurvePoint]) -> np.ndarray:
        return np.interp(at, [point.tokens for point in curve], [point.loss for point in curve])

    differences_TS = np.stack([losses(mine) - losses(theirs) for mine, theirs in curves], axis=-1)
    if len(curves) < 2:
        return tuple(
            BandPoint(tokens=float(t), mean=float(m), low=None, high=None)
            for t, m in zip(at, differences_TS[:, 0], strict=True)
        )
    low, high = t_bounds(differences_TS, alpha)
    return tuple(
        BandPoint(tokens=float(t), mean=float(m), low=float(down), high=float(up))
        for t, m, down, up in zip(at, differences_TS.mean(axis=-1), low, high, strict=True)
    )


def _decide(result: ExperimentResult, family: Sequence[Comparison]) -> list[Comparison]:
    """Verdicts by Holm's correction over the whole family, comparisons without verdict counted."""
    if result.looks:
        return [_decide_by_looks(result, each, len(family)) for each in family]
    open_ = [each.verdict == "no effect found" for each in family]
    p_values = [
        each.difference.p if undecided and each.difference else None
        for each, undecided in zip(family, open_, strict=True)
    ]
    adjusted, alphas = holm(p_values, result.alpha)
    decided = []
    for each, p, corrected, own in zip(family, p_values, adjusted, alphas, strict=True):
        if p is None or each.difference is None:
            decided.append(each)
            continue
        low, high = t_bounds(np.array(each.difference.differences), own)
        interval = Interval(low=float(low), high=float(high), level=1 - own)
        verdict = verdict_of(interval, result.metric, result.margin)
        decided.append(each.model_copy(update={"decided": interval, "p_corrected": corrected, "verdict": verdict}))
    return decided
