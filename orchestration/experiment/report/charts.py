"""The figures of an experiment's report: intervals, loss curves with seed bands, differences, losses by frame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from orchestration.experiment.analysis.analyse import Analysis
from orchestration.experiment.analysis.compare import Comparison, pairs_of
from orchestration.experiment.analysis.pairs import arms_of
from orchestration.experiment.result import ArmResult, ExperimentResult, Metric
from orchestration.reports.svg import ARMS, FAINT, GATE, INK, LINES, MARKERS, Drawing, drawing

Names = Mapping[str, str]
STEADY = 0.15  # the share of the tokens after which a loss curve has come into the picture's range


class Style:
    """Every level of the treatment has one colour in all figures; arms of one level in one figure differ in dashes."""

    def __init__(self, result: ExperimentResult) -> None:
        base = result.baseline.get(result.treatment)
        levels = dict.fromkeys(arm.arm.factors.get(result.treatment) for arm in result.arms)
        self._order = sorted(levels, key=lambda level: level != base)
        self._treatment = result.treatment

    def of(self, factors: Mapping[str, str], seen: Sequence[Mapping[str, str]] = ()) -> dict[str, Any]:
        """Line style of an arm in a figure that already shows the arms ``seen``."""
        level = factors.get(self._treatment)
        at = self._order.index(level)
        before = sum(other.get(self._treatment) == level for other in seen)
        return {
            "color": ARMS[at % len(ARMS)],
            "marker": MARKERS[at % len(MARKERS)],
            "linestyle": LINES[before % len(LINES)],
        }


def forest_chart(compared: Sequence[Comparison], names: Names, title: str, metric: Metric = "loss") -> Markup:
    """Every comparison's difference of final losses, with its deciding interval (thick) and the plain one (thin)."""
    shown = [each for each in compared if each.difference is not None]
    if not shown:
        return Markup()
    unit = "loss, nats per token" if metric == "loss" else "accuracy of the answers"
    with drawing(title, "", f"difference of final {unit}", 1.0 + 0.62 * len(shown)) as draw:
        draw.axes.axvline(0, color=INK, linewidth=1, zorder=0.5)
        for row, each in enumerate(shown):
            _interval(draw, -row, each)
            mark = "" if each.decided else f" ({each.verdict})"
            label = f"{names[each.label]}, against {names.get(each.reference, each.reference)}{mark}"
            draw.axes.annotate(
                label, (0, -row + 0.28), xycoords=("axes fraction", "data"), color=FAINT if mark else INK, va="center"
            )
        draw.axes.set_ylim(-len(shown) + 0.4, 0.6)
        draw.axes.set_yticks([])
        draw.axes.spines["left"].set_visible(False)
        draw.axes.locator_params(axis="x", nbins=6)
    return draw.svg


def _interval(draw: Drawing, row: float, each: Comparison) -> None:
    color = {"better": ARMS[1], "worse": ARMS[0]}.get(each.verdict, FAINT)
    if each.difference is None:
        return
    if each.difference.t is not None:
        draw.axes.plot([each.difference.t.low, each.difference.t.high], [row - 0.12] * 2, color=color, linewidth=1.2)
    if each.decided is not None:
        ends = [each.decided.low, each.decided.high]
        draw.axes.plot(ends, [row - 0.12] * 2, color=color, linewidth=4, alpha=0.35, solid_capstyle="butt")
    draw.axes.plot([each.difference.mean], [row - 0.12], marker="o", color=color, linestyle="")
    draw.axes.plot(
        each.difference.differences,
        [row - 0.3] * len(each.difference.differences),
        marker="|",
        color=FAINT,
        linestyle="",
        alpha=0.8,
    )


def loss_chart(result: ExperimentResult, members: Sequence[str], names: Names) -> Markup:
    """Mean held-out loss over the seeds of each label, in a band from the lowest to the highest seed."""
    title = f"Held-out loss over tokens of {', '.join(names[label] for label in members)}; bands span the seeds"
    style, tail = Style(result), []
    seen: list[Mapping[str, str]] = []
    with drawing(title, "loss, nats per token") as draw:
        for label in members:
            arms = [arm for arm in arms_of(result, label) if arm.status == "finished" and arm.curve]
            if not arms:
                continue
            look = style.of(arms[0].arm.factors, seen)
            seen.append(arms[0].arm.factors)
            at, losses_ST = _stacked(arms)
            draw.over_tokens(list(zip(at, losses_ST.mean(axis=0), strict=True)), label=names[label], **look)
            draw.axes.fill_between(
                at / 1e6, losses_ST.min(axis=0), losses_ST.max(axis=0), color=look["color"], alpha=0.18, linewidth=0
            )
            tail.append(losses_ST[:, at >= STEADY * at[-1]])
        if not tail:
            return Markup()
        low, high = min(part.min() for part in tail), max(part.max() for part in tail)
        margin = 0.06 * (high - low) or 0.1
        draw.axes.set_ylim(low - margin, high + margin)
        draw.axes.legend()
    return draw.svg


def _stacked(arms: Sequence[ArmResult]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [T] of the first arm's evaluations that all span, and all arms' losses [S, T] there."""
    first = max(arm.curve[0].tokens for arm in arms)
    last = min(max(point.tokens for point in arm.curve) for arm in arms)
    at = np.array([point.tokens for point in arms[0].curve if first <= point.tokens <= last], dtype=np.float64)
    losses = [np.interp(at, [p.tokens for p in arm.curve], [p.loss for p in arm.curve]) for arm in arms]
    return at, np.stack(losses)


def accuracy_chart(result: ExperimentResult, members: Sequence[str], names: Names) -> Markup:
    """Accuracy of a task's answers over steps, a thin line a seed and the mean of each label; empty without a task."""
    if not members:
        return Markup()
    title = "Accuracy of the answers over steps of the target; thin lines are seeds, thick ones their means"
    style = Style(result)
    seen: list[Mapping[str, str]] = []
    with drawing(title, "accuracy of the answers", "steps") as draw:
        for label in members:
            arms = [arm for arm in arms_of(result, label) if arm.status == "finished"]
            curves = [{p.step: p.accuracy for p in arm.curve if p.accuracy is not None} for arm in arms]
            steps = sorted(set.intersection(*map(set, curves)))
            look = style.of(arms[0].arm.factors, seen)
            seen.append(arms[0].arm.factors)
            values_ST = np.array([[curve[step] for step in steps] for curve in curves])
            for values_T in values_ST:
                draw.axes.plot(steps, values_T, color=look["color"], linewidth=0.6, alpha=0.5)
            draw.axes.plot(steps, values_ST.mean(axis=0), label=names[label], **look)
        draw.axes.set_ylim(-0.02, 1.02)
        draw.axes.legend()
    return draw.svg


def difference_chart(result: ExperimentResult, compared: Sequence[Comparison], names: Names) -> Markup:
    """Mean paired difference over tokens of comparisons with one baseline, with t intervals point by point."""
    shown = [each for each in compared if each.over_tokens]
    if not shown:
        return Markup()
    title = f"Paired difference of held-out loss from {names[shown[0].reference]} over tokens; below zero is better"
    style = Style(result)
    seen: list[Mapping[str, str]] = []
    with drawing(title, "difference, nats per token") as draw:
        draw.axes.axhline(0, color=INK, linewidth=1)
        plotted: list[float] = [0.0]
        for each in shown:
            look = style.of(each.factors, seen)
            seen.append(each.factors)
            points = each.over_tokens
            draw.over_tokens([(point.tokens, point.mean) for point in points], label=names[each.label], **look)
            banded = [(p.tokens / 1e6, p.low, p.high) for p in points if p.low is not None and p.high is not None]
            if banded:
                at, low, high = zip(*banded, strict=True)
                draw.axes.fill_between(at, low, high, color=look["color"], alpha=0.15, linewidth=0)
            for point in points:
                if point.tokens >= STEADY * points[-1].tokens:
                    # Two pairs give intervals so wide that they would flatten everything else.
                    ends = (point.low, point.high) if each.difference and len(each.difference.seeds) > 2 else ()
                    plotted += [point.mean, *(end for end in ends if end is not None)]
        margin = 0.06 * (max(plotted) - min(plotted)) or 0.1
        draw.axes.set_ylim(min(plotted) - margin, max(plotted) + margin)
        draw.axes.legend()
    return draw.svg


def in_context_chart(result: ExperimentResult, analysis: Analysis, names: Names) -> Markup:
    """Loss of the pre-pre-trained models on synthetic held-out data, by frame: it falls where rules are inferred."""
    shown = [each for each in analysis.arms if each.in_context]
    unique = {(tuple(each.in_context or ()), each.factors.get(result.treatment)): each for each in shown}
    if not unique:
        return Markup()
    style = Style(result)
    seen: list[Mapping[str, str]] = []
    title = "Loss of the synthetic task by frame within a sequence, before language"
    with drawing(title, "loss, nats per token", "frame") as draw:
        for each in unique.values():
            look = style.of(each.factors, seen)
            seen.append(each.factors)
            losses = each.in_context or ()
            draw.axes.plot(range(1, len(losses) + 1), losses, label=names[each.label], **look)
        entropies = [arm.gate.unigram_entropy for arm in result.arms if arm.gate is not None and arm.gated]
        if entropies and math.isclose(min(entropies), max(entropies), rel_tol=0.02):
            level = float(np.mean(entropies))
            draw.axes.axhline(level, color=GATE, linestyle="--", label=f"gate: unigram entropy {level:.2f}")
        draw.axes.legend()
    return draw.svg


def panels(result: ExperimentResult, analysis: Analysis, names: Names) -> list[tuple[str, Markup, Markup]]:
    """(baseline's label, loss figure, difference figure) of each baseline and the arms that are compared with it."""
    by_reference: dict[str, list[Comparison]] = {}
    for each in analysis.compared_with("baseline"):
        # A refused arm is not drawn beside arms that it may not be compared with.
        if each.verdict != "refused" and pairs_of(result, each.label, each.against):
            by_reference.setdefault(each.reference, []).append(each)
    return [
        (
            reference,
            loss_chart(result, [reference, *(each.label for each in members)], names),
            difference_chart(result, members, names),
        )
        for reference, members in by_reference.items()
    ]
