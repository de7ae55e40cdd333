"""An experiment from file to result: say what can be found, prepare data, choose rates, train the arms, gather.

Every run is named by its configuration's digest, so whatever an earlier experiment, another arm or a killed attempt of
this one has trained is found in the lake and not trained again.
"""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from datalake import Lake, Run
from datalake.errors import RunHeldError
from orchestration.cluster.cores import local_cores
from orchestration.cluster.session import cluster_facts
from orchestration.console.progress import console, stage
from orchestration.errors import ExperimentError, JobStopped
from orchestration.experiment.analysis.sequential import say_looks
from orchestration.experiment.analysis.statistics import minimum_detectable_effect
from orchestration.experiment.config.configs import Refs, has_stage, language_config, pre_config, shared_without
from orchestration.experiment.config.file import ExperimentFile
from orchestration.experiment.config.levels import effective_optimizer
from orchestration.experiment.result import (
    UNIT,
    Arm,
    ArmResult,
    DetectableEffect,
    ExperimentResult,
    LabelCheck,
    Metric,
    SweepTrial,
)
from orchestration.experiment.run.auto import SeedPlan, run_planned
from orchestration.experiment.run.collect import arm_result, check_labels, failed, loss_of
from orchestration.experiment.run.local import LocalPool
from orchestration.experiment.run.pool import Job, Outcome, Pool
from orchestration.experiment.run.prepare import prepare
from orchestration.experiment.run.progress import arms_stage
from orchestration.runs.lease import RunLease, acquire, await_owner
from orchestration.runs.names import default_run_name
from orchestration.runs.owner import this_process
from orchestration.runs.signals import ASKED, Stop
from trainer import TrainConfig

KIND = "experiment"

FACTOR_SETS: dict[str, tuple[str, ...]] = {"mixing": ("plan_digest", "epochs")}
"""Checks that a factor is there to change."""

Factors = Mapping[str, str]


@dataclass(frozen=True)
class RunSchedule:
    """The runs of one cell at one seed: the one before, if any, and the language run."""

    arm: Arm
    pre: Job | None
    language: Job
    sweep: Sequence[SweepTrial] = ()


@dataclass
class Rates:
    """What the sweep chose and why, by cell (as sorted pairs)."""

    chosen: dict[tuple[tuple[str, str], ...], float] = field(default_factory=dict)
    trials: dict[tuple[tuple[str, str], ...], list[SweepTrial]] = field(default_factory=dict)


def run_experiment(
    lake: Lake,
    file: ExperimentFile,
    command: Sequence[str] | None = None,
    *,
    stop: Stop | None = None,
    settings: Mapping[str, Any] | None = None,
    ray: bool = True,
) -> ExperimentResult:
    """Run, or go on with, all arms. Ray must be running, unless ``ray`` is False: then all is done in this process,
    one run after another. A run that fails is an arm that failed, and no exception.

    One process owns an experiment. Another one that is asked for the same waits: it gives the same result once the
    first has ended, and goes on in its place if that one dies. Raises JobStopped once ``stop`` or a request in the lake
    has ended it, for both.
    """
    name, stop = run_name(file), stop or Stop()
    while True:
        ended = await_owner(lake, name, stop)
        if ended is not None and ended.status == "stopped":
            raise JobStopped(f"run {name} was {ended.state['error']}; `morphogen runs resume {name}` goes on", ASKED)
        if ended is not None and ended.status == "failed":
            if file.auto is not None and "seed_plan" not in ended.state:
                raise ExperimentError(f"run {name} failed before any pair: {ended.state['error']}")
            return _report(lake, file, ended.state, _arms(lake, file, ended, None, ray), command)
        try:
            with acquire(
                *(lake, name, KIND, file.model_dump(mode="json"), {}),
                stop=stop,
                settings={"folder": str(file.folder), "file_digest": file.file_digest, "ray": ray, **(settings or {})},
                resources=cluster_facts() if ray else {"cpus": local_cores(), "driver": this_process()["host"]},
            ) as run_lease:
                return _run(lake, file, run_lease, command, ray)
        except RunHeldError:
            continue  # somebody was quicker


def run_name(file: ExperimentFile) -> str:
    """The name of an experiment's own run: the same file finds what it began."""
    return f"{KIND}-{file.name}-{file.digest[:8]}"


def _run(
    lake: Lake, file: ExperimentFile, run_lease: RunLease, command: Sequence[str] | None, ray: bool
) -> ExperimentResult:
    """The work of the process that owns the experiment."""
    effect, record = detectable_effect(file), run_lease.run
    if "started" not in record.state:
        # Said before any arm runs, and in the lake, where nobody can say it again afterwards.
        stated = None if effect is None else effect.model_dump(mode="json")
        record.append(started=lake.system.timestamp(), stated=stated, message="what can be found, before the runs")
    seeds = f"{len(file.seeds)} seeds" if file.auto is None else "as many seeds as a pilot asks for"
    console.print(f"experiment {file.name}: {len(file.cells)} cells × {seeds}, lake {lake.uri}")
    if file.auto is None:
        console.print(say_effect(effect, file.metric))
    try:
        arms = _arms(lake, file, record, run_lease, ray)
    except JobStopped as stopped:
        if run_lease.stop.is_set():
            raise run_lease.stop.error(record.name, "keeps what is done") from stopped
        raise
    lost = sum(arm.status != "finished" for arm in arms)
    if not run_lease.finished:
        ended = lake.system.timestamp()
        if lost:
            record.append(ended=ended, message="ended")
            record.fail(f"{lost} of {len(arms)} arms failed")
        else:
            record.finish({"arms": {arm.name: arm.run for arm in arms}, "at": ended})
    return _report(lake, file, record.state, arms, command)


def _arms(lake: Lake, file: ExperimentFile, record: Run, run_lease: RunLease | None, ray: bool) -> list[ArmResult]:
    """Every arm's result; without ``run_lease`` of what others have run, none of it tried again."""
    refs = prepare(lake, file, run_lease.stop if run_lease else None, ray=ray)
    _note_reads(run_lease, datasets=sorted(refs.rows))
    threads = file.machine.threads
    with (
        Pool(lake, threads, file.machine.arms_per_gpu, run_lease)
        if ray
        else LocalPool(lake, threads, run_lease) as pool
    ):
        rates = choose_rates(pool, file, refs)
        # A pilot that an earlier attempt ran is not run again, and stays named.
        named = {*record.state.get("reads", {}).get("runs", ())}

        def run_seeds(seeds: Sequence[int]) -> list[ArmResult]:
            plans = [plan_arm(file, cell, seed, refs, rates) for cell in file.cells for seed in seeds]
            jobs = [job for plan in plans for job in (plan.pre, plan.language) if job is not None]
            named.update(job.run for job in jobs)
            _note_reads(run_lease, runs=sorted(named))
            with arms_stage(f"{file.name}: arms", jobs, pool.slots, run_lease.advance if run_lease else None) as watch:
                outcomes = pool.run(jobs, watch)
            return gather(lake, file, pool, plans, outcomes)

        if file.auto is None:
            return run_seeds(file.seeds)

        def note(plan: SeedPlan) -> None:
            console.print(f"{plan.pairs.say(UNIT[file.metric])}; {say_looks(plan.looks)}")
            if run_lease is not None and "seed_plan" not in record.state:
                # Before any pair runs, and in the lake, where nobody can say it again afterwards.
                said = {"stated": plan.stated().model_dump(mode="json"), "seed_plan": plan.model_dump(mode="json")}
                record.append(**said, message="what is planned, before the pairs")

        known = record.state.get("seed_plan")
        return run_planned(
            lake,
            file,
            pool.slots,
            None if known is None else SeedPlan.model_validate(known),
            run_seeds,
            lambda arms: _report(lake, file, record.state, arms, ()),
            note,
        )


def _note_reads(run_lease: RunLease | None, **names: list[str]) -> None:
    """Name in the record what the experiment depends on: data meanwhile, its arms' runs for good."""
    if run_lease is None or run_lease.finished:
        return
    before = run_lease.run.state.get("reads", {})
    if (reads := {**before, **names}) != before:
        run_lease.run.append(reads=reads, message="what it reads")


def _report(
    lake: Lake,
    file: ExperimentFile,
    state: Mapping[str, Any],
    arms: Sequence[ArmResult],
    command: Sequence[str] | None,
) -> ExperimentResult:
    return ExperimentResult(
        looks=(state.get("seed_plan") or {}).get("looks", ()),
        name=file.name,
        file_digest=file.file_digest,
        experiment=file.model_dump(mode="json"),
        treatment=file.treatment,
        baseline=file.reference,
        factor_sets=FACTOR_SETS,
        hash_leaves_out=shared_without(file),
        metric=file.metric,
        alpha=file.power.alpha,
        primary=file.primary,
        margin=file.power.margin,
        arms=tuple(arms),
        minimum_detectable_effect=DetectableEffect.model_validate(state["stated"]) if state["stated"] else None,
        started=state["started"],
        finished=(state["result"] or {}).get("at") or state.get("ended") or lake.system.timestamp(),
        command=shlex.join(command or ["morphogen", *sys.argv[1:]]),
        machine=f"{platform.machine()}, {local_cores()} cores, Python {platform.python_version()}",
        versions={name: version(name) for name in ("ray", "torch", "numpy", "pyarrow")},
    )


def detectable_effect(file: ExperimentFile) -> DetectableEffect | None:
    """What the design can find; None with one seed or without a standard deviation."""
    if len(file.seeds) < 2 or file.power.sd is None:
        return None
    compared = file.primary_comparisons
    return minimum_detectable_effect(
        len(file.seeds),
        file.power.sd,
        file.power.alpha,
        file.power.power,
        comparisons=compared,
        source=file.power.source,
    )


def say_effect(effect: DetectableEffect | None, metric: Metric = "loss") -> str:
    """One sentence on what can be found."""
    if effect is None:
        return "smallest detectable effect: not stated, which takes two seeds and [power] sd"
    return (
        f"smallest detectable effect: {effect.effect:.4f} {UNIT[metric]}, with {effect.seeds} paired seeds whose "
        f"differences have a standard deviation of {effect.sd:g} ({effect.source}), alpha {effect.alpha:g} over "
        f"{effect.comparisons} comparisons, power {effect.power:g}"
    )


def plan_arm(file: ExperimentFile, cell: Factors, seed: int, refs: Refs, rates: Rates) -> RunSchedule:
    """The runs of an arm, at the rate that the sweep chose for its cell."""
    key = tuple(sorted(cell.items()))
    arm = Arm(factors=dict(cell), seed=seed)
    pre = pre_job(file, cell, seed, refs)
    config = language_config(file, cell, seed, refs, source=_model(pre), rate=rates.chosen.get(key))
    return RunSchedule(arm, pre, _job("arm", config, pre, f"{arm.label}, seed {seed}"), rates.trials.get(key, ()))


def pre_job(file: ExperimentFile, cell: Factors, seed: int, refs: Refs) -> Job | None:
    """The pre-pre-training of a cell that has one."""
    if not has_stage(cell):
        return None
    return _job("pre", pre_config(file, cell, seed, refs), None, f"{cell['pre']} before language, seed {seed}")


def choose_rates(pool: Pool | LocalPool, file: ExperimentFile, refs: Refs) -> Rates:
    """Try every rate of every cell at the sweep's seed; the lowest held-out loss wins, ties to the lower rate."""
    rates = Rates()
    if file.sweep is None:
        return rates
    tried: list[tuple[Factors, float, Job]] = []
    jobs: list[Job] = []
    for cell in file.cells:
        pre = pre_job(file, cell, file.sweep.seed, refs)
        jobs += [pre] if pre else []
        for rate in sorted(file.sweep.lr[effective_optimizer(cell)]):
            config = language_config(
                file, cell, file.sweep.seed, refs, source=_model(pre), rate=rate, steps=file.sweep.steps
            )
            label = Arm(factors=dict(cell), seed=file.sweep.seed).label
            job = _job("arm", config, pre, f"{label}, lr {rate:g}")
            tried.append((cell, rate, job))
            jobs.append(job)
    with arms_stage(f"{file.name}: learning rates", jobs, pool.slots) as watch:
        outcomes = pool.run(jobs, watch)
    for tried_cell, rate, job in tried:
        outcome = outcomes[job.run]
        loss = loss_of(outcome.result) if outcome.result else None
        trial = SweepTrial(rate=rate, loss=loss, run=job.run, error=outcome.error)
        rates.trials.setdefault(tuple(sorted(tried_cell.items())), []).append(trial)
    for key, trials in rates.trials.items():
        finished = [(trial.loss, trial.rate) for trial in trials if trial.loss is not None]
        # With no trial left the arms run at the base table's rate, and fail or finish in the open.
        if finished:
            rates.chosen[key] = min(finished)[1]
    return rates


def gather(
    lake: Lake,
    file: ExperimentFile,
    pool: Pool | LocalPool,
    plans: Sequence[RunSchedule],
    outcomes: Mapping[str, Outcome],
) -> list[ArmResult]:
    """Every arm's result, in the order of the plans."""
    models = {
        result.model: (config.eval[0], config.eval_sequences, config.loss_mask)
        for config, result in ((plan.language.config, outcomes[plan.language.run].result) for plan in plans)
        if result is not None and result.model is not None
    }
    calls = [(model, *rows) for model, rows in models.items()]
    with stage(f"{file.name}: check of labels", len(calls)) as advance:
        scored = dict(zip(models, pool.map(check_labels, calls, advance), strict=True))
    arms = []
    for plan in plans:
        outcome = outcomes[plan.language.run]
        if outcome.result is None:
            arms.append(failed(plan.arm, plan.language.run, outcome.error or "unknown", plan.sweep))
            continue
        found = scored[outcome.result.model] if outcome.result.model else None
        if isinstance(found, Exception):
            raise ExperimentError(
                f"run {plan.language.run}: its model cannot be scored again ({found}); see `morphogen data verify`"
            )
        labels = None if found is None else LabelCheck.model_validate(found)
        pre_run = plan.pre.run if plan.pre else None
        arms.append(arm_result(lake, file, plan.arm, plan.language.run, pre_run, plan.sweep, labels))
    return arms


def _job(stem: str, config: TrainConfig, needs: Job | None, title: str) -> Job:
    return Job(default_run_name(stem, config), config, needs.run if needs else None, title)


def _model(pre: Job | None) -> str | None:
    """What a run publishes is version 1 of a name made of its own digest."""
    return None if pre is None else f"{pre.config.publish}@1"
