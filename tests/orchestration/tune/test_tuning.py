"""Tuning on simulated scores: a planted optimum is found and promoted once, a planted null moves nothing."""

from __future__ import annotations

import sys
from itertools import count

import numpy as np
import pytest

from datalake import Lake
from datalake.log.version_log import VersionLog
from generator import parse_spec
from orchestration.errors import InvalidRequestError
from orchestration.jobs import tune_run
from orchestration.tune.decide import decide
from orchestration.tune.promote import Target, alias_of, promote
from orchestration.tune.proxy import Progress
from orchestration.tune.search import Proposals
from orchestration.tune.settings import TuneSettings
from orchestration.tune.space import DEFAULT_SPACE, Dimension, check_space, spec_at
from orchestration.tune.tuning import KIND, NO_SYNTHETIC, Trial, TuneResult, begin, run_of, tune
from tests.ray_fixtures import TINY_SPEC

# A proxy's losses scatter as much from seed to seed; what seeds share (data order, initial weights) cancels in pairs.
NOISE, SHARED = 0.004, 0.02
SEEDS = (101, 102, 103, 104, 105)
TRIALS = 40

OPTIMUM = {"band_low": 0.4, "band_width": 0.3, "temperature": 0.5, "share": 0.2}
SPACE = {name: DEFAULT_SPACE[name] for name in OPTIMUM}


@pytest.fixture
def lake(tmp_path):
    return Lake.open(str(tmp_path / "lake"))


class Landscape:
    """Losses at points of SPACE: lowest at OPTIMUM, by `depth` below its edge; `depth` 0 is the null. Without synthetic
    data the loss is `alone`."""

    def __init__(self, depth: float, seed: int, alone: float = 2.0) -> None:
        self.depth, self.seed, self.alone = depth, seed, alone
        self._draws = np.random.default_rng(seed)

    def truth(self, values) -> float:
        if values is None:
            return 2.0
        if values == NO_SYNTHETIC:
            return self.alone
        distance = np.mean(
            [((values[name] - best) / (SPACE[name].high - SPACE[name].low)) ** 2 for name, best in OPTIMUM.items()]
        )
        return 2.0 - self.depth * max(0.0, 1.0 - 8.0 * distance)

    def score(self, values) -> Trial:
        if values["band_low"] + values["band_width"] > 1.1:
            return Trial(values=values, refused="no rule meets the band")
        return Trial(values=values, loss=self.truth(values) + self._draws.normal(0, NOISE), spent=1.0)

    def confirm(self, values, seeds):
        return {seed: self.truth(values) + SHARED * np.sin(seed) + self._draws.normal(0, NOISE) for seed in seeds}


def search_here(objective, *, trials, seed):
    """The proposals that actors would get, one after the other in this process."""

    def search(known, tell):
        proposals = Proposals(SPACE, known, trials=trials, seed=seed)
        while proposals.left > 0:
            number = proposals.ask()
            scored = objective(proposals.values(number))
            tell(proposals.tell(number, Progress(scored.spent, scored.loss, scored.refused, {})))

    return search


def registered(lake, name):
    lake.params.put(name, parse_spec(TINY_SPEC).model_dump(mode="json"))
    return Target(params=name, head=1, alias=alias_of("text"), alias_at=0, incumbent=f"{name}@1")


def started(lake, name, target, settings):
    run, config, began = begin(lake, name, target, settings)
    return lake.runs.start(run, KIND, config, {}), began


def tuned(lake, target, landscape, trials=TRIALS, confirm=None) -> TuneResult:
    record, began = started(lake, f"tune-{target.params}", target, {"seed": landscape.seed})
    search = search_here(landscape.score, trials=trials, seed=landscape.seed)
    return tune(lake, record, began, search, confirm or landscape.confirm, seeds=SEEDS)


def alias_moves(lake, name) -> int:
    log = VersionLog(lake.store, "params", name, lake.system)
    states = [log.entry(number).state["aliases"] for number in range(1, log.head().number + 1)]
    return sum(later != earlier for earlier, later in zip([{}, *states], states, strict=False))


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_optimum_is_found_within_forty_trials_and_promoted_once(lake, seed):
    target = registered(lake, "rules")
    landscape = Landscape(depth=0.05, seed=seed)
    result = tuned(lake, target, landscape)
    assert len(result.trials) == TRIALS
    assert landscape.truth(result.best.values) < 2.0 - 0.8 * 0.05, "four fifths of the way from the edge to the optimum"
    assert result.promoted == "rules@2"
    assert lake.params.aliases("rules") == {"tuned-text": 2}
    assert alias_moves(lake, "rules") == 1
    promoted = lake.params.get("rules@tuned-text")
    assert promoted.spec == spec_at(TINY_SPEC, result.best.values).model_dump(mode="json")
    behind = lake.runs.get(run_of(promoted.message)).state["result"]
    assert behind["confirmation"]["improved"], "the version's message leads to its evidence"

    record, began = started(lake, "tune-rules", target, {"seed": seed})
    assert began == target, "what finished is finished: the same name begins anew from where the set was"
    assert tune(lake, record, began, None, None, seeds=SEEDS) == result
    assert alias_moves(lake, "rules") == 1


def test_a_planted_null_moves_nothing_in_95_of_100_tunings(lake):
    moved = 0
    for number in range(100):
        target = registered(lake, f"null-{number}")
        result = tuned(lake, target, Landscape(depth=0.0, seed=number), trials=12)
        there = lake.params.aliases(target.params) == {} and len(lake.params.history(target.params)) == 1
        assert there == (result.promoted is None)
        assert result.promoted or "no effect found" in result.verdict or "no improvement found" in result.verdict
        moved += result.promoted is not None
    assert moved <= 5


def test_killed_anywhere_it_goes_on_and_promotes_once(lake):
    class Killed(BaseException):
        pass

    target, landscape = registered(lake, "rules"), Landscape(depth=0.05, seed=1)
    whole = tuned(lake, registered(lake, "undisturbed"), Landscape(depth=0.05, seed=1))

    calls = count()

    def dies_in_search(values):
        if next(calls) == 7:
            raise Killed
        return landscape.score(values)

    record, _ = started(lake, "tune-rules", target, {"seed": 1})
    search = search_here(dies_in_search, trials=TRIALS, seed=1)
    with pytest.raises(Killed):
        tune(lake, record, target, search, landscape.confirm, seeds=SEEDS)
    first = [trial["values"] for trial in lake.runs.get(record.name).listed("trials")]
    assert len(first) == 7

    def dies_in_confirmation(*_):
        raise Killed

    with pytest.raises(Killed):
        tuned(lake, target, landscape, confirm=dies_in_confirmation)
    result = tuned(lake, target, landscape)
    assert [trial.values for trial in result.trials][:7] == first
    assert len(result.trials) == len(whole.trials) == TRIALS
    assert result.promoted == "rules@2"
    assert alias_moves(lake, "rules") == 1


def test_killed_between_version_and_alias_it_finds_its_own_version(lake):
    target = registered(lake, "rules")
    spec = spec_at(TINY_SPEC, {"colors": 4}).model_dump(mode="json")
    lake.params.put("rules", spec, message="tuned: x; run r", expect_version=1, force=True)
    assert promote(lake, target, spec, "tuned: x; run r").ref == "rules@2"
    assert promote(lake, target, spec, "tuned: x; run r").ref == "rules@2"
    assert len(lake.params.history("rules")) == 2
    assert alias_moves(lake, "rules") == 1


def test_of_two_tuners_on_one_set_one_wins_and_the_other_says_so(lake):
    target, landscape = registered(lake, "rules"), Landscape(depth=0.05, seed=2)

    def overtaken(values, seeds):
        if values is None:
            other = spec_at(TINY_SPEC, {"colors": 5}).model_dump(mode="json")
            promote(lake, target, other, "tuned: first; run other")
        return landscape.confirm(values, seeds)

    result = tuned(lake, target, landscape, confirm=overtaken)
    assert result.confirmation.improved
    assert result.promoted is None
    assert "another came first" in result.verdict
    assert lake.params.get("rules@tuned-text").message == "tuned: first; run other"
    assert len(lake.params.history("rules")) == 2


@pytest.mark.parametrize(
    ("alone", "says"),
    [(1.9, "worse than no synthetic data"), (2.1, "better than no synthetic data"), (None, "no difference found")],
)
def test_an_improvement_is_also_held_against_no_synthetic_data(lake, alone, says):
    landscape = Landscape(depth=0.05, seed=0)
    best = tuned(lake, registered(lake, "before"), landscape).best
    landscape = Landscape(depth=0.05, seed=0, alone=alone or landscape.truth(best.values))
    result = tuned(lake, registered(lake, "rules"), landscape)
    assert result.promoted == "rules@2", "it is the incumbent that has to be beaten"
    assert result.control.verdict.startswith(says)
    assert result.control.verdict in lake.params.get("rules@2").message
    assert result.control.losses.keys() == set(SEEDS)


def test_only_an_interval_below_zero_is_an_improvement():
    base = {seed: 2.0 + 0.01 * seed for seed in range(5)}
    shifted = {seed: loss - 0.02 + 0.001 * (-1) ** seed for seed, loss in base.items()}
    assert decide(shifted, base, 0.05).improved
    assert not decide(base, shifted, 0.05).improved
    assert not decide({0: 1.0}, base, 0.05).improved, "one pair decides nothing"
    assert not decide({}, {}, 0.05).improved
    assert "1 of the candidate, 5 of the incumbent" in decide({0: 1.0}, base, 0.05).verdict


def test_a_wrong_dimension_is_refused():
    with pytest.raises(InvalidRequestError, match="colours: no dimension"):
        check_space({"colours": Dimension(low=0, high=1)})
    with pytest.raises(ValueError, match="above high"):
        Dimension(low=2, high=1)


def test_without_optuna_it_says_what_to_install(lake, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in ("orchestration.tune.runner", "orchestration.tune.search"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(InvalidRequestError, match=r"optuna is not installed.*pip install 'morphogen\[tune\]'"):
        tune_run(lake, "rules", "text", TuneSettings())
