"""From a result to what it shows: problems, comparisons with their verdicts, effects of factors, and one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from orchestration.experiment.analysis.answers import AnswersSummary, answers_of
from orchestration.experiment.analysis.checks import check_arms
from orchestration.experiment.analysis.compare import Comparison, Family, comparisons
from orchestration.experiment.analysis.effects import FactorEffect, factor_effects
from orchestration.experiment.analysis.pairs import arms_of, labels, seeds_of
from orchestration.experiment.analysis.problems import Problem
from orchestration.experiment.analysis.statistics import minimum_detectable_effect
from orchestration.experiment.analysis.verdict import sentence
from orchestration.experiment.result import DetectableEffect, ExperimentResult, ResultModel

POWER = 0.8


class ArmSummary(ResultModel):
    """One label over its seeds. Means are over finished seeds; ``in_context`` is the mean loss by frame."""

    label: str
    factors: dict[str, str]
    planned: int
    finished: int
    loss: float | None = None
    loss_sd: float | None = None
    perplexity: float | None = None
    bits_per_byte: float | None = None
    rates: tuple[float, ...] = ()
    gate: str = "none"
    in_context: tuple[float, ...] | None = None
    tokens: float | None = None
    flops: float | None = None
    seconds: float | None = None
    pre_tokens: float | None = None
    pre_flops: float | None = None
    pre_seconds: float | None = None


class Analysis(ResultModel):
    """All that the report says beyond the result itself.

    ``observed`` is what the design finds at the standard deviation that the paired differences turned out to have,
    pooled over the comparisons with a baseline: beside what was stated before, it tells whether that held.
    """

    verdict: str
    problems: tuple[Problem, ...]
    comparisons: tuple[Comparison, ...]
    effects: tuple[FactorEffect, ...]
    arms: tuple[ArmSummary, ...]
    answers: tuple[AnswersSummary, ...] = ()
    observed: DetectableEffect | None = None

    def compared_with(self, family: Family) -> list[Comparison]:
        """The comparisons with a baseline, or with a control."""
        return [each for each in self.comparisons if each.family == family]


def analyse(result: ExperimentResult) -> Analysis:
    """Check, compare and summarise; a pure function of the result."""
    problems = check_arms(result)
    compared = comparisons(result, problems)
    return Analysis(
        verdict=sentence(result, compared),
        problems=tuple(problems),
        comparisons=tuple(compared),
        effects=tuple(factor_effects(result, problems)),
        arms=tuple(_summary(result, label) for label in labels(result)),
        answers=tuple(answers_of(result)),
        observed=_observed(result, compared),
    )


def _observed(result: ExperimentResult, compared: Sequence[Comparison]) -> DetectableEffect | None:
    family = [each for each in compared if each.family == "baseline"]
    spreads = [each.difference.sd for each in family if each.difference and each.difference.sd and each.decided]
    if not spreads:
        return None
    stated = result.minimum_detectable_effect
    return minimum_detectable_effect(
        len(seeds_of(result)),
        math.sqrt(float(np.mean(np.square(spreads)))),
        result.alpha,
        stated.power if stated else POWER,
        comparisons=len(family),
        source="observed",
    )


def _summary(result: ExperimentResult, label: str) -> ArmSummary:
    arms = arms_of(result, label)
    done = [arm for arm in arms if arm.status == "finished" and arm.final_loss is not None]
    losses = [arm.final_loss for arm in done if arm.final_loss is not None]
    curves = [arm.in_context for arm in done if arm.in_context]
    lengths = {len(curve) for curve in curves}
    rates = {arm.config.get("optimizer", {}).get("lr") for arm in done}
    loss = _mean(losses)
    return ArmSummary(
        label=label,
        factors=arms[0].arm.factors,
        planned=len(arms),
        finished=len(done),
        loss=loss,
        loss_sd=float(np.std(losses, ddof=1)) if len(losses) > 1 else None,
        perplexity=None if loss is None else math.exp(min(loss, 700.0)),
        bits_per_byte=_mean([arm.bits_per_byte for arm in done]),
        rates=tuple(sorted(rate for rate in rates if rate is not None)),
        gate=_gate([None if arm.gate is None else arm.gate.under for arm in done]),
        in_context=tuple(np.mean(curves, axis=0).tolist()) if len(lengths) == 1 else None,
        tokens=_mean([arm.language.tokens if arm.language else None for arm in done]),
        flops=_mean([arm.language.flops if arm.language else None for arm in done]),
        seconds=_mean([arm.language.seconds if arm.language else None for arm in done]),
        pre_tokens=_mean([arm.pre.tokens if arm.pre else None for arm in done]),
        pre_flops=_mean([arm.pre.flops if arm.pre else None for arm in done]),
        pre_seconds=_mean([arm.pre.seconds if arm.pre else None for arm in done]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """Their mean if all are known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _gate(learned: Sequence[bool | None]) -> str:
    known = [each for each in learned if each is not None]
    if not known:
        return "none"
    return "learned" if all(known) else f"learned in {sum(known)} of {len(known)}"
