"""Tuning on a real Ray: warm actors, trials stopped at rungs, known ones not run again; and once with real proxies."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from datalake import Lake
from datalake.errors import InUseError
from datalake.maintenance.retire import retire_version
from generator import parse_spec
from orchestration.corpus.add import add_corpus
from orchestration.errors import InvalidRequestError
from orchestration.runs.view import view_run
from orchestration.toml_files import read_toml
from orchestration.tune.proxy import Progress
from orchestration.tune.runner import run_tune
from orchestration.tune.search import pool_search
from orchestration.tune.settings import parse_settings
from orchestration.tune.space import Dimension
from tests.ray_fixtures import ROOT, inline_toml

SPACE = {"temperature": Dimension(low=0.0, high=1.0)}


class Stairs:
    """Falls by a third at each of three rungs; refuses temperatures above 0.9."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, values):
        Path(self.folder, f"{values['temperature']}-{os.getpid()}").touch()
        self.values, self.rung = values, 0
        return self

    def advance(self) -> Progress:
        self.rung += 1
        value = self.values["temperature"]
        refused = "too hot" if value > 0.9 else None
        loss = None if refused else 2.0 + value - self.rung / 10
        return Progress(self.rung / 3, loss, refused, {"total": float(self.rung)})


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_trials_run_warm_stop_at_rungs_and_are_not_run_twice(ray_cluster, tmp_path):  # noqa: ARG001
    told = []
    lake, stairs = Lake.open(str(tmp_path / "lake")), tmp_path / "stairs"
    stairs.mkdir()
    search = pool_search(lake, SPACE, Stairs(str(stairs)), trials=12, seed=0)
    search((), told.append)
    assert len(told) == 12
    scored = [trial for trial in told if trial.loss is not None]
    assert scored
    for trial in told:
        if trial.values["temperature"] > 0.9:
            assert trial.refused == "too hot"
        elif trial.loss is not None:
            assert trial.loss == pytest.approx(2.0 + trial.values["temperature"] - 0.3)
            assert trial.spent == 1.0
        else:
            assert trial.spent < 1
    starts = [path.name.rpartition("-") for path in stairs.iterdir()]
    assert len({value for value, _, _ in starts}) == 12
    assert len({pid for _, _, pid in starts}) <= 4, "actors are reused: a few processes for twelve trials"

    more = []
    pool_search(lake, SPACE, Stairs(str(stairs)), trials=14, seed=0)(told, more.append)
    assert len(more) == 2, "the twelve known ones are told, not run"


LIBRARY = Path(json.__file__).parents[1]

# One content token between two delimiters: the gate is passed as soon as the delimiters are learned.
EASY = {"family": "nca", "grid": [2, 2], "colors": 2, "embed": 2, "hidden": 4, "burn_in": 0, "seq_len": 128}

TOY = {
    "space": {"temperature": {"low": 0.5, "high": 2.0}, "share": {"low": 0.3, "high": 0.5}},
    "model": {"depth": 1, "dim": 16, "heads": 2},
    "train": {"steps": 80, "batch_sequences": 4, "eval_sequences": 8, "schedule": {}, "optimizer": {"lr": 1e-2}},
    "trials": 3,
    "share": 0.4,
    "seeds": [11, 12],
    "rungs": 2,
    "gate_sequences": 8,
}


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_tuning_with_real_proxies_ends_and_is_found_again(ray_cluster, tmp_path):  # noqa: ARG001
    lake = Lake.open(str(tmp_path / "lake"))
    lake.params.put("rules", parse_spec(EASY).model_dump(mode="json"))
    add_corpus(lake, "text", [LIBRARY / "json", LIBRARY / "email"], patterns=("*.py",), seq_len=128)
    settings = parse_settings(TOY)
    result = run_tune(lake, "rules", "text", settings)
    assert len(result.trials) == 3
    assert result.best is not None, [trial.refused for trial in result.trials]
    assert result.latency.keys() >= {"generate", "pre", "language", "total"}
    assert result.confirmation.candidate.keys() == result.confirmation.incumbent.keys() == {11, 12}
    moved = result.promoted is not None
    assert moved == result.confirmation.improved == (result.control is not None)
    assert lake.params.aliases("rules") == ({"tuned-text": 2} if moved else {})
    if not moved:
        runs = {run: lake.runs.get(run).state["attempts"] for run in lake.runs.list()}
        assert run_tune(lake, "rules", "text", settings) == result
        assert {run: lake.runs.get(run).state["attempts"] for run in lake.runs.list()} == runs


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_a_tuning_hears_runs_stop_goes_on_and_is_taken_over_from_the_dead(ray_cluster, morphogen, tmp_path):
    lake = Lake.open(str(tmp_path / "lake"))
    lake.params.put("rules", parse_spec(EASY).model_dump(mode="json"))
    add_corpus(lake, "text", [LIBRARY / "json", LIBRARY / "email"], patterns=("*.py",), seq_len=128)
    (tmp_path / "tune.toml").write_text(inline_toml(TOY))
    arguments = ("tune", "rules@1", "--target", "text", "--settings", "tune.toml", "--lake", lake.uri, "--json")

    def start():
        return morphogen.start(*arguments, RAY_ADDRESS=ray_cluster.address)

    def wait_until(condition, process):
        deadline = time.monotonic() + 300
        while not condition():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def trial_begun():
        return any(run.startswith("proxy-") for run in lake.runs.names())

    def name():
        return next((run for run in lake.runs.names() if run.startswith("tune-")), None)

    first = start()
    wait_until(lambda: name() and trial_begun(), first)
    assert lake.runs.get(name()).state["reads"] == {"params": ["rules@1"], "datasets": ["text@1", "text-heldout@1"]}
    assert lake.runs.heartbeat(name()).beat >= 1
    with pytest.raises(InUseError, match=name()):
        retire_version(lake, "datasets", "text-heldout@1")
    assert morphogen.run("runs", "stop", name(), "-m", "lunch", "--lake", lake.uri).returncode == 0
    _, err = first.communicate(timeout=300)
    assert first.returncode == 3, err
    assert "lunch" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert view_run(lake, name())["state"] == "stopped"
    assert not [run for run in lake.runs.names() if view_run(lake, run)["state"] in ("running", "lost")]

    second = start()
    wait_until(lambda: lake.runs.get(name()).state["attempts"] == 2 and trial_begun(), second)
    third = start()
    wait_until(lambda: lake.runs.get(name()).state["holder"]["pid"] == second.pid, third)
    second.kill()
    second.communicate()
    out, err = third.communicate(timeout=900)
    assert third.returncode == 0, err
    state = lake.runs.get(name()).state
    assert (state["status"], state["attempts"]) == ("finished", 3)
    assert len(json.loads(out)["trials"]) == TOY["trials"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": [1]}, "two or more"),
        ({"seeds": [0, 1]}, "the search's own"),
        ({"trials": 0}, "trials"),
        ({"space": {"hue": {"low": 0, "high": 1}}}, "space.hue: no dimension"),
        ({"train": {"step": 3}}, "step: unknown field"),
        ({"unknown": 3}, "unknown"),
    ],
)
def test_bad_settings_are_refused_in_one_line(changes, said):
    with pytest.raises(InvalidRequestError) as raised:
        parse_settings(changes)
    assert said in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_every_shipped_tuning_reads():
    files = sorted((ROOT / "experiments" / "tuning").glob("*.toml"))
    assert files
    for path in files:
        parse_settings(read_toml(path))
