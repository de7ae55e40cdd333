"""One tuning from search to promotion, whatever the scores are made of.

Search proposes and scores; the best is confirmed against the incumbent on fresh paired seeds; only what ``decide``
finds better is promoted. Every step is recorded in the lake as it ends: a killed tuning goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from pydantic import Field

from datalake import Lake, Run
from datalake.errors import Conflict
from orchestration.experiment.result import ResultModel
from orchestration.tune.decide import Confirmation, Control, compare_to_none, decide
from orchestration.tune.promote import Target, promote
from orchestration.tune.space import Values, spec_at

KIND = "tune"


class Trial(ResultModel):
    """One proposal and its score: ``loss`` is None where it was refused (and why) or stopped early.

    ``spent`` is the part of the budget that it used, ``seconds`` its latency by stage, "total" among them.
    """

    values: dict[str, int | float]
    loss: float | None = None
    spent: float = 0.0
    refused: str | None = None
    seconds: dict[str, float] = Field(default_factory=dict)


class TuneResult(ResultModel):
    """What a tuning came to; ``promoted`` is the new ``NAME@V``, None where nothing moved.

    ``control`` says of a candidate that beat the incumbent how it does against no synthetic data at all.
    """

    run: str
    params: str
    alias: str
    incumbent: str
    trials: tuple[Trial, ...]
    best: Trial | None
    confirmation: Confirmation | None
    control: Control | None = None
    promoted: str | None
    verdict: str

    @property
    def latency(self) -> dict[str, float]:
        """Median seconds by stage over the trials that were scored in full."""
        whole = [trial.seconds for trial in self.trials if trial.loss is not None and "total" in trial.seconds]
        return {stage: median(each.get(stage, 0.0) for each in whole) for stage in (whole[0] if whole else ())}


Search = Callable[[Sequence[Trial], Callable[[Trial], None]], None]
"""``search(known, tell)``: told of the trials there are already, tells of each new one as it ends."""

Confirm = Callable[[Mapping[str, int | float] | None, Sequence[int]], Mapping[int, float]]
"""``confirm(values, seeds)``: losses by seed at the full budget, for the incumbent where values are None. A seed whose
run failed is left out."""

NO_SYNTHETIC: Mapping[str, float] = {"share": 0.0}
"""The values of a run that spends its whole budget on the target."""


def tune(
    lake: Lake,
    record: Run,
    target: Target,
    search: Search,
    confirm: Confirm,
    *,
    seeds: Sequence[int],
    alpha: float = 0.05,
) -> TuneResult:
    """Search, confirm, promote; ``record`` is the tuning's run, which ``begin`` names and the caller holds. A finished
    one is returned.

    ``confirm`` is also asked for NO_SYNTHETIC, once a candidate has beaten the incumbent.
    """
    if record.status == "finished":
        return TuneResult.model_validate(record.state["result"])
    trials = [Trial.model_validate(each) for each in record.listed("trials")]

    def tell(trial: Trial) -> None:
        trials.append(trial)
        record.add_trial(trial.model_dump(mode="json"))

    search(tuple(trials), tell)
    scored = [trial for trial in trials if trial.loss is not None]
    best = min(scored, key=lambda trial: trial.loss or 0.0, default=None)
    confirmation, control, promoted = None, None, None
    if best is None:
        verdict = "no effect found: no proposal was scored in full"
    else:
        confirmation = decide(confirm(best.values, seeds), confirm(None, seeds), alpha)
        verdict = confirmation.verdict
        record.append(confirmation=confirmation.model_dump(mode="json"), message="confirmation")
    if best is not None and confirmation is not None and confirmation.improved:
        control = compare_to_none(confirmation.candidate, confirm(NO_SYNTHETIC, seeds), alpha)
        spec = spec_at(lake.params.get(target.incumbent).spec, best.values).model_dump(mode="json")
        message = evidence(record.name, target.incumbent, best.values, confirmation, control)
        try:
            promoted = promote(lake, target, spec, message).ref
        except Conflict as conflict:
            verdict = f"{verdict}; not promoted, another came first: {conflict}"
    result = TuneResult(
        run=record.name,
        params=target.params,
        alias=target.alias,
        incumbent=target.incumbent,
        trials=tuple(trials),
        best=best,
        confirmation=confirmation,
        control=control,
        promoted=promoted,
        verdict=verdict,
    )
    record.finish(result.model_dump(mode="json"))
    return result


def evidence(
    run: str, incumbent: str, values: Values | Mapping[str, Any], confirmation: Confirmation, control: Control
) -> str:
    """The message of a promoted version: what was found against what, and the run that holds every number behind it."""
    share = f", share {values['share']:g}" if "share" in values else ""
    return f"tuned: {confirmation.verdict}; {control.verdict}; incumbent {incumbent}{share}; run {run}"


def run_of(message: str) -> str | None:
    """The run that a promoted version's message names."""
    head, found, run = message.rpartition("; run ")
    return run if found and head.startswith("tuned: ") else None


def begin(lake: Lake, name: str, target: Target, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any], Target]:
    """Run name, configuration and target of the unfinished tuning of this name and settings, or of a new one from where
    the set is now.

    Its own earlier promotion may have moved the set meanwhile, so an unfinished one keeps the target it began with.
    """
    for run in lake.runs.list():
        if run == name or run.startswith(f"{name}."):
            state = lake.runs.get(run).state
            if state["status"] != "finished" and not state.get("retired"):
                return run, state["config"], Target.model_validate(state["config"]["target"])
    config = {"target": target.model_dump(mode="json"), "settings": dict(settings)}
    return f"{name}.{target.head}-{target.alias_at}", config, target
