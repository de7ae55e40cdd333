"""`seeds = "auto"`: a pilot at seeds of its own, as many pairs as its spread asks for, and looks at which to stop.

No verdict reads the pilot: a test whose number of pairs was chosen from some of the same pairs' spread would reject too
often. Nor does a look cost anything: each is taken at a level that keeps the error rate over all of them
(``analysis.sequential``), and the plan counts on the last one's alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

from datalake import Lake
from orchestration.errors import ExperimentError
from orchestration.experiment.analysis.analyse import analyse
from orchestration.experiment.analysis.planner import PairPlan, looks_of, plan_with_looks
from orchestration.experiment.analysis.sequential import say_looks
from orchestration.experiment.config.file import Auto, ExperimentFile
from orchestration.experiment.result import UNIT, ArmResult, DetectableEffect, ExperimentResult, ResultModel
from orchestration.experiment.run.dryrun import dry_run

LEAST_PAIRS = 3
DECIDED = ("better", "worse", "within margin")


class SeedPlan(ResultModel):
    """The pairs that will be run at most, their seeds, and after how many of them all are looked at."""

    pairs: PairPlan
    looks: tuple[int, ...]
    seeds: tuple[int, ...]
    source: str

    def stated(self) -> DetectableEffect:
        """What the plan finds, as it is said before the runs."""
        plan = self.pairs
        return DetectableEffect(
            effect=plan.effect,
            seeds=plan.pairs,
            sd=plan.sd,
            source=self.source,
            alpha=plan.alpha,
            power=plan.power,
            comparisons=plan.comparisons,
        )


def run_planned(
    lake: Lake,
    file: ExperimentFile,
    slots: int,
    recorded: SeedPlan | None,
    run_seeds: Callable[[Sequence[int]], list[ArmResult]],
    result_of: Callable[[Sequence[ArmResult]], ExperimentResult],
    note: Callable[[SeedPlan], None],
) -> list[ArmResult]:
    """Run the pilot, plan, and run pairs until all is decided or none is left; the pairs' arms.

    ``run_seeds`` gives the arms of some seeds, ``slots`` of them at a time; ``note`` is told the plan before any pair
    is run, and ``result_of`` knows it from then on. A plan that was ``recorded`` stands. ExperimentError where the
    pilot or the budget allows none.
    """
    plan = recorded
    if plan is None:
        auto, seeds = _auto(file), pilot_seeds(file)
        pilot = run_seeds(seeds) if seeds else []
        sd = auto.pilot_sd or spread(result_of(pilot))
        plan = plan_seeds(file, sd, most_pairs(lake, file, seconds_of(pilot) / slots if pilot else None))
    note(plan)
    arms: list[ArmResult] = []
    for start, stop in itertools.pairwise((0, *plan.looks)):
        arms += run_seeds(plan.seeds[start:stop])
        if all_decided(result_of(arms)):
            break
    return arms


def all_decided(result: ExperimentResult) -> bool:
    """Whether every primary comparison has its verdict by the looks so far."""
    return all(each.verdict in DECIDED for each in analyse(result).comparisons if each.primary)


def pilot_seeds(file: ExperimentFile) -> tuple[int, ...]:
    """The seeds of the pilot that is to be run; none where one is stated."""
    auto = _auto(file)
    return () if auto.pilot_sd is not None else tuple(itertools.islice(_seeds(file), auto.pilot_pairs))


def plan_seeds(file: ExperimentFile, sd: float, most: int) -> SeedPlan:
    """The plan at standard deviation ``sd`` of the pilot's differences, with at most ``most`` pairs."""
    auto, power = _auto(file), file.power
    pairs = plan_with_looks(
        sd,
        auto.pilot_pairs,
        auto.looks,
        wanted=auto.effect,
        most=most,
        alpha=power.alpha,
        power=power.power,
        comparisons=file.primary_comparisons,
    )
    before = len(pilot_seeds(file))
    return SeedPlan(
        pairs=pairs,
        looks=looks_of(pairs.pairs, auto.looks),
        seeds=tuple(itertools.islice(_seeds(file), before, before + pairs.pairs)),
        source=f"pilot of {auto.pilot_pairs} pairs, " + ("seeds of its own" if before else power.source),
    )


def most_pairs(lake: Lake, file: ExperimentFile, pilot_seconds: float | None) -> int:
    """How many pairs the budget has, the pilot's share taken off; ExperimentError where they are less than three.

    ``pilot_seconds`` is how long the pilot took; None where none was run, or not yet: then hours limit nothing.
    """
    auto, piloted = _auto(file), len(pilot_seeds(file))
    allowed = [1000] if auto.pairs is None else [auto.pairs]
    if auto.tokens is not None:
        allowed.append(int(auto.tokens // pair_tokens(lake, file)) - piloted)
    if auto.hours is not None and pilot_seconds is not None:
        left = 3600 * auto.hours - pilot_seconds
        allowed.append(math.floor(left * piloted / max(pilot_seconds, 1e-9)))
    if (most := min(allowed)) < LEAST_PAIRS:
        raise ExperimentError(
            f"auto: the budget allows {max(most, 0)} pairs beside a pilot of {piloted}; needed are {LEAST_PAIRS} or "
            "more, so raise it or make the runs shorter"
        )
    return most


def pair_tokens(lake: Lake, file: ExperimentFile) -> int:
    """Tokens that all arms of one seed train on, the stage before included."""
    runs = dry_run(lake, file.model_copy(update={"seeds": (0,)}))["runs"]
    return int(runs["pre-pre-training"]["tokens"] + runs["language"]["tokens"])


def seconds_of(arms: Sequence[ArmResult]) -> float:
    """Seconds of training behind ``arms``, one after another."""
    return sum(cost.seconds for arm in arms for cost in (arm.language, arm.pre) if cost is not None)


def spread(pilot: ExperimentResult) -> float:
    """The largest standard deviation of a primary comparison's differences; ExperimentError if one has none."""
    found = []
    for each in analyse(pilot).comparisons:
        if each.primary:
            if each.difference is None or each.difference.sd is None or each.verdict == "incomplete":
                raise ExperimentError(
                    f"pilot: {each.label} against {each.against}: {'; '.join(each.reasons) or each.verdict}; mend that "
                    "and run the same command again"
                )
            found.append(each.difference.sd)
    return max(found)


def describe(lake: Lake, file: ExperimentFile) -> list[str]:
    """What ``seeds = "auto"`` will do, in sentences, before anything is run."""
    auto, unit = _auto(file), UNIT[file.metric]
    most = most_pairs(lake, file, None)
    said = [
        f"seeds: as many pairs as find {auto.effect:g} {unit} with power {file.power.power:g} at alpha "
        f"{file.power.alpha:g} over {file.primary_comparisons} primary comparisons ({', '.join(file.primary)})",
        f"budget: at most {most} pairs, each of {pair_tokens(lake, file):,} tokens"
        + ("" if auto.hours is None else f", and {auto.hours:g} hours in all, which the pilot measures"),
    ]
    if auto.pilot_sd is not None:
        plan = plan_seeds(file, auto.pilot_sd, most)
        return [*said, plan.pairs.say(unit), say_looks(plan.looks)]
    seeds = pilot_seeds(file)
    said.append(f"pilot: {len(seeds)} pairs at seeds {', '.join(map(str, seeds))}, which no verdict reads")
    for share in (0.5, 1.0, 2.0):
        plan = plan_seeds(file, share * auto.effect, most)
        said.append(f"  if its SD is {share * auto.effect:g}: {plan.pairs.say(unit)}; {say_looks(plan.looks)}")
    return said


def _seeds(file: ExperimentFile) -> Iterator[int]:
    """1, 2, 3, … without the seed that rates are chosen at."""
    taken = None if file.sweep is None else file.sweep.seed
    return (seed for seed in itertools.count(1) if seed != taken)


def _auto(file: ExperimentFile) -> Auto:
    assert file.auto is not None, "the caller asked"
    return file.auto
