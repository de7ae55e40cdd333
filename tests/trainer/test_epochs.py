"""What is stated in epochs of the data is the same run as in steps; and cycles of the rate are what they say."""

from __future__ import annotations

from math import cos, pi

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake import Lake
from tests.trainer.lake_data import add_dataset, curve, patterned, tiny_config, tiny_lake
from trainer import TrainConfig, TrainJob, load_metrics, run_training
from trainer.config import ScheduleConfig
from trainer.epochs import repeats_from, schedule_in_steps
from trainer.errors import ConfigError
from trainer.lattice.train_config import parse_lattice_config
from trainer.schedule import lr_factor

ROWS, BATCH = 22, 4  # of train@1: five steps and a half


def config_of(schedule: dict, **changes: object) -> TrainConfig:
    return tiny_config(schedule=schedule, **changes)


@given(st.floats(0, 3), st.floats(0, 3), st.integers(1, 3000), st.integers(17, 400))
def test_epochs_are_rounded_to_steps_and_decay_is_as_long_to_the_step(
    warmup: float, decay: float, rows: int, steps: int
) -> None:
    config = config_of({"name": "wsd", "warmup_epochs": warmup, "decay_epochs": decay}, steps=steps)
    wanted = round(warmup * rows / BATCH), round(decay * rows / BATCH)
    if max(wanted) > steps:
        with pytest.raises(ConfigError, match=rf"schedule\.\w+_epochs = .* schedule has {steps} steps; lower it"):
            schedule_in_steps(config, rows)
        return
    schedule = schedule_in_steps(config, rows)
    assert (schedule.warmup_steps, round(schedule.decay_fraction * steps)) == wanted
    assert schedule.in_epochs is None


@given(st.integers(1, 5), st.integers(1, 20), st.floats(0, 1), st.integers(0, 30), st.floats(0, 1))
def test_each_cycle_falls_by_half_a_cosine_from_what_the_schedule_says(
    count: int, length: int, floor: float, before: int, final: float
) -> None:
    steps = before + count * length
    base = ScheduleConfig(name="wsd", decay_fraction=0.5, final_fraction=final)
    fields = {**base.model_dump(), "cycle": {"count": count, "steps": length, "floor": floor}}
    schedule = ScheduleConfig.model_validate(fields)
    for step in range(steps):
        plain, found = (lr_factor(each, step, steps) for each in (base, schedule))
        if step < before:
            assert found == plain
        else:
            into = (step - before) % length
            assert found == pytest.approx(floor + (max(plain, floor) - floor) * (1 + cos(pi * into / length)) / 2)
            assert into or found == pytest.approx(max(plain, floor))


def test_cycles_by_fraction_and_by_epochs_are_those_of_so_many_steps() -> None:
    in_steps, by_fraction, by_epochs = (
        schedule_in_steps(config_of({"cycle": {"count": 3, **length}}, steps=20), 16)
        for length in ({"steps": 4}, {"fraction": 0.2}, {"epochs": 1})
    )
    factors = [[lr_factor(each, step, 20) for step in range(20)] for each in (in_steps, by_fraction, by_epochs)]
    assert factors[0] == factors[1] == factors[2]
    assert factors[0] != [lr_factor(ScheduleConfig(), step, 20) for step in range(20)]


def test_a_run_in_epochs_is_the_run_in_steps(tmp_path) -> None:
    lake = tiny_lake(tmp_path / "lake")
    model = {"depth": 2, "dim": 16, "heads": 2}
    again = {"first": 0, "last": 0}
    runs = {
        "epochs": (
            {"name": "wsd", "warmup_epochs": 0.4, "decay_epochs": 1, "cycle": {"count": 2, "epochs": 0.5}},
            {**again, "from_epoch": 1.5},
        ),
        "steps": (
            {"name": "wsd", "warmup_steps": 2, "decay_fraction": 6 / 14, "cycle": {"count": 2, "steps": 3}},
            {**again, "from_fraction": 8 / 14},
        ),
    }
    for run, (schedule, repeat) in runs.items():
        config = config_of(schedule, model={**model, "repeat": repeat}, eval=[])
        assert TrainConfig.model_validate(config.model_dump(mode="json")) == config
        run_training(TrainJob(config, lake, run), threads=1)
    assert curve(load_metrics(lake, "epochs")) == curve(load_metrics(lake, "steps"))
    assert lake.runs.get("epochs").state["config"]["schedule"]["warmup_epochs"] == 0.4


def test_records_of_runs_without_say_nothing_of_it() -> None:
    assert not {"warmup_epochs", "decay_epochs", "cycle"} & {*ScheduleConfig().model_dump()}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"schedule": {"warmup_epochs": 1, "warmup_steps": 2}}, "warmup_epochs = 1.0: warmup_steps = 2 says it too"),
        ({"schedule": {"decay_epochs": 1}}, "is of wsd alone.*there is name = 'cosine'"),
        ({"schedule": {"name": "wsd", "decay_epochs": 1, "decay_fraction": 0.5}}, "there is decay_fraction = 0.5"),
        ({"schedule": {"cycle": {"count": 2}}}, "its length is given by nothing"),
        ({"schedule": {"cycle": {"count": 2, "steps": 3, "epochs": 1}}}, "its length is given by steps and epochs"),
        ({"schedule": {"cycle": {"count": 6, "fraction": 0.2}}}, "count = 6 of fraction = 0.2 is more than all"),
        (
            {"schedule": {"warmup_epochs": 1}, "data": [{"dataset": "a@1"}, {"dataset": "b@1"}]},
            "schedule.warmup_epochs: an epoch is of one dataset, data names 2",
        ),
        (
            {"model": {"depth": 1, "repeat": {"first": 0, "last": 0, "from_epoch": 1, "from_fraction": 0.5}}},
            "from_epoch = 1.0: from_fraction = 0.5 says it too",
        ),
    ],
)
def test_what_is_said_twice_or_of_two_datasets_is_refused(fields: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tiny_config(**{"schedule": {}, **fields})


def test_what_the_data_shows_to_be_too_long_is_refused_before_anything_is_written(tmp_path) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    add_dataset(lake, "train", patterned(ROWS))
    for changes, says in (
        ({"schedule": {"warmup_epochs": 3}}, r"schedule.warmup_epochs = 3.0: 16 steps of 4 of the data's 22 rows"),
        ({"schedule": {"cycle": {"count": 3, "epochs": 1}}}, r"cycle.epochs = 1.0: 6 steps .* 3 times"),
        ({"schedule": {"cycle": {"count": 5, "steps": 3}}}, r"schedule.cycle: 5 of 3 steps, the schedule has 14"),
        (
            {"model": {"depth": 1, "repeat": {"first": 0, "last": 0, "from_epoch": 4}}, "schedule": {}},
            r"model.repeat.from_epoch = 4.0: layers would repeat after 22 updates, the run has 14",
        ),
    ):
        with pytest.raises(ConfigError, match=says):
            run_training(TrainJob(tiny_config(**{"eval": [], **changes}), lake, "long"), threads=1)
    assert not lake.store.exists("runs/long/00000001.json")


def test_a_lattice_has_no_epochs() -> None:
    fields = {"lattice": {}, "target": {"kind": "surface"}, "steps": 9, "schedule": {"warmup_epochs": 1}}
    with pytest.raises(ConfigError, match=r"schedule\.warmup_epochs: a lattice reads no dataset"):
        parse_lattice_config(fields)


def test_layers_repeat_from_an_epoch_or_a_fraction() -> None:
    for again, start in (({"from_epoch": 2}, 11), ({"from_fraction": 0.5}, 7), ({}, 0), ({"times": 0}, 0)):
        model = {"depth": 1, "repeat": {"first": 0, "last": 0, **again}}
        assert repeats_from(tiny_config(model=model), ROWS) == start
