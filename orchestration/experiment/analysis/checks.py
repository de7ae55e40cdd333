"""What compared arms must have in common, and who departs from it: each problem names arm, check, found, expected.

The expected value is the one that most arms have (in a tie, the baseline's), so that one arm gone wrong is named, and
not the many that are right. Where a factor is there to change a check (``factor_sets``), only arms of equal level of it
are held against each other.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

from orchestration.experiment.analysis.checks_arm import check_arm
from orchestration.experiment.analysis.pairs import baseline_of, is_baseline, labels, seeds_of
from orchestration.experiment.analysis.problems import Problem
from orchestration.experiment.config.shared import differences
from orchestration.experiment.result import ArmResult, ExperimentResult

EQUAL = {
    "parameters": "another model size is another experiment: use one [model] for all arms",
    "plan_digest": "the arm read other rows or another order: give arms of one seed the same data and seed",
    "batch_sequences": "train all arms with one batch size",
    "schedule": "train all arms on one schedule",
    "steps": "train all arms for as many steps",
    "epochs": "train all arms for as many epochs of the same text",
    "averaging": "average the weights of all arms over the same window, or of none",
    "eval_digest": "evaluate all arms on one held-out set",
    "eval_sequences": "evaluate all arms on as many sequences",
    "seq_len": "use one sequence length",
    "lr_trials": "give every arm as many trials of its learning rate",
}
"""Checks that every finished arm must record and that compared arms must share, and what to do where they do not."""

OF_ONE_SEED = frozenset({"plan_digest"})
"""Checks that are shared by the arms of one seed only."""


def check_arms(result: ExperimentResult) -> list[Problem]:
    """Every problem of the experiment, in a stable order: status, pairing, each arm alone, arms together."""
    problems = [*_status(result), *_pairing(result)]
    for arm in _finished(result):
        problems += check_arm(arm, result.hash_leaves_out)
    for check in EQUAL:
        problems += _recorded(result, check)
    for check in dict.fromkeys((*EQUAL, *(name for arm in _finished(result) for name in arm.checks))):
        problems += _together(result, check, _recorded_value(check), EQUAL.get(check, "make it equal in all arms"))
    problems += _hashes(result)
    problems += _together(
        result,
        "evaluations",
        lambda arm: ", ".join(str(point.step) for point in arm.curve) or ...,
        "curves are compared point by point: evaluate all arms at the same steps, and gather whole curves",
    )
    return [*problems, *_pre_budgets(result)]


def _finished(result: ExperimentResult) -> list[ArmResult]:
    return [arm for arm in result.arms if arm.status == "finished"]


def _status(result: ExperimentResult) -> Iterator[Problem]:
    for arm in result.arms:
        if arm.status != "finished":
            yield Problem(
                arm=arm.name,
                check="status",
                found=f"{arm.status}: {arm.error}" if arm.error else arm.status,
                expected="finished",
                message="its comparisons get no verdict: mend the cause and run the experiment again, which resumes",
                effect="incomplete",
            )


def _pairing(result: ExperimentResult) -> Iterator[Problem]:
    """Every label once per seed, every arm with a baseline, one training seed per seed, no run counted twice."""
    seeds = seeds_of(result)
    counts = Counter((arm.arm.label, arm.arm.seed) for arm in result.arms)
    for (label, seed), count in counts.items():
        if count > 1:
            yield _pair(f"{label}, seed {seed}", f"{count} arms", "one", "remove the doubles: no seed counts twice")
    for label in labels(result):
        for seed in seeds:
            if (label, seed) not in counts:
                yield _pair(label, f"no arm of seed {seed}", f"seeds {', '.join(map(str, seeds))}", "run it", False)
    for arm in result.arms:
        if not is_baseline(result, arm.arm) and baseline_of(result, arm.arm) is None:
            level = result.baseline.get(result.treatment)
            found = f"no arm of this seed with {result.treatment} = {level} and the same other factors"
            yield _pair(arm.name, found, "a baseline", "add it to the file", False)

    config_seeds: dict[int, Counter[Hashable]] = defaultdict(Counter)
    seeded = [arm for arm in _finished(result) if "seed" in arm.config]
    for arm in seeded:
        config_seeds[arm.arm.seed][arm.config["seed"]] += 1
    for arm in seeded:
        usual = config_seeds[arm.arm.seed].most_common(1)[0][0]
        own = arm.config["seed"]
        if own != usual:
            yield _pair(arm.name, f"training seed {own}", str(usual), "train paired arms from the same seed")
        others = [seed for seed in seeds if seed < arm.arm.seed and own in config_seeds[seed]]
        if own == usual and others:
            found = f"training seed {own}, as in seed {others[0]}"
            yield _pair(arm.name, found, "a seed of its own", "a repeated seed is no further evidence: change it")
    yield from _doubles(result)


def _doubles(result: ExperimentResult) -> Iterator[Problem]:
    """The same run, or to the last bit the same curve, under two seeds is one observation."""
    runs: dict[str, ArmResult] = {}
    curves: dict[Hashable, ArmResult] = {}
    gates: dict[str, ArmResult] = {}
    for arm in _finished(result):
        first = runs.setdefault(arm.run, arm) if arm.run else arm
        same = curves.setdefault((arm.arm.label, arm.curve), arm) if arm.curve else arm
        if first.arm.seed != arm.arm.seed:
            yield _pair(arm.name, f"run {arm.run} of {first.name}", "a run of its own", "run the arm with its own seed")
        elif same.arm.seed != arm.arm.seed:
            found = f"exactly the curve of {same.name}"
            yield _pair(arm.name, found, "a curve of its own", "one run was gathered twice: gather the arm again")
        pre = gates.setdefault(arm.gate.run, arm) if arm.gate else arm
        if pre.arm.seed != arm.arm.seed:
            yield Problem(
                arm=arm.name,
                check="pre_run",
                found=f"the pre-pre-training of {pre.name}",
                expected="one of its own seed",
                message="the interval leaves out how much pre-pre-training itself varies: train it per seed",
                effect="warned",
            )


def _pair(arm: str, found: str, expected: str, message: str, refused: bool = True) -> Problem:
    return Problem(
        arm=arm,
        check="seed_pairing",
        found=found,
        expected=expected,
        message=message,
        effect="refused" if refused else "incomplete",
    )


def _recorded(result: ExperimentResult, check: str) -> Iterator[Problem]:
    for arm in _finished(result):
        if check not in arm.checks:
            yield Problem(
                arm=arm.name,
                check=check,
                found="not recorded",
                expected="a value",
                message="nothing shows that the arm is comparable: record the check and gather the arm again",
            )


def _recorded_value(check: str) -> Callable[[ArmResult], Any]:
    return lambda arm: arm.checks.get(check, ...)


def _groups(result: ExperimentResult, check: str) -> Iterable[list[ArmResult]]:
    """Finished arms that must agree in a check: all, but for the factors that set it and, if it has one, the seed."""
    setters = [factor for factor, checks in result.factor_sets.items() if check in checks]
    groups: dict[Hashable, list[ArmResult]] = defaultdict(list)
    for arm in _finished(result):
        levels = tuple(arm.arm.factors.get(factor) for factor in setters)
        groups[(levels, arm.arm.seed if check in OF_ONE_SEED else None)].append(arm)
    return groups.values()


def _usual(result: ExperimentResult, group: list[ArmResult], value: Callable[[ArmResult], Any]) -> Any:
    """The value that most arms of a group have; in a tie the baseline's, then the first."""
    recorded = [arm for arm in group if value(arm) is not ...]
    counts = Counter(value(arm) for arm in recorded)
    top = max(counts.values(), default=0)
    ordered = sorted(recorded, key=lambda arm: not is_baseline(result, arm.arm))
    return next((value(arm) for arm in ordered if counts[value(arm)] == top), ...)


def _together(
    result: ExperimentResult, check: str, value: Callable[[ArmResult], Any], message: str
) -> Iterator[Problem]:
    for group in _groups(result, check):
        usual = _usual(result, group, value)
        for arm in group:
            if value(arm) not in (usual, ...):
                yield Problem(
                    arm=arm.name,
                    check=check,
                    found=str(value(arm)),
                    expected=f"{usual} as in the other arms",
                    message=message,
                )


def _hashes(result: ExperimentResult) -> Iterator[Problem]:
    """Arms whose configuration differs in more than their factors, with the fields in which it does."""
    for group in _groups(result, "shared_hash"):
        usual = _usual(result, group, lambda arm: arm.shared_hash)
        like = next((arm for arm in group if arm.shared_hash == usual), None)
        for arm in group:
            if arm.shared_hash == usual or like is None:
                continue
            alike = (each for each in group if each.shared_hash == usual and each.arm.label == arm.arm.label)
            fields = differences(arm.config, next(alike, like).config, result.hash_leaves_out or ("seed", "publish"))
            named = "; ".join(
                f"{path} {mine!r} against {theirs!r}" for path, (mine, theirs) in list(fields.items())[:4]
            )
            yield Problem(
                arm=arm.name,
                check="shared_hash",
                found=f"{arm.shared_hash[:12] or 'none'} ({named or 'configurations as recorded are equal'})",
                expected=f"{usual[:12]} as in the other arms",
                message="the arms differ in more than their factors: run the arm again with the shared configuration",
            )


def _pre_budgets(result: ExperimentResult) -> Iterator[Problem]:
    """Pre-pre-training of unequal length, or uncharged, is said; it is no reason to refuse."""
    charged = [arm for arm in _finished(result) if arm.pre is not None and arm.pre.tokens]
    usual = _usual(result, charged, lambda arm: arm.pre.tokens if arm.pre else ...)
    for arm in charged:
        if arm.pre is not None and arm.pre.tokens != usual:
            yield Problem(
                arm=arm.name,
                check="pre_tokens",
                found=f"{arm.pre.tokens:,}",
                expected=f"{usual:,} as in the other arms",
                message="pre-pre-training of unequal length: compare its arms with each other with care",
                effect="warned",
            )
    for arm in _finished(result):
        if arm.gate is not None and arm.pre is None:
            yield Problem(
                arm=arm.name,
                check="pre_cost",
                found="not recorded",
                expected="the cost of pre-pre-training",
                message="its speed-up with pre-pre-training charged is not known: gather the cost",
                effect="warned",
            )
