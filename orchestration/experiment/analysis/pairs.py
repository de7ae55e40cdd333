"""Which arm is compared with which: equal seed, another level of one factor, equal in everything else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from orchestration.experiment.result import NOT_APPLICABLE, Arm, ArmResult, ExperimentResult


def partner(arms: Iterable[ArmResult], arm: Arm, factor: str, level: str) -> ArmResult | None:
    """The arm of the same seed that has ``level`` of ``factor`` and is otherwise as ``arm``; None if there is none.

    A factor that does not apply to the partner may have any level in ``arm``: the run without pre-pre-training is the
    baseline whatever optimiser the pre-pre-training had. A partner equal in all factors is preferred.
    """
    found = [
        other
        for other in arms
        if other.arm.seed == arm.seed
        and other.arm.factors.get(factor) == level
        and all(
            other.arm.factors.get(name) in (own, NOT_APPLICABLE) for name, own in arm.factors.items() if name != factor
        )
    ]
    return min(found, key=lambda other: _free(other.arm), default=None)


def _free(arm: Arm) -> int:
    return sum(level == NOT_APPLICABLE for level in arm.factors.values())


def is_baseline(result: ExperimentResult, arm: Arm) -> bool:
    """Whether the arm has the treatment's baseline level."""
    return arm.factors.get(result.treatment) == result.baseline.get(result.treatment)


def baseline_of(result: ExperimentResult, arm: Arm) -> ArmResult | None:
    """The arm that ``arm`` is compared with in the end; None for a baseline, and where there is none."""
    if is_baseline(result, arm):
        return None
    return partner(result.arms, arm, result.treatment, result.baseline.get(result.treatment, NOT_APPLICABLE))


def labels(result: ExperimentResult) -> list[str]:
    """Every arm's label once, in the order of the file."""
    return list(dict.fromkeys(each.arm.label for each in result.arms))


def seeds_of(result: ExperimentResult) -> tuple[int, ...]:
    """All seeds of the experiment, ascending."""
    return tuple(sorted({each.arm.seed for each in result.arms}))


def arms_of(result: ExperimentResult, label: str) -> list[ArmResult]:
    """The arms of one label, a seed each."""
    return [each for each in result.arms if each.arm.label == label]


def short_labels(result: ExperimentResult) -> dict[str, str]:
    """Label -> what a reader needs of it: the levels of factors that vary, as "nca (muon) → adamw · mlp".

    In brackets the optimiser of the pre-pre-training, behind the arrow that of the language run. A label stays whole
    where two would be shortened to the same.
    """
    levels: dict[str, set[str]] = {}
    for each in result.arms:
        for name, level in each.arm.factors.items():
            levels.setdefault(name, set()).add(level)
    varying = {name for name, found in levels.items() if len(found - {NOT_APPLICABLE}) > 1} | {result.treatment}
    short = {each.arm.label: _short(each.arm, varying) for each in result.arms}
    counts = Counter(short.values())
    return {label: shortened if counts[shortened] == 1 else label for label, shortened in short.items()}


def _short(arm: Arm, varying: set[str]) -> str:
    shown = {name: level for name, level in arm.factors.items() if name in varying and level != NOT_APPLICABLE}
    front = shown.pop("pre", "")
    if "pre_optimizer" in shown:
        front += f" ({shown.pop('pre_optimizer')})"
    if "optimizer" in shown:
        front += f" → {shown.pop('optimizer')}"
    rest = Arm(factors=shown, seed=0).label
    return " · ".join(part for part in (front.strip(), rest) if part)
