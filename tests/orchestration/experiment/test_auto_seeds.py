"""`seeds = "auto"`: a plan from a pilot, pairs until all is decided, and a level that neither of them spoils."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from datalake import Lake
from orchestration.cli import main
from orchestration.errors import ExperimentError
from orchestration.experiment.analysis.analyse import analyse
from orchestration.experiment.analysis.planner import looks_of, plan_with_looks
from orchestration.experiment.analysis.sequential import look_alphas
from orchestration.experiment.analysis.statistics import t_bounds, t_p_value
from orchestration.experiment.config.file import ExperimentFile
from orchestration.experiment.config.load import parse_experiment
from orchestration.experiment.report.markdown import to_markdown
from orchestration.experiment.result import ArmResult, ExperimentResult
from orchestration.experiment.run.auto import SeedPlan, describe, most_pairs, pilot_seeds, plan_seeds, run_planned
from tests.orchestration.experiment.builder import experiment
from tests.orchestration.experiment.test_task_experiment import TASK

AUTO = TASK.replace("seeds = [1]", 'seeds = "auto"') + "[auto]\neffect = 0.03\npairs = 9\n"
TABLE = {
    "name": "t",
    "seeds": "auto",
    "auto": {"effect": 0.03, "pairs": 12},
    "primary": ["nca"],
    "factors": {"pre": ["none", "nca"]},
    "corpus": {"name": "text"},
    "model": {"depth": 1, "dim": 16, "heads": 2},
    "pre": {"spec": "tiny", "train": {"steps": 8, "batch_sequences": 4}},
    "train": {"steps": 8, "batch_sequences": 4, "eval_every": 4, "optimizer": {"lr": 1e-3}},
}


def parsed(**changes: object) -> ExperimentFile:
    return parse_experiment({**TABLE, **changes})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"auto": None}, r"seeds = 'auto': needs a table \[auto\]"),
        ({"seeds": [1, 2]}, "auto: says how seeds are chosen, but seeds are given"),
        ({"auto": {"effect": 0.03}}, "pairs: missing; give a budget"),
        ({"auto": {"effect": 0.0, "pairs": 9}}, r"auto\.effect"),
        ({"auto": {"effect": 0.1, "pairs": 2}}, r"auto\.pairs"),
        ({"auto": {"effect": 0.1, "hours": 1, "pilot_sd": 0.1}}, "hours = 1: are measured in a pilot"),
        ({"primary": []}, "primary: missing; with seeds = 'auto' name the comparisons"),
        ({"seeds": "automatic"}, "seeds"),
    ],
)
def test_what_is_no_plan_is_refused(changes: dict, says: str) -> None:
    with pytest.raises(ExperimentError, match=says):
        parsed(**changes)


def test_a_file_that_was_read_is_read_again() -> None:
    """What a run's record holds is what goes on."""
    file = parsed()
    assert parse_experiment(file.model_dump(mode="json")).digest == file.digest
    assert "auto" not in parsed(seeds=[1], auto=None).model_dump(), "a file's digest names its experiment"


def test_the_seed_that_rates_are_chosen_at_is_no_pairs() -> None:
    file = parsed(sweep={"lr": {"adamw": [1e-3]}, "seed": 2})
    assert pilot_seeds(file) == (1, 3, 4, 5)
    assert plan_seeds(file, 0.01, 12).seeds[:3] == (6, 7, 8)
    stated = parsed(auto={"effect": 0.03, "pairs": 12, "pilot_sd": 0.02})
    assert pilot_seeds(stated) == ()
    assert plan_seeds(stated, 0.02, 12).seeds[:3] == (1, 2, 3)


def test_hours_are_measured_in_the_pilot_whose_share_is_taken_off() -> None:
    lake = Lake.open("/nowhere")  # which a budget of hours does not ask
    file = parsed(auto={"effect": 0.03, "hours": 1})
    assert most_pairs(lake, file, 360.0) == 36, "four pairs took 360 s, and 3,240 s are left"
    assert most_pairs(lake, parsed(auto={"effect": 0.03, "hours": 1, "pairs": 9}), 360.0) == 9
    with pytest.raises(ExperimentError, match="auto: the budget allows 1 pairs beside a pilot of 4"):
        most_pairs(lake, file, 2600.0)


def test_the_dry_run_says_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "task.toml"
    for more, says in (
        ("", ["at seeds 1, 2, 3, 4, which no verdict reads", "if its SD is 0.03:", "at most 9 pairs, each of"]),
        ("pilot_sd = 0.02\n", ["planned: 9 pairs, the most that the budget has", "looked at after 3, 6, 9 pairs"]),
        ("tokens = 9e4\n", ["at most 4 pairs, each of 11,040 tokens"]),
        ("hours = 2\n", ["and 2 hours in all, which the pilot measures"]),
    ):
        path.write_text(AUTO + more)
        with pytest.raises(SystemExit) as ended:
            main(["experiment", str(path), "--no-ray", "--dry-run", "--lake", str(tmp_path / "lake")])
        assert not ended.value.code
        said = " ".join(capsys.readouterr().out.split())
        for each in says:
            assert each in said
    path.write_text(AUTO + "tokens = 4e4\n")
    with pytest.raises(SystemExit) as ended:
        main(["experiment", str(path), "--no-ray", "--dry-run", "--lake", str(tmp_path / "lake")])
    assert ended.value.code == 2
    assert "auto: the budget allows 0 pairs beside a pilot of 4" in " ".join(capsys.readouterr().err.split())


class Simulated:
    """Arms whose differences are drawn, in place of arms that are trained; what ``run_planned`` asks for."""

    def __init__(self, effect: float, sd: float) -> None:
        self.effect, self.sd = effect, sd
        self.asked: list[tuple[int, ...]] = []
        self.plan: SeedPlan | None = None

    def seeds(self, seeds: Sequence[int]) -> list[ArmResult]:
        self.asked.append(tuple(seeds))
        return [
            arm
            for seed in seeds
            for arm in experiment(
                {"nca": self.effect}, seeds=[seed], pair_sd=self.sd, rng=np.random.default_rng(seed)
            ).arms
        ]

    def result(self, arms: Sequence[ArmResult]) -> ExperimentResult:
        looks = () if self.plan is None else self.plan.looks
        stated = None if self.plan is None else self.plan.stated()
        empty = experiment({"nca": 0.0}, seeds=[1])
        return empty.model_copy(
            update={"arms": tuple(arms), "looks": looks, "primary": ("nca",), "minimum_detectable_effect": stated}
        )

    def note(self, plan: SeedPlan) -> None:
        self.plan = plan

    def run(self, file: ExperimentFile, recorded: SeedPlan | None = None) -> ExperimentResult:
        lake = Lake.open("/nowhere")  # which a budget of pairs does not ask
        return self.result(run_planned(lake, file, 1, recorded, self.seeds, self.result, self.note))


def test_pairs_end_once_all_is_decided_and_the_pilot_is_no_pair() -> None:
    simulated = Simulated(effect=-0.2, sd=0.01)
    result = simulated.run(parsed(auto={"effect": 0.01, "pairs": 12}))
    assert simulated.plan is not None
    assert simulated.asked[0] == (1, 2, 3, 4)
    assert simulated.asked[1:] == [simulated.plan.seeds[: simulated.plan.looks[0]]], "the first look decided"
    assert not {*simulated.asked[0]} & {*simulated.plan.seeds}
    (found,) = [each for each in analyse(result).comparisons if each.primary]
    assert found.verdict == "better"
    alphas = look_alphas(simulated.plan.looks, 0.05)
    assert found.decided is not None
    assert found.decided.level == pytest.approx(1 - alphas[0])
    assert "Pairs were looked at after" in to_markdown(result, analyse(result))


def test_without_an_effect_all_planned_pairs_are_run_and_a_recorded_plan_stands() -> None:
    simulated = Simulated(effect=0.0, sd=0.03)
    result = simulated.run(parsed(auto={"effect": 0.02, "pairs": 9}))
    plan = simulated.plan
    assert plan is not None
    assert [seed for seeds in simulated.asked[1:] for seed in seeds] == [*plan.seeds]
    (found,) = [each for each in analyse(result).comparisons if each.primary]
    assert found.verdict == "no effect found"
    assert found.difference is not None
    assert len(found.difference.seeds) == plan.pairs.pairs == 9
    again = Simulated(effect=0.0, sd=0.03)
    assert again.run(parsed(auto={"effect": 0.02, "pairs": 9}), plan).arms == result.arms
    assert again.asked[0] == plan.seeds[: plan.looks[0]], "no second pilot"


def test_a_pilot_that_failed_plans_nothing() -> None:
    simulated = Simulated(effect=0.0, sd=0.03)

    def seeds(asked: Sequence[int]) -> list[ArmResult]:
        arms = Simulated.seeds(simulated, asked)
        return [arms[0].model_copy(update={"status": "failed", "error": "it diverged"}), *arms[1:]]

    with pytest.raises(ExperimentError, match="pilot: nca"):
        run_planned(Lake.open("/nowhere"), parsed(), 1, None, seeds, simulated.result, simulated.note)
    assert simulated.plan is None


def check_procedure(simulations: int, effect: float, grid: int, comparisons: int = 1) -> tuple[float, float, float]:
    """Shares of ``simulations`` of pilot, plan and looks that reject, whose interval holds the truth, and mean pairs.

    The pilots' standard deviations are rounded up to one of ``grid`` values, so that plans are few; SD 1.
    """
    rng = np.random.default_rng(grid)
    sds = rng.normal(0, 1, (simulations, 4)).std(axis=1, ddof=1)
    edges = np.quantile(sds, (np.arange(grid) + 1) / grid)
    at = np.searchsorted(edges, sds)
    rejected, covered, pairs = 0, 0, 0
    for cell, sd in enumerate(edges):
        plan = plan_with_looks(float(sd), 4, 3, wanted=1.0, most=16, comparisons=comparisons)
        looks = looks_of(plan.pairs, 3)
        alphas = look_alphas(looks, 0.05 / comparisons)
        differences = rng.normal(effect, 1, (int((at == cell).sum()), looks[-1]))
        going = np.ones(len(differences), dtype=bool)
        holds = np.ones(len(differences), dtype=bool)
        for look, own in zip(looks, alphas, strict=True):
            found = going & (t_p_value(differences[:, :look]) <= own)
            low, high = t_bounds(differences[:, :look], own)
            ends = found | (going & (look == looks[-1]))
            holds[ends] = ((low <= effect) & (effect <= high))[ends]
            rejected += int(found.sum())
            pairs += int(ends.sum()) * look
            going &= ~found
        covered += int(holds.sum())
    return rejected / simulations, covered / simulations, pairs / simulations


def check_bars(simulations: int, grid: int) -> None:
    upper = stats.binom.ppf(0.999, simulations, 0.05) / simulations
    level, coverage, _ = check_procedure(simulations, 0.0, grid)
    assert level <= upper
    assert coverage >= 1 - upper
    power, coverage, pairs = check_procedure(simulations, 1.0, grid)
    assert power >= 0.8 - 0.03, "the budget of 16 pairs caps the widest plans"
    assert coverage >= 1 - upper
    assert pairs < 16


def test_level_coverage_and_power_of_pilot_plan_and_looks() -> None:
    check_bars(20_000, 3)


@pytest.mark.soak
def test_level_coverage_and_power_over_many_plans() -> None:
    check_bars(400_000, 40)
    level, coverage, _ = check_procedure(400_000, 0.0, 40, comparisons=2)
    assert level <= stats.binom.ppf(0.999, 400_000, 0.025) / 400_000
    assert coverage >= 0.974


@pytest.mark.soak  # two dozen trainings
def test_a_real_experiment_plans_runs_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "task.toml"
    path.write_text(AUTO.replace("effect = 0.03\npairs = 9", "effect = 0.2\npairs = 4\npilot_pairs = 3\nlooks = 2"))
    results = []
    where = ("--lake", str(tmp_path / "lake"), "--report", str(tmp_path / "report"))
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(["experiment", str(path), "--no-ray", *where, "--json"])
        said = capsys.readouterr()
        assert ended.value.code in (0, None), said.err
        results.append(ExperimentResult.model_validate(json.loads(said.out)["result"]))
    assert results[0].arms == results[1].arms
    assert results[0].looks
    assert {arm.arm.seed for arm in results[0].arms} <= {4, 5, 6, 7}
    stated = results[0].minimum_detectable_effect
    assert stated is not None
    assert stated.source == "pilot of 3 pairs, seeds of its own"
    lake = Lake.open(str(tmp_path / "lake"))
    [known] = [run for run in map(lake.runs.get, lake.runs.list()) if run.state["kind"] == "experiment"]
    assert known.state["seed_plan"]["looks"] == list(results[0].looks)
    assert {arm.run for arm in results[0].arms} <= {*known.state["reads"]["runs"]}, (
        "the pilot's runs are among them, too"
    )


def test_the_sentences_say_what_each_spread_would_ask_for(tmp_path: Path) -> None:
    said = describe(Lake.open(str(tmp_path / "lake")), parsed(corpus={"name": "c", "task": "markov"}))
    assert any("if its SD is 0.06: planned: 12 pairs, the most that the budget has" in each for each in said)
