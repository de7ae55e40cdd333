"""An experiment's file: what it refuses, which cells are arms, and what their configurations share."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.errors import ExperimentError
from orchestration.experiment.config.configs import Refs, has_stage, language_config, pre_config, shared_hash
from orchestration.experiment.config.levels import LEVELS, cells, effective_optimizer
from orchestration.experiment.config.load import load_experiment, parse_experiment
from orchestration.runs.names import default_run_name

TABLE = {
    "name": "t",
    "seeds": [1, 2, 3],
    "factors": {"pre": ["none", "nca"], "optimizer": ["adamw", "muon"]},
    "corpus": {"name": "text"},
    "model": {"depth": 1, "dim": 16, "heads": 2},
    "pre": {"spec": "tiny", "train": {"steps": 8, "batch_sequences": 4}},
    "train": {"steps": 8, "batch_sequences": 4, "eval_every": 4, "optimizer": {"lr": 1e-3}},
    "optimizers": {"muon": {"lr": 2e-3, "muon": {"momentum_warmup_steps": 2}}},
}

subsets = {
    "pre": st.lists(st.sampled_from(["nca", "shuffled", "iid", "dyck", "stats", "text"]), min_size=1, unique=True).map(
        lambda levels: ["none", *levels]
    ),
    **{name: st.lists(st.sampled_from(levels), min_size=1, unique=True) for name, levels in LEVELS.items()},
}


def parsed(**changes):
    return parse_experiment(merged(TABLE, changes))


def merged(table, changes):
    both = {
        key: merged(table[key], value) if isinstance(table.get(key), dict) and isinstance(value, dict) else value
        for key, value in changes.items()
    }
    return {**table, **both}


@settings(deadline=None, max_examples=15)
@given(st.fixed_dictionaries(subsets))
def test_every_cell_is_one_arm_with_a_baseline_and_shares_one_configuration(factors):
    if factors["mixing"] == ["annealed"] and set(factors["pre"]) <= {"none", "stats", "text"}:
        return  # nothing but baselines
    file = parsed(factors=factors)
    arms = file.cells
    assert len({tuple(sorted(cell.items())) for cell in arms}) == len(arms)
    baselines = [cell for cell in arms if cell["pre"] == "none"]
    for cell in arms:
        # As the report pairs them: equal in all but `pre`, "-" in the baseline equalling anything.
        partners = [
            base for base in baselines if all(base[name] in (cell[name], "-") for name in cell if name != "pre")
        ]
        assert partners, f"{cell} has no baseline among {baselines}"
    configs = [
        language_config(file, cell, seed, Refs(), source="m@1").model_dump(mode="json")
        for cell, seed in itertools.product(arms, file.seeds)
    ]
    assert len({shared_hash(file, config) for config in configs}) == 1
    assert {bool(config["transfer"]) for cell, config in zip(arms, configs[:: len(file.seeds)], strict=True)} <= {
        True,
        False,
    }


def test_the_shared_hash_sees_what_no_factor_sets():
    file = parsed()
    config = language_config(file, file.cells[0], 1, Refs(), source=None).model_dump(mode="json")
    for change in (
        {"batch_sequences": 8},
        {"steps": 9},
        {"schedule": {**config["schedule"], "warmup_steps": 3}},
        {"average": {"name": "ema", "decay": 0.9, "every": 1, "start_fraction": 0.0}},
        {"optimizer": {**config["optimizer"], "weight_decay": 0.2}},
        {"eval_sequences": 3},
    ):
        assert shared_hash(file, {**config, **change}) != shared_hash(file, config)


def test_arms_share_the_runs_they_can():
    file = parsed(
        factors={
            "pre": ["none", "nca", "stats"],
            "optimizer": ["muon", "hybrid"],
            "decay": ["native", "to-transferred"],
        }
    )
    language = {}
    before = set()
    for cell in file.cells:
        config = language_config(file, cell, 1, Refs(), source="m@1")
        language[tuple(cell.values())] = default_run_name("arm", config)
        if has_stage(cell):
            before.add(default_run_name("pre", pre_config(file, cell, 1, Refs())))
    assert len(before) == 1, "one pre-pre-training serves nca and stats under both optimisers"
    none = {cell: run for cell, run in language.items() if cell[0] == "none"}
    assert len(none) == 2, "muon and hybrid"
    assert len({*none.values()}) == 1, "without transfer they are one run"
    others = [run for cell, run in language.items() if cell[0] != "none"]
    assert len({*others}) == len(others) == 6


def test_hybrid_without_transfer_is_muon():
    (cell,) = cells({"pre": ["none"], "optimizer": ["hybrid"]})
    assert effective_optimizer(cell) == "muon"


def test_another_seed_is_another_run_and_the_same_one_is_the_same():
    file = parsed()
    cell = file.cells[0]
    names = [default_run_name("arm", language_config(file, cell, seed, Refs(), source=None)) for seed in (1, 2, 1)]
    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"factors": {"pre": ["none", "nac"]}}, "factors.pre: 'nac' is no level"),
        ({"factors": {"pre": ["none", "nca"], "transfer": ["head-1"]}}, "allowed are attn, attn+norm, mlp, all"),
        ({"factors": {"pre": ["none", "nca"], "transfer": ["head-9.0"]}}, "head 9.0 is not in a model of"),
        ({"factors": {"optimiser": ["adamw"]}}, "factors.optimiser: no factor"),
        ({"factors": {"optimizer": ["adamw", "adamw"]}}, "twice"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "twice"),
        ({"train": {"steps": 0}}, "steps"),
        ({"train": {"seed": 4}}, "train.seed: set by the experiment"),
        ({"train": {"bacth_sequences": 4}}, "bacth_sequences: unknown field"),
        ({"train": {"transfer": {"what": "mlp"}}}, "train.transfer.what"),
        ({"pre": {"spec": None}}, "pre.spec: missing"),
        ({"pre": {"train": {"steps": None}}}, "steps"),
        ({"sweep": {"lr": {"adamw": [1e-3, 2e-3], "muon": [1e-3]}, "seed": 9}}, "as many"),
        ({"sweep": {"lr": {"adamw": [1e-3]}, "seed": 9}}, "sweep.lr.muon: missing"),
        ({"sweep": {"lr": {"adamw": [1e-3], "muon": [1e-3]}, "seed": 3}}, "also a reported seed"),
        ({"pre": {"loss_masks": {"identity": "answers"}}}, "pre.loss_masks.identity: no level of factors.pre"),
        ({"pre": {"loss_masks": {"nca": "all"}}}, "pre.loss_masks.nca"),
        ({"baseline": {"pre": "dyck"}}, "baseline.pre"),
        ({"treatment": "decay"}, "treatment"),
        ({"corpus": {"paths": ["x"], "heldout": "y"}}, "heldout"),
        ({"unknown": 1}, "unknown: unknown field"),
        ({"name": "a b"}, "experiment"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(changes, said):
    from datalake.errors import InvalidNameError

    with pytest.raises((ExperimentError, InvalidNameError)) as raised:
        parsed(**changes)
    assert said in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_level_may_have_a_loss_mask_of_its_own():
    masks = {"nca": "first_frame", "identity": "answers"}
    specs = {"identity": {"family": "procedural", "task": "identity"}}
    factors = {"pre": ["none", "nca", "shuffled", "identity"]}
    file = parsed(factors=factors, pre={"specs": specs, "loss_masks": masks})
    stages = {cell["pre"]: pre_config(file, cell, 1, Refs()) for cell in file.cells if has_stage(cell)}
    assert {level: stage.loss_mask for level, stage in stages.items()} == {**masks, "shuffled": "none"}
    assert "loss_masks" not in parsed().model_dump()["pre"], "a file's digest names its experiment, also of older ones"


def test_a_stage_has_its_model_otherwise_where_that_changes_no_tensor():
    again = {"first": 0, "last": 0, "times": 2}
    file = parsed(model={"repeat": again}, pre={"model": {"repeat": {"times": 0}, "dropout": 0.5}})
    [cell, *_] = [cell for cell in file.cells if has_stage(cell)]
    before = pre_config(file, cell, 1, Refs()).model
    assert (before.shape(9).repeat, before.dropout) == (None, 0.5)
    after = language_config(file, cell, 1, Refs(), source="m@1").model
    assert (after.shape(9).repeat.times, after.dropout) == (2, 0.0)
    assert "model" not in parsed().model_dump()["pre"], "a file's digest names its experiment, also of older ones"
    with pytest.raises(ExperimentError, match=r"pre.model.dim: would make it another model; allowed are attention, "):
        parsed(pre={"model": {"dim": 32}})


def test_every_shipped_experiment_reads():
    from tests.ray_fixtures import ROOT

    files = sorted((ROOT / "experiments").glob("*.toml"))
    assert {file.stem for file in files} >= {"smoke", "matrix-cpu", "paper", "slowrun"}
    for path in files:
        file = load_experiment(path)
        assert file.name == path.stem
        assert file.question
