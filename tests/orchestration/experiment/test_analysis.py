"""An experiment's analysis finds what was planted, claims nothing of what was not, and says what voids a claim."""

import math

import numpy as np
import pytest
from scipy import stats

from orchestration.experiment.analysis.analyse import analyse
from orchestration.experiment.analysis.compare import comparisons
from orchestration.experiment.analysis.curves import area, reaches
from orchestration.experiment.analysis.pairs import partner, short_labels
from orchestration.experiment.analysis.statistics import minimum_detectable_effect, t_bounds
from orchestration.experiment.report.markdown import to_markdown
from orchestration.experiment.report.page import render
from orchestration.experiment.result import Arm, Cost, CurvePoint
from orchestration.reports.curves import tokens_to_reach
from tests.orchestration.experiment.builder import PRE_TOKENS, TOKENS, arm_result, experiment, spoil

EXPERIMENTS = 100
PLANTED = experiment({"nca": -0.02, "shuffled": 0.0}, optimizers=("adamw", "muon"), interaction={("nca", "muon"): 0.02})


def one(analysis, label, family="baseline"):
    (found,) = [each for each in analysis.comparisons if each.label == label and each.family == family]
    return found


def test_a_planted_effect_is_found_where_it_is_and_nowhere_else():
    analysis = analyse(PLANTED)
    verdicts = {each.label: each.verdict for each in analysis.comparisons if each.family == "baseline"}
    assert verdicts == {
        "nca · adamw · adamw": "better",
        "shuffled · adamw · adamw": "no effect found",
        "nca · adamw · muon": "no effect found",
        "shuffled · adamw · muon": "no effect found",
    }
    found = one(analysis, "nca · adamw · adamw")
    assert found.reference == "none · adamw"
    assert found.difference.t.low < -0.02 < found.difference.t.high
    assert found.decided.level > 0.95
    assert found.p_corrected >= found.difference.p
    assert one(analysis, "nca · adamw · adamw", "control").against == "shuffled"
    assert analysis.verdict.startswith("Better than the baseline: nca → adamw (−0.0")
    assert "no effect found for shuffled → adamw, nca → muon, shuffled → muon" in analysis.verdict


def test_effects_of_factors_and_their_interaction():
    effects = {(each.factor, each.level, each.of): each for each in analyse(PLANTED).effects}
    assert effects["pre", "nca", None].estimate.mean == pytest.approx(-0.01, abs=0.003)
    assert effects["pre", "nca", None].cells == 2
    assert effects["optimizer", "muon", None].estimate.mean == pytest.approx(-0.1 + 0.02 / 3, abs=0.003)
    assert effects["optimizer", "muon", "nca"].estimate.mean == pytest.approx(0.02, abs=0.005)
    assert effects["optimizer", "muon", "shuffled"].estimate.mean == pytest.approx(0, abs=0.005)
    assert ("pre_optimizer", "adamw", None) not in effects


def test_whole_experiments_cover_the_truth_and_call_a_null_null():
    """Both optimisers' comparisons are one family of two; their true effects are -0.004 and 0."""
    covered, false, rng = 0, 0, np.random.default_rng(7)
    for _ in range(EXPERIMENTS):
        result = experiment(
            {"nca": -0.004}, optimizers=("adamw", "muon"), rng=rng, interaction={("nca", "muon"): 0.004}
        )
        adamw, muon = comparisons(result, [])
        covered += adamw.difference.t.low <= -0.004 <= adamw.difference.t.high
        false += muon.verdict != "no effect found"
    assert stats.binom.interval(0.999, EXPERIMENTS, 0.95)[0] <= covered
    assert false <= 0.06 * EXPERIMENTS


def test_a_void_claim_shows_its_numbers_and_is_counted_in_the_correction():
    unlearned = spoil(PLANTED, "nca", 2, gate=lambda arm: arm.gate.model_copy(update={"loss": 6.0, "learned": False}))
    analysis = analyse(unlearned)
    found = one(analysis, "nca · adamw · adamw")
    assert (found.verdict, found.decided) == ("void", None)
    assert found.difference.mean < -0.015
    assert "synthetic task not learned" in found.reasons[0]
    assert "no claim for nca → adamw, nca → muon, whose synthetic task was not learned" in analysis.verdict
    (summary,) = [each for each in analysis.arms if each.label == "nca · adamw · adamw"]
    assert summary.gate == "learned in 2 of 3"
    clean, spoiled = one(analyse(PLANTED), "shuffled · adamw · muon"), one(analysis, "shuffled · adamw · muon")
    assert spoiled.decided.level >= clean.decided.level


def test_an_arm_of_another_hash_is_refused_and_shows_no_number():
    analysis = analyse(spoil(PLANTED, "nca", 1, shared_hash="0" * 64))
    for label in ("nca · adamw · adamw", "nca · adamw · muon"):
        found = one(analysis, label)
        assert (found.verdict, found.difference, found.over_tokens, found.reaches) == ("refused", None, (), ())
        assert "shared_hash" in " ".join(found.reasons)
    assert one(analysis, "shuffled · adamw · muon").verdict == "no effect found"
    assert "may not be compared" in analysis.verdict
    assert not [each for each in analysis.effects if each.level == "nca"]


def test_a_refused_baseline_refuses_all_its_comparisons():
    analysis = analyse(spoil(PLANTED, "none", 1, checks=lambda arm: arm.checks | {"batch_sequences": 5}))
    assert {each.verdict for each in analysis.comparisons if each.family == "baseline"} == {"refused"}
    assert analysis.verdict.startswith("No verdict for")


@pytest.mark.parametrize("level", ["nca", "none"])
def test_a_failed_run_leaves_no_verdict_whatever_the_other_seeds_say(level):
    analysis = analyse(spoil(PLANTED, level, 3, status="failed", error="loss spiked", final_loss=None, curve=()))
    found = one(analysis, "nca · adamw · adamw")
    assert (found.verdict, found.difference.seeds, found.decided) == ("incomplete", (1, 2), None)
    assert "loss spiked" in " ".join(found.reasons)


def test_one_seed_gives_numbers_and_no_verdict():
    found = analyse(experiment({"nca": -0.5}, seeds=(1,))).comparisons[0]
    assert (found.verdict, found.difference.t) == ("incomplete", None)
    assert "more seeds" in found.reasons[0]
    assert found.over_tokens[-1].low is None


def test_a_win_that_a_control_shares_is_said():
    analysis = analyse(experiment({"nca": -0.02, "shuffled": -0.02}))
    assert one(analysis, "nca · adamw · adamw").verdict == "better"
    assert "nca was not shown to beat its control shuffled" in analysis.verdict


def test_what_the_seeds_could_find_is_said_beside_a_null():
    stated = minimum_detectable_effect(3, 0.002, source="pilot")
    analysis = analyse(experiment({"nca": 0.0}).model_copy(update={"minimum_detectable_effect": stated}))
    assert analysis.observed.sd == pytest.approx(analysis.comparisons[0].difference.sd)
    assert analysis.observed.effect == pytest.approx(stated.effect * analysis.observed.sd / 0.002)
    assert analysis.verdict.startswith("No effect found for nca (this design finds 0.0065 nats with power 0.8")


def test_the_analysis_survives_json_and_is_the_same_again():
    analysis = analyse(PLANTED)
    assert type(analysis).model_validate_json(analysis.model_dump_json()) == analysis == analyse(PLANTED)


def curve(*losses):
    return tuple(CurvePoint(step=at, tokens=100 * at, loss=loss) for at, loss in enumerate(losses, 1))


@pytest.mark.parametrize(
    ("losses", "target", "tokens"),
    [
        ((4.0, 3.0, 2.0), 2.5, 250.0),
        ((4.0, 3.0, 2.0), 3.0, 200.0),
        ((4.0, 3.0, 2.0), 1.9, None),
        ((4.0, 3.0, 2.0), 5.0, 100.0),
        ((4.0, 2.0, 3.0, 1.0), 2.5, 175.0),
    ],
)
def test_tokens_to_a_loss_are_interpolated_and_may_be_never(losses, target, tokens):
    assert tokens_to_reach([(point.tokens, point.loss) for point in curve(*losses)], target) == tokens


def test_area_is_the_mean_loss_over_tokens():
    assert area(curve(4.0, 3.0, 2.0)) == pytest.approx(3.0)
    uneven = (
        CurvePoint(step=1, tokens=0, loss=4),
        CurvePoint(step=2, tokens=300, loss=2),
        CurvePoint(step=3, tokens=400, loss=2),
    )
    assert area(uneven) == pytest.approx((3 * 300 + 2 * 100) / 400)


def test_speed_up_as_published_and_charged():
    base = arm_result({"pre": "none"}, 1, 3.2)
    fast = arm_result({"pre": "nca"}, 1, 3.2).model_copy(
        update={
            "curve": tuple(
                CurvePoint(step=step, tokens=tokens, loss=loss, seconds=seconds)
                for step, tokens, loss, seconds in ((50, TOKENS // 2, 3.2, 20.0), (100, TOKENS, 3.1, 50.0))
            ),
            "pre": Cost(tokens=PRE_TOKENS, flops=9e9, seconds=40.0),
        }
    )
    by_unit = {each.unit: each for each in reaches(fast, base)}
    assert by_unit["tokens"].speed_up == pytest.approx(2.0)
    assert by_unit["tokens"].speed_up_charged == pytest.approx(1 / 0.75)
    assert by_unit["flops"].speed_up_charged == pytest.approx(6 / (3 + 9))
    assert by_unit["seconds"].speed_up == pytest.approx(50 / 20)
    assert by_unit["seconds"].speed_up_charged == pytest.approx(50 / 60)
    slow = arm_result({"pre": "nca"}, 1, 3.3)
    assert [each.speed_up for each in reaches(slow, base)] == [None, None, None]
    assert reaches(slow.model_copy(update={"language": None}), base) == []


def test_a_partner_is_equal_in_all_that_applies_to_it():
    arms = PLANTED.arms
    nca = Arm(factors={"pre": "nca", "pre_optimizer": "adamw", "optimizer": "muon"}, seed=2)
    assert partner(arms, nca, "pre", "none").arm == Arm(
        factors={"pre": "none", "pre_optimizer": "-", "optimizer": "muon"}, seed=2
    )
    assert partner(arms, nca, "optimizer", "adamw").arm.factors["pre"] == "nca"
    assert partner(arms, nca, "pre", "dyck") is None
    assert partner(arms, nca.model_copy(update={"seed": 9}), "pre", "none") is None


def test_short_labels_keep_what_varies_and_stay_distinct():
    assert short_labels(PLANTED)["nca · adamw · muon"] == "nca → muon"
    assert short_labels(experiment({"nca": 0.0})) == {"none · adamw": "none", "nca · adamw · adamw": "nca"}


def test_losses_are_summarised_over_seeds():
    (summary, *_) = analyse(PLANTED).arms
    losses = [arm.final_loss for arm in PLANTED.arms[:3]]
    assert summary.loss == pytest.approx(np.mean(losses))
    assert summary.perplexity == pytest.approx(math.exp(np.mean(losses)))


def as_task(result, **changes):
    """The same experiment as if scored by accuracies: what was a loss x is an accuracy 4 - x, at every evaluation."""
    arms = tuple(
        arm.model_copy(
            update={
                "accuracy": 4 - arm.final_loss,
                "curve": tuple(point.model_copy(update={"accuracy": 4 - point.loss}) for point in arm.curve),
            }
        )
        for arm in result.arms
    )
    return result.model_copy(update={"arms": arms, "metric": "accuracy", **changes})


def test_accuracies_are_better_above_zero():
    analysis = analyse(as_task(PLANTED))
    found = one(analysis, "nca · adamw · adamw")
    assert found.verdict == "better"
    assert found.difference.t.low < 0.02 < found.difference.t.high
    assert analysis.verdict.startswith("Better than the baseline: nca → adamw (+0.0")
    assert "accuracy, 3 seeds" in analysis.verdict
    effects = {(each.factor, each.level, each.of): each for each in analysis.effects}
    assert effects["pre", "nca", None].estimate.mean == pytest.approx(0.01, abs=0.003)


def test_steps_to_an_accuracy_are_of_the_first_evaluation_there():
    result = as_task(PLANTED)
    found = {each.label: each for each in analyse(result).answers}["nca · adamw · adamw"]
    assert len(found.accuracies) == 3
    curve = next(arm for arm in result.arms if arm.arm.label == found.label and arm.arm.seed == 1).curve
    assert found.steps[0][0] == next((point.step for point in curve if point.accuracy >= 0.5), None)
    assert found.steps[2] == (None, None, None)
    assert analyse(PLANTED).answers == ()


def test_only_what_was_named_shares_the_error_rate():
    levels = {"nca": -0.02, "shuffled": -0.02, **{f"other{at}": 0.0 for at in range(8)}}
    result = experiment(levels, seeds=(1, 2, 3, 4), pair_sd=0.006)
    everything = one(analyse(result), "nca · adamw · adamw")
    named = analyse(result.model_copy(update={"primary": ("nca",)}))
    found = one(named, "nca · adamw · adamw")
    assert found.decided.level == pytest.approx(0.95)
    assert everything.decided.level > found.decided.level
    assert [each.label for each in named.comparisons if each.primary] == ["nca · adamw · adamw"]
    assert "comparisons are exploratory." in named.verdict
    control = analyse(result.model_copy(update={"primary": ("nca vs shuffled",)}))
    assert [(each.label, each.against) for each in control.comparisons if each.primary] == [
        ("nca · adamw · adamw", "shuffled")
    ]
    assert "nca against shuffled" in control.verdict or "nca" in control.verdict


def test_an_interval_within_the_margin_is_a_verdict():
    result = experiment({"nca": 0.0}, seeds=(1, 2, 3, 4, 5, 6), pair_sd=0.002)
    for margin, verdict in ((0.05, "within margin"), (0.0005, "no effect found"), (None, "no effect found")):
        assert one(analyse(result.model_copy(update={"margin": margin})), "nca · adamw · adamw").verdict == verdict
    said = analyse(result.model_copy(update={"margin": 0.05})).verdict
    assert said.startswith("Within ±0.05 nats per token of the baseline: nca (")


def test_equivalence_is_claimed_at_most_as_often_as_the_level_says():
    """Of a true difference that is the margin itself, at most alpha / 2 of intervals lie within."""
    rng = np.random.default_rng(2)
    values = rng.normal(0.01, 0.005, (20_000, 6))
    low, high = t_bounds(values, 0.05)
    inside = ((low > -0.01) & (high < 0.01)).sum()
    assert inside <= stats.binom.ppf(0.999, 20_000, 0.025)


def test_a_tasks_report_shows_its_answers():
    result = as_task(PLANTED)
    page = render(result, analyse(result))
    assert "<h2>Answers</h2>" in page
    assert "above zero is better" in page
    assert "steps to 90%" in to_markdown(result, analyse(result))
    assert "<h2>Answers</h2>" not in render(PLANTED, analyse(PLANTED))
