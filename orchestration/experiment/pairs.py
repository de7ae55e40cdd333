"""Which arm is compared with which: equal seed, another level of one factor, equal in everything else."""

from __future__ import annotations

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
