"""What arms make of a task: the accuracy of its answers at the end, and how soon they came there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestration.experiment.analysis.pairs import arms_of, labels
from orchestration.experiment.result import CurvePoint, ExperimentResult, ResultModel

LEVELS = (0.5, 0.9, 0.95)


class AnswersSummary(ResultModel):
    """One label over its finished seeds: final accuracies by seed, their mean, and by level of LEVELS the steps to it,
    one a seed, None for never."""

    label: str
    accuracies: tuple[float, ...]
    mean: float
    steps: tuple[tuple[int | None, ...], ...]


def steps_to(curve: Sequence[CurvePoint], level: float) -> int | None:
    """The step of the first evaluation whose accuracy is at least ``level``; None for never."""
    return next((point.step for point in curve if point.accuracy is not None and point.accuracy >= level), None)


def answers_of(result: ExperimentResult) -> list[AnswersSummary]:
    """A summary for each label with a finished arm; none where the target is no task."""
    if result.metric != "accuracy":
        return []
    found = []
    for label in labels(result):
        arms = [arm for arm in arms_of(result, label) if arm.status == "finished" and arm.accuracy is not None]
        accuracies = tuple(arm.accuracy for arm in arms if arm.accuracy is not None)
        if accuracies:
            found.append(
                AnswersSummary(
                    label=label,
                    accuracies=accuracies,
                    mean=float(np.mean(accuracies)),
                    steps=tuple(tuple(steps_to(arm.curve, level) for arm in arms) for level in LEVELS),
                )
            )
    return found
