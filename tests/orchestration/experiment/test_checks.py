"""Deliberate sabotage of an experiment is caught, and the arm, the check and the value are named."""

import copy
import re

import pytest

from orchestration.experiment.analysis.analyse import analyse
from orchestration.experiment.analysis.checks import EQUAL, check_arms
from orchestration.experiment.config.shared import differences, shared_hash
from orchestration.experiment.report.markdown import to_markdown
from orchestration.experiment.result import Gate, LabelCheck, SweepTrial
from tests.orchestration.experiment.builder import LEAVE_OUT, experiment, spoil

CLEAN = experiment({"nca": -0.02, "shuffled": 0.0}, optimizers=("adamw", "muon"))


def checks(**changed):
    return lambda arm: arm.checks | changed


def config(**changed):
    """The configuration with changed fields, and everything that is honestly derived from it."""

    def change(arm):
        new = copy.deepcopy(arm.config)
        for path, value in changed.items():
            *tables, last = path.split("__")
            table = new
            for name in tables:
                table = table[name]
            table[last] = value
        return new

    return {"config": change, "shared_hash": lambda arm: shared_hash(change(arm), LEAVE_OUT)}


def test_a_clean_experiment_has_no_problem():
    assert check_arms(CLEAN) == []


# (what is done to the arms nca of seed 2, the check that must name it, what must be shown as found)
SABOTAGE = {
    "another batch size": (
        {**config(batch_sequences=32), "checks": checks(batch_sequences=32)},
        "batch_sequences",
        "32",
    ),
    "another batch size, seen in the hash": (
        {**config(batch_sequences=32), "checks": checks(batch_sequences=32)},
        "shared_hash",
        "batch_sequences 32 against 16",
    ),
    "a batch size other than configured": ({"checks": checks(batch_sequences=32)}, "batch_sequences", "32"),
    "another schedule": (
        {**config(schedule__name="linear"), "checks": checks(schedule='{"name":"linear"}')},
        "schedule",
        "linear",
    ),
    "a schedule that only the hash shows": (
        config(schedule__warmup_steps=0),
        "shared_hash",
        "schedule.warmup_steps 0 against 10",
    ),
    "another weight decay": (
        config(optimizer__weight_decay=0.0),
        "shared_hash",
        "optimizer.weight_decay 0.0 against 0.1",
    ),
    "a configuration changed after the run": (
        {"config": config(batch_sequences=16, model__width=128)["config"]},
        "shared_hash",
        "recorded",
    ),
    "another epoch count": ({"checks": checks(epochs=1.6)}, "epochs", "1.6"),
    "another length": ({"checks": checks(steps=200), "config": config(steps=200)["config"]}, "steps", "200"),
    "another averaging window": ({"checks": checks(averaging='{"name":"late"}')}, "averaging", "late"),
    "another evaluation set": ({"checks": checks(eval_digest="d" * 64)}, "eval_digest", "ddd"),
    "fewer evaluation sequences": ({"checks": checks(eval_sequences=8)}, "eval_sequences", "8"),
    "another parameter count": ({"checks": checks(parameters=99)}, "parameters", "99"),
    "another data order": ({"checks": checks(plan_digest="plan of seed 7")}, "plan_digest", "seed 7"),
    "another sequence length": ({"checks": checks(seq_len=128)}, "seq_len", "128"),
    "more trials of the rate": ({"checks": checks(lr_trials=9)}, "lr_trials", "9"),
    "a check of the runner's own": ({"checks": checks(precision="bf16")}, "precision", "bf16"),
    "trained from another seed": (config(seed=9), "seed_pairing", "training seed 9"),
    "trained from another pair's seed": (config(seed=1), "seed_pairing", "training seed 1"),
    "the run of another seed": ({"run": "arm-nca-adamw-adamw-1"}, "seed_pairing", "arm-nca-adamw-adamw-1"),
    "labels shifted in training": (
        {"labels": LabelCheck(same=0.1, next=9.0, after_next=8.0, sequences=32)},
        "labels",
        "the same token",
    ),
    "labels shifted by two in training": (
        {"labels": lambda arm: LabelCheck(same=9.0, next=5.0, after_next=arm.final_loss, sequences=32)},
        "labels",
        "after next",
    ),
    "labels shifted in evaluation": (
        {"labels": lambda arm: LabelCheck(same=8.0, next=1.0, after_next=arm.final_loss, sequences=32)},
        "labels",
        "final loss",
    ),
    "no check of the labels": ({"labels": None}, "labels", "not recorded"),
    "nothing learned before": (
        {"gate": lambda arm: arm.gate.model_copy(update={"loss": 5.7, "learned": False})},
        "gate",
        "5.7",
    ),
    "a gate that contradicts itself": (
        {"gate": lambda arm: arm.gate.model_copy(update={"learned": False})},
        "gate",
        "not learned",
    ),
    "a gate said to be passed above its level": (
        {"gate": lambda arm: arm.gate.model_copy(update={"loss": 6.0})},
        "gate",
        "6.0",
    ),
    "no gate": ({"gate": None}, "gate", "not recorded"),
    "a curve without its tail": ({"curve": lambda arm: arm.curve[:-2]}, "curve_tail", "step 80"),
    "a curve with a hole": ({"curve": lambda arm: arm.curve[:4] + arm.curve[5:]}, "evaluations", "40, 60"),
    "a step twice": ({"curve": lambda arm: (*arm.curve[:5], *arm.curve[4:])}, "curve", "step 50 twice"),
    "steps out of order": (
        {"curve": lambda arm: (*arm.curve[4:8], *arm.curve[:4], *arm.curve[8:])},
        "curve",
        "step 10 ",
    ),
    "no curve": ({"curve": ()}, "curve", "0 evaluations"),
    "a final loss from elsewhere": ({"final_loss": 3.0}, "final_loss", "3.0"),
    "the best loss on the way for the final one": (
        {"final_loss": lambda arm: arm.final_loss - 0.01},
        "final_loss",
        "3.",
    ),
    "a cost of another run": (
        {"language": lambda arm: arm.language.model_copy(update={"tokens": 7})},
        "tokens",
        "102400",
    ),
    "a failed arm": ({"status": "failed", "error": "loss spiked at step 31"}, "status", "loss spiked"),
    "a missing arm": ({"status": "missing"}, "status", "missing"),
    "longer pre-pre-training": ({"pre": lambda arm: arm.pre.model_copy(update={"tokens": 9})}, "pre_tokens", "9"),
    "pre-pre-training not charged": ({"pre": None}, "pre_cost", "not recorded"),
    "a rate at the edge of its sweep": (
        {"sweep": (SweepTrial(rate=0.1, loss=3.0), SweepTrial(rate=0.01, loss=4.0))},
        "sweep_edge",
        "0.1",
    ),
    "no configuration": ({"config": {}, "shared_hash": ""}, "config", "not recorded"),
}
EFFECTS = {"gate": "void", "status": "incomplete", "pre_tokens": "warned", "pre_cost": "warned", "sweep_edge": "warned"}


@pytest.mark.parametrize("name", SABOTAGE)
def test_sabotage_of_one_arm_is_caught_and_named(name):
    changes, check, found = SABOTAGE[name]
    spoiled = spoil(CLEAN, "nca", 2, **changes)
    problems = check_arms(spoiled)
    assert {problem.arm for problem in problems} <= {"nca · adamw · adamw, seed 2", "nca · adamw · muon, seed 2"}
    named = [problem for problem in problems if problem.check == check and found in problem.found]
    assert named, [str(problem) for problem in problems]
    for problem in named:
        assert problem.expected
        assert problem.message
        assert problem.effect == EFFECTS.get(check, "refused")
    analysis = analyse(spoiled)
    verdicts = {each.verdict for each in analysis.comparisons if each.factors["pre"] == "nca"}
    effects = {problem.effect for problem in problems}
    worst = next((effect for effect in ("refused", "incomplete", "void") if effect in effects), None)
    assert verdicts == {worst} if worst else "better" in verdicts
    report = re.sub(r"\\(.)", r"\1", to_markdown(spoiled, analysis))
    assert all(str(problem) in report for problem in problems)


@pytest.mark.parametrize("check", EQUAL)
def test_a_check_that_was_not_recorded_is_no_agreement(check):
    spoiled = spoil(CLEAN, "nca", None, checks=lambda arm: {k: v for k, v in arm.checks.items() if k != check})
    assert {problem.check for problem in check_arms(spoiled)} == {check}


def test_the_baseline_is_named_when_it_is_the_one_that_differs():
    spoiled = spoil(CLEAN, "none", 3, checks=checks(eval_digest="d" * 64))
    assert {problem.arm for problem in check_arms(spoiled)} == {"none · adamw, seed 3", "none · muon, seed 3"}


def test_pairs_that_are_incomplete_or_double_are_named():
    without = CLEAN.model_copy(update={"arms": CLEAN.arms[1:]})
    found = [(problem.arm, problem.effect) for problem in check_arms(without) if problem.check == "seed_pairing"]
    assert ("none · adamw", "incomplete") in found
    assert ("nca · adamw · adamw, seed 1", "incomplete") in found
    double = CLEAN.model_copy(update={"arms": (*CLEAN.arms, CLEAN.arms[4])})
    assert [problem.arm for problem in check_arms(double)] == [CLEAN.arms[4].name]


def test_one_observation_under_two_seeds_is_named():
    first = next(arm for arm in CLEAN.arms if arm.arm.factors["pre"] == "nca")
    copied = spoil(CLEAN, "nca", 2, curve=first.curve, final_loss=first.final_loss, labels=first.labels)
    assert {problem.check for problem in check_arms(copied)} == {"seed_pairing"}
    shared_pre = spoil(CLEAN, "nca", None, gate=first.gate)
    assert {(problem.check, problem.effect) for problem in check_arms(shared_pre)} == {("pre_run", "warned")}


def test_a_factor_may_change_what_it_is_there_to_change():
    changed = spoil(CLEAN, "nca", None, checks=checks(epochs=0.4))
    assert {problem.check for problem in check_arms(changed)} == {"epochs"}
    assert check_arms(changed.model_copy(update={"factor_sets": {"pre": ("epochs",)}})) == []


def test_a_model_too_weak_to_show_shifted_labels_is_said_and_not_refused():
    weak = spoil(CLEAN, "nca", 1, labels=LabelCheck(same=3.18, next=3.19, after_next=3.2, sequences=32))
    assert {(problem.check, problem.effect) for problem in check_arms(weak)} == {("labels", "warned")}


@pytest.mark.parametrize(
    ("same", "after_next", "effect"),
    [
        (2.45, 2.55, "warned"),  # it counts which tokens a sequence shows, and was shown the token it read
        (0.01, 2.55, "refused"),  # it copies
        (2.51, 1.40, "refused"),  # it answers one token too late
        (2.60, 2.55, None),
    ],
)
def test_a_tasks_model_may_be_surer_of_the_token_read_but_may_not_copy_it(same, after_next, effect):
    labels = LabelCheck(same=same, next=2.52, after_next=after_next, sequences=32)
    counting = spoil(CLEAN, "nca", 1, labels=labels, final_loss=2.52, accuracy=0.35)
    assert {each.effect for each in check_arms(counting) if each.check == "labels"} == ({effect} if effect else set())
    text = spoil(CLEAN, "nca", 1, labels=labels, final_loss=2.52)
    assert {each.effect for each in check_arms(text) if each.check == "labels"} == ({"refused"} if effect else set())


def test_a_control_without_gate_is_no_problem():
    gate = Gate(learned=False, loss=9.0, unigram_entropy=5.0, dataset="shuffled@1", run="x")
    controls = spoil(CLEAN, "shuffled", 1, gate=gate)
    assert check_arms(controls) == []


def test_where_sequences_show_no_frames_the_gate_is_what_counting_costs():
    """A row of few answers has an entropy that no model could pay, which had not seen the row before."""
    counting = {"loss": 1.40, "unigram_entropy": 1.34, "learned": True}
    learned = spoil(CLEAN, "nca", 1, gate=lambda arm: arm.gate.model_copy(update=counting | {"counting": 1.74}))
    assert check_arms(learned) == []
    failed = {"loss": 1.75, "learned": False, "counting": 1.74}
    problems = check_arms(spoil(CLEAN, "nca", 1, gate=lambda arm: arm.gate.model_copy(update=failed)))
    assert {(each.effect, each.expected) for each in problems} == {("void", "under what counting costs 1.7400")}


def ends_at_the_final_loss(arm):
    return (*arm.curve[:-1], arm.curve[-1].model_copy(update={"loss": 2.8161}))


@pytest.mark.parametrize(("error", "refused"), [(0.0, True), (0.02, False), (0.01, True)])
def test_a_loss_over_some_rows_may_depart_from_that_over_all_by_its_own_error(error, refused):
    """Who counts predicts the token read and the next one nearly alike: chance alone decided which was nearer."""
    labels = LabelCheck(same=2.8465, next=2.7640, after_next=2.91, sequences=64, error=error)
    final = {"final_loss": 2.8161, "accuracy": 0.39}
    found = spoil(CLEAN, "nca", 1, labels=labels, curve=ends_at_the_final_loss, **final)
    assert [each.check for each in check_arms(found) if each.effect == "refused"] == (["labels"] * 2 if refused else [])


def test_differences_of_configurations_go_by_dotted_path():
    one = {"a": {"b": [1, 2], "c": {}}, "seed": 1}
    other = {"a": {"b": [1, 3]}, "seed": 2}
    assert differences(one, other, ("seed",)) == {"a.b.1": (2, 3), "a.c": ({}, None)}
    assert shared_hash(one, ("seed", "a.c")) == shared_hash(one | {"seed": 5}, ("seed", "a.c"))
