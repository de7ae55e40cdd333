"""What an experiment measured, as frozen values that survive JSON: written by the runner, read by checks and report.

Nothing here refuses a suspicious measurement: a curve without its tail must be storable to be caught and named (see
``orchestration.experiment.analysis.checks``). Only what cannot be a measurement at all is refused: a wrong type, an
unknown field, a number that is not finite (a run that diverged is a failed arm).
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

NOT_APPLICABLE = "-"
"""Level of a factor that means nothing in an arm, as the pre-pre-training's optimiser where there is none."""

FACTOR_ORDER = ("pre", "pre_optimizer", "optimizer", "transfer", "decay", "mixing")


Metric = Literal["loss", "accuracy"]
"""What arms are compared by: final held-out loss in nats per token (lower is better), or the accuracy of a task's
answers (higher is better)."""

UNIT: dict[Metric, str] = {"loss": "nats per token", "accuracy": "accuracy"}
SHORT_UNIT: dict[Metric, str] = {"loss": "nats", "accuracy": "accuracy"}


class ResultModel(BaseModel):
    """Base of all values here."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Arm(ResultModel):
    """One cell of the factorial: a level for every factor of the file, and the seed that pairs it with other arms.

    A factor without meaning in this arm has the level ``NOT_APPLICABLE``, so that ``none`` is one arm however many
    optimisers of pre-pre-training the file crosses; it is then the baseline of all of them.
    """

    factors: dict[str, str]
    seed: int

    @property
    def label(self) -> str:
        """The levels that say something, known factors first, joined by " · "; the seed is not in it."""
        known = [name for name in FACTOR_ORDER if name in self.factors]
        names = known + sorted(self.factors.keys() - set(FACTOR_ORDER))
        return " · ".join(self.factors[name] for name in names if self.factors[name] != NOT_APPLICABLE)


class CurvePoint(ResultModel):
    """One evaluation on the way: after ``step`` updates, that is ``tokens`` tokens of language.

    ``loss`` is in nats per token on the evaluation set, ``accuracy`` that of a task's answers; ``seconds`` is the time
    trained so far.
    """

    step: int
    tokens: int
    loss: float
    seconds: float | None = None
    accuracy: float | None = None


class Gate(ResultModel):
    """Was the synthetic task learned: held-out loss of the pre-pre-training run against what a model pays that counts.

    That is the rows' unigram entropy, or ``counting`` where sequences show no frames (``trainer.gate``).
    """

    learned: bool
    loss: float
    unigram_entropy: float
    counting: float | None = None
    dataset: str
    run: str

    @property
    def level(self) -> float:
        """What the loss must be under."""
        return self.unigram_entropy if self.counting is None else self.counting

    @property
    def under(self) -> bool:
        """Whether it is, whatever was recorded as ``learned``."""
        return self.loss < self.level

    @property
    def named(self) -> str:
        """The level in words."""
        return "the unigram entropy" if self.counting is None else "what counting costs"


class Cost(ResultModel):
    """What a run consumed: tokens trained on, floating-point operations, seconds of training."""

    tokens: int
    flops: float
    seconds: float


class LabelCheck(ResultModel):
    """Loss of the finished model against three targets at each position t: token t, t+1 (the right one) and t+2.

    Computed outside the training loop, with its own slicing, on the evaluation set's first ``sequences`` rows;
    ``error`` is the standard error over them of ``next``, 0 where they are all that the final loss is of.
    """

    same: float
    next: float
    after_next: float
    sequences: int
    error: float = 0.0


class SweepTrial(ResultModel):
    """One trial of an arm's learning-rate sweep; ``loss`` is None if it failed, and ``error`` says why."""

    rate: float
    loss: float | None = None
    run: str | None = None
    error: str | None = None


class ArmResult(ResultModel):
    """One arm as it was run, or why it was not.

    ``shared_hash`` is the SHA-256 of the canonical JSON of ``config`` less what factors and seed set. ``checks`` holds
    what compared arms must have in common, by the names in ``experiment.analysis.checks.EQUAL``. ``gated`` says that
    the pre-pre-training is claimed to teach something, so that its gate must be passed; controls that cannot be
    learned (iid, shuffled) or have no synthetic task (none, stats, text) are not.
    """

    arm: Arm
    status: Literal["finished", "failed", "missing"]
    error: str | None = None
    run: str | None = None
    model: str | None = None
    config: dict[str, Any] = {}
    pre_config: dict[str, Any] | None = None
    shared_hash: str = ""
    checks: dict[str, str | int | float] = {}
    labels: LabelCheck | None = None
    curve: tuple[CurvePoint, ...] = ()
    final_loss: float | None = None
    accuracy: float | None = None
    bits_per_byte: float | None = None
    in_context: tuple[float, ...] | None = None
    gated: bool = False
    gate: Gate | None = None
    language: Cost | None = None
    pre: Cost | None = None
    sweep: tuple[SweepTrial, ...] = ()

    def score(self, metric: Metric) -> float | None:
        """What the arm ended at, by the metric."""
        return self.final_loss if metric == "loss" else self.accuracy

    @property
    def perplexity(self) -> float | None:
        """exp(final loss)."""
        return None if self.final_loss is None else math.exp(min(self.final_loss, 700.0))

    @property
    def name(self) -> str:
        """The arm's label and seed, as messages and tables show it."""
        return f"{self.arm.label}, seed {self.arm.seed}"


class DetectableEffect(ResultModel):
    """The smallest true difference that a design finds with probability ``power``, in the metric's unit.

    For ``seeds`` pairs whose differences have standard deviation ``sd``, taken from ``source`` ("pilot: …" or
    "assumed"), and a two-sided test at ``alpha`` shared by ``comparisons`` arms.
    """

    effect: float
    seeds: int
    sd: float
    source: str
    alpha: float
    power: float
    comparisons: int


class ExperimentResult(ResultModel):
    """A whole experiment: its file, its arms, and what was said about them before they ran.

    ``treatment`` is the factor whose effect is asked for, and ``baseline`` gives reference levels by factor, that of
    the treatment among them: an arm is compared with the arm of equal seed that has the treatment's baseline level and
    is equal in all other factors (``NOT_APPLICABLE`` in the baseline equals anything). ``factor_sets`` names the
    checks that a factor is there to change, as {"mixing": ("plan_digest",)}; arms that differ in that factor may
    differ in those. ``hash_leaves_out`` lists the dotted paths of the configuration that ``shared_hash`` leaves out;
    given it, every hash is computed again (see ``shared``). ``primary`` names the comparisons that the error rate is
    kept for, as "LEVEL" (of the treatment, against the baseline's) or "LEVEL vs LEVEL"; the rest is exploratory; empty,
    all are primary. ``looks`` says after how many pairs, in the order of their seeds, all planned looks are or would
    have been taken; empty where the pairs were counted beforehand. An interval within ±``margin``, in the metric's
    unit, is a verdict of its own. ``experiment`` is the file as parsed; times are ISO 8601 in UTC.
    """

    name: str
    file_digest: str
    experiment: dict[str, Any] = {}
    treatment: str = "pre"
    baseline: dict[str, str]
    factor_sets: dict[str, tuple[str, ...]] = {}
    hash_leaves_out: tuple[str, ...] = ()
    metric: Metric = "loss"
    alpha: float = 0.05
    primary: tuple[str, ...] = ()
    margin: float | None = None
    looks: tuple[int, ...] = ()
    arms: tuple[ArmResult, ...]
    minimum_detectable_effect: DetectableEffect | None = None
    started: str
    finished: str
    command: str
    machine: str
    versions: dict[str, str] = {}
