"""The tables of an experiment's report, as rows of text that the page and the Markdown both show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from orchestration.experiment.analysis.analyse import Analysis
from orchestration.experiment.analysis.answers import LEVELS
from orchestration.experiment.analysis.compare import Comparison
from orchestration.experiment.analysis.curves import UNITS, Reach
from orchestration.experiment.report.numbers import DASH, difference, duration, interval, number, probability, quantity
from orchestration.experiment.result import ExperimentResult, Metric

Names = Mapping[str, str]
Rows = tuple[list[str], list[list[str]]]


def comparison_table(compared: Sequence[Comparison], names: Names, metric: Metric = "loss") -> Rows:
    """What decides: difference (metric's unit), deciding interval, corrected p, verdict; plain intervals beside."""
    head = [
        "arm",
        "against",
        "verdict",
        "pairs",
        "difference",
        "corrected interval (decides)",
        "corrected p",
        "t interval",
        "bootstrap",
        "relative",
        "perplexity",
        "mean loss over tokens",
    ]
    rows = []
    for each in compared:
        found = each.difference
        rows.append(
            [
                names[each.label],
                names.get(each.reference, each.reference),
                each.verdict,
                str(len(found.seeds)) if found else DASH,
                difference(found.mean if found else None),
                interval(each.decided),
                probability(each.p_corrected),
                interval(found.t if found else None),
                interval(found.bootstrap if found else None),
                percent(each.relative),
                percent(math.expm1(found.mean) if found and metric == "loss" else None),
                difference(each.area.mean if each.area else None),
            ]
        )
    return head, rows


def percent(value: float | None) -> str:
    """A signed percentage, or a dash."""
    return DASH if value is None else f"{difference(100 * value, 2)} %"


def reach_table(compared: Sequence[Comparison], names: Names) -> Rows:
    """Speed-up to the baseline's final loss in tokens, FLOPs and seconds, as published and charged."""
    head = ["arm", "against"] + [f"{unit}{more}" for unit in UNITS for more in (", as published", ", charged")]
    rows = []
    for each in compared:
        if each.reaches:
            cells = [names[each.label], names.get(each.reference, each.reference)]
            for unit in UNITS:
                mine = [reach for reach in each.reaches if reach.unit == unit]
                cells += [speed_up(mine, charged=False), speed_up(mine, charged=True)]
            rows.append(cells)
    return head, rows


def speed_up(reaches: Sequence[Reach], charged: bool) -> str:
    """The geometric mean over the seeds with its range, or in how many of them it was never reached."""
    found = [reach.speed_up_charged if charged else reach.speed_up for reach in reaches]
    known = [value for value in found if value is not None]
    if len(known) < len(found):
        return "never" if not known else f"never in {len(found) - len(known)} of {len(found)}"
    mean = math.exp(math.fsum(map(math.log, known)) / len(known))
    return f"{mean:.2f}×" if len(known) == 1 else f"{mean:.2f}× ({min(known):.2f} to {max(known):.2f})"


def effect_table(analysis: Analysis) -> Rows:
    """Main effects and interactions."""
    head = ["factor", "level", "against", "what", "cells", "pairs", "difference", "t interval"]
    return head, [
        [
            each.factor,
            each.level,
            each.reference,
            "score" if each.of is None else f"effect of {each.of}",
            str(each.cells),
            str(len(each.estimate.seeds)),
            difference(each.estimate.mean),
            interval(each.estimate.t),
        ]
        for each in analysis.effects
    ]


def arm_table(analysis: Analysis, names: Names) -> Rows:
    """Every arm over its seeds: loss, gate, rate and cost."""
    head = [
        "arm",
        "gate",
        "finished",
        "loss, mean",
        "SD over seeds",
        "perplexity",
        "bits per byte",
        "rate",
        "language tokens",
        "FLOPs",
        "time",
        "pre-pre-training tokens",
        "FLOPs",
        "time",
    ]
    return head, [
        [
            names[each.label],
            each.gate,
            f"{each.finished} of {each.planned}",
            number(each.loss),
            number(each.loss_sd),
            number(each.perplexity, 3),
            number(each.bits_per_byte),
            ", ".join(f"{rate:g}" for rate in each.rates) or DASH,
            quantity(each.tokens),
            quantity(each.flops),
            duration(each.seconds),
            quantity(each.pre_tokens),
            quantity(each.pre_flops),
            duration(each.pre_seconds),
        ]
        for each in analysis.arms
    ]


def answers_table(analysis: Analysis, names: Names) -> Rows:
    """Accuracy of a task's answers, by seed too, and the median of steps to each level, with how many came there."""
    head = ["arm", "accuracy, mean", "by seed", *(f"steps to {level:.0%}" for level in LEVELS)]
    return head, [
        [
            names[each.label],
            number(each.mean, 3),
            ", ".join(f"{value:.2f}" for value in each.accuracies),
            *(_median_steps(steps) for steps in each.steps),
        ]
        for each in analysis.answers
    ]


def _median_steps(steps: Sequence[int | None]) -> str:
    """The median over all seeds, a seed that never came there counting as later than any; and how many did."""
    reached = sorted(step for step in steps if step is not None)
    middle = len(steps) // 2
    median = f"{reached[middle]}" if middle < len(reached) else "never"
    return f"{median} ({len(reached)} of {len(steps)})"


def run_table(result: ExperimentResult, names: Names) -> Rows:
    """Every planned run, failed and missing ones among them."""
    head = ["arm", "run", "model", "status", "seed", "loss" if result.metric == "loss" else "accuracy", "gate"]
    return head, [
        [
            names[arm.arm.label],
            arm.run or DASH,
            arm.model or DASH,
            arm.status + (f": {arm.error}" if arm.error else ""),
            str(arm.arm.seed),
            number(arm.score(result.metric)),
            DASH if arm.gate is None else f"{arm.gate.loss:.3f} (gate {arm.gate.level:.3f})",
        ]
        for arm in result.arms
    ]


def sweep_table(result: ExperimentResult, names: Names) -> Rows:
    """Every trial of a learning rate, once per arm (all its seeds share the sweep)."""
    head = ["arm", "run", "rate", "loss"]
    shown = {arm.arm.label: arm.sweep for arm in reversed(result.arms) if arm.sweep}
    return head, [
        [names[label], trial.run or DASH, f"{trial.rate:g}", number(trial.loss) if trial.error is None else trial.error]
        for label, trials in reversed(shown.items())
        for trial in trials
    ]
