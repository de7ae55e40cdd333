"""What one arm's own record must satisfy: a whole curve, labels that are not shifted, a gate that was passed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from orchestration.experiment.analysis.problems import Effect, Problem
from orchestration.experiment.config.shared import shared_hash
from orchestration.experiment.result import ArmResult, LabelCheck

IN_CONFIG = {
    "batch_sequences": "batch_sequences",
    "steps": "steps",
    "eval_sequences": "eval_sequences",
}
"""Checks that repeat a field of the configuration, which must say the same."""

NEAR = 0.01
"""Relative difference of losses up to which two targets are predicted alike."""

SURE = 4.0
"""Standard errors of a loss over some of the rows within which it may be that of all."""

COPIED = 0.5
"""The loss of the token read, as a share of the next one's, under which a model of a task was taught to copy. A model
that counts which tokens a sequence has shown is surer of the token read, which was shown, than of the next one; one
that was trained on the token read itself has a loss near zero there."""


def check_arm(arm: ArmResult, leave_out: Sequence[str]) -> list[Problem]:
    """Problems of a finished arm that need no other arm to be seen."""
    found: list[Problem] = []

    def report(check: str, value: object, expected: object, message: str, effect: Effect = "refused") -> None:
        found.append(
            Problem(arm=arm.name, check=check, found=str(value), expected=str(expected), message=message, effect=effect)
        )

    for check, value, expected, message in itertools.chain(_config(arm, leave_out), _curve(arm), _labels(arm)):
        report(check, value, expected, message)
    for check, value, expected, message in _gate(arm):
        report(check, value, expected, message, "void")
    for check, value, expected, message in itertools.chain(_weak_labels(arm), _sweep(arm)):
        report(check, value, expected, message, "warned")
    return found


Finding = tuple[str, object, object, str]


def _config(arm: ArmResult, leave_out: Sequence[str]) -> Iterator[Finding]:
    if not arm.shared_hash or "seed" not in arm.config:
        yield "config", "not recorded", "the configuration, with its seed and shared hash", "gather the arm again"
        return
    for check, field in IN_CONFIG.items():
        if field in arm.config and check in arm.checks and arm.config[field] != arm.checks[check]:
            yield (
                check,
                arm.checks[check],
                f"{arm.config[field]} as in its configuration",
                "what ran is not what was configured: run the arm again",
            )
    if leave_out and (again := shared_hash(arm.config, leave_out)) != arm.shared_hash:
        yield (
            "shared_hash",
            f"{arm.shared_hash[:12]} recorded",
            f"{again[:12]} of its configuration",
            "the record was changed after the run: run the arm again",
        )


def _curve(arm: ArmResult) -> Iterator[Finding]:
    curve, steps = arm.curve, arm.checks.get("steps")
    if not curve or arm.final_loss is None:
        yield "curve", f"{len(curve)} evaluations, final loss {arm.final_loss}", "both", "run the arm again"
        return
    for before, after in itertools.pairwise(curve):
        if after.step == before.step:
            yield "curve", f"step {after.step} twice", "each step once", "the record was merged twice: gather it again"
        elif after.step < before.step or after.tokens <= before.tokens:
            yield (
                "curve",
                f"step {after.step} ({after.tokens} tokens) after step {before.step} ({before.tokens} tokens)",
                "steps and tokens that grow",
                "two runs were mixed or the record is out of order: gather it again",
            )
    last = curve[-1]
    if steps is not None and last.step != steps:
        yield (
            "curve_tail",
            f"last evaluation at step {last.step}",
            f"step {steps}",
            "the curve's end is missing: resume the run to its end, or gather its metrics again",
        )
    elif not math.isclose(last.loss, arm.final_loss, rel_tol=1e-6):
        yield (
            "final_loss",
            arm.final_loss,
            f"{last.loss} as at the curve's end",
            "the final loss is from another model or other data than the curve: evaluate again",
        )
    if arm.language is not None and arm.language.tokens != last.tokens and last.step == steps:
        yield (
            "tokens",
            f"{last.tokens} at the curve's end",
            f"{arm.language.tokens} as charged",
            "cost and curve are of different runs: gather them again",
        )


def _labels(arm: ArmResult) -> Iterator[Finding]:
    """The model must predict the next token best, and the reported loss must be the next token's."""
    labels = arm.labels
    if labels is None:
        yield "labels", "not recorded", "a check of the targets", "evaluate the model against shifted targets"
        return
    losses = {"the same token": labels.same, "the next token": labels.next, "the token after next": labels.after_next}
    best = min(losses, key=lambda name: losses[name])
    if labels.next - losses[best] > NEAR * labels.next and not _counting(arm, labels):
        yield (
            "labels",
            f"predicts {best} best ({losses[best]:.4f} nats)",
            f"the next token ({labels.next:.4f})",
            "the targets were shifted in training: correct them and run the arm again",
        )
    elif (
        not _weak(labels)
        and (final := arm.final_loss) is not None
        and abs(final - labels.next) > max(NEAR * labels.next, SURE * labels.error)
    ):
        nearest = min(losses, key=lambda name: abs(losses[name] - final))
        if nearest != "the next token":
            yield (
                "labels",
                f"final loss {final:.4f}, which is that of {nearest} ({losses[nearest]:.4f})",
                f"the next token's ({labels.next:.4f})",
                "the targets were shifted in evaluation: correct them and evaluate again",
            )


def _weak(labels: LabelCheck) -> bool:
    """Whether all three targets are predicted alike: the model knows frequencies only, and the check shows nothing."""
    return max(abs(labels.same - labels.next), abs(labels.after_next - labels.next)) <= NEAR * labels.next


def _counting(arm: ArmResult, labels: LabelCheck) -> bool:
    """Whether an arm of a task prefers the token read by no more than counting in context explains."""
    return arm.accuracy is not None and labels.same >= COPIED * labels.next and labels.same <= labels.after_next


def _weak_labels(arm: ArmResult) -> Iterator[Finding]:
    labels = arm.labels
    if labels is not None and (_weak(labels) or (labels.same < labels.next and _counting(arm, labels))):
        yield (
            "labels",
            f"{labels.same:.4f}, {labels.next:.4f} and {labels.after_next:.4f} nats for three targets",
            "the next token predicted better than its neighbours",
            "so little was learned that shifted targets would not show: train longer",
        )


def _gate(arm: ArmResult) -> Iterator[Finding]:
    if not arm.gated:
        return
    gate = arm.gate
    if gate is None:
        yield "gate", "not recorded", "a passed gate", "evaluate the pre-pre-training on held-out synthetic data"
    elif not gate.under:
        yield (
            "gate",
            f"synthetic loss {gate.loss:.4f}",
            f"under {gate.named} {gate.level:.4f}",
            "synthetic task not learned, so the arm says nothing about it: train it longer, or at another rate",
        )
    elif not gate.learned:
        yield (
            "gate",
            "recorded as not learned",
            f"learned, at {gate.loss:.4f} under {gate.level:.4f}",
            "gate and losses contradict each other: gather them again",
        )


def _sweep(arm: ArmResult) -> Iterator[Finding]:
    trials = sorted((trial for trial in arm.sweep if trial.loss is not None), key=lambda trial: trial.rate)
    if len(trials) > 1:
        best = min(trials, key=lambda trial: trial.loss or 0.0)
        if best in (trials[0], trials[-1]):
            yield (
                "sweep_edge",
                f"best rate {best.rate:g}",
                f"one inside {trials[0].rate:g} to {trials[-1].rate:g}",
                "the arm may do better beyond its sweep: widen it, for every arm alike",
            )
