"""Looking several times keeps the level, the intervals of all looks cover at once, and a plan finds what it states."""

import numpy as np
import pytest
from scipy import stats

from orchestration.errors import ExperimentError
from orchestration.experiment.analysis.planner import assured_power, plan_pairs
from orchestration.experiment.analysis.sequential import look_alphas, spent
from orchestration.experiment.analysis.statistics import power_of_t_test, t_bounds, t_p_value


def stopped(differences: np.ndarray, looks: tuple[int, ...], alphas: tuple[float, ...]) -> np.ndarray:
    """bool [simulations]: rejected at any look."""
    found = np.zeros(len(differences), dtype=bool)
    for look, alpha in zip(looks, alphas, strict=True):
        found |= t_p_value(differences[:, :look]) <= alpha
    return found


def check_level(simulations: int, looks: tuple[int, ...], alpha: float, seed: int) -> None:
    differences = np.random.default_rng(seed).normal(0, 0.03, (simulations, looks[-1]))
    found = int(stopped(differences, looks, look_alphas(looks, alpha)).sum())
    assert found <= stats.binom.ppf(0.999, simulations, alpha)
    assert found >= 0.93 * stats.binom.ppf(0.001, simulations, alpha)  # some of it is lost to rounding down
    peeking = int(stopped(differences, looks, (alpha,) * len(looks)).sum())
    assert len(looks) == 1 or peeking > stats.binom.ppf(0.999, simulations, alpha)


def check_coverage(simulations: int, looks: tuple[int, ...], alpha: float, effect: float) -> None:
    differences = np.random.default_rng(11).normal(effect, 0.03, (simulations, looks[-1]))
    all_hold = np.ones(simulations, dtype=bool)
    for look, own in zip(looks, look_alphas(looks, alpha), strict=True):
        low, high = t_bounds(differences[:, :look], own)
        all_hold &= (low <= effect) & (effect <= high)
    assert stats.binom.ppf(0.001, simulations, 1 - alpha) <= all_hold.sum()


def check_plan(simulations: int, pilot_pairs: int, wanted: float) -> None:
    """Over pilots drawn anew: the mean probability that the planned pairs find the wanted effect."""
    rng = np.random.default_rng(pilot_pairs)
    found = []
    for sd in rng.normal(0, 0.03, (simulations, pilot_pairs)).std(axis=1, ddof=1):
        planned = plan_pairs(float(sd), pilot_pairs, wanted=wanted, most=200)
        found.append(power_of_t_test(wanted, planned.pairs, 0.03, 0.05) if planned.reached else 0.0)
    assert np.mean(found) > 0.8 - 3 * np.std(found) / np.sqrt(simulations) - 0.02


@pytest.mark.parametrize("looks", [(3, 6), (4, 8, 12), (8,)])
def test_looking_again_keeps_the_level(looks):
    check_level(20_000, looks, 0.05, 3)


def test_the_intervals_of_all_looks_cover_at_once():
    check_coverage(20_000, (4, 8, 12), 0.05, -0.02)


def test_one_look_is_the_plain_test_and_two_spend_it_all():
    assert look_alphas((8,), 0.05) == pytest.approx((0.05,), abs=2e-4)
    alphas = look_alphas((4, 8), 0.05)
    assert alphas[0] == pytest.approx(spent(0.5, 0.05), rel=0.05)
    assert alphas[0] < alphas[1] < 0.05
    assert spent(1.0, 0.05) == pytest.approx(0.05)


def test_stopping_early_saves_pairs_where_the_effect_is_large():
    looks, alphas = (4, 8, 12), look_alphas((4, 8, 12), 0.05)
    differences = np.random.default_rng(5).normal(-0.06, 0.03, (2000, 12))
    by_eight = stopped(differences, looks[:2], alphas[:2]).mean()
    assert by_eight > 0.9
    assert stopped(differences, looks, alphas).mean() > 0.99


def test_a_plan_finds_what_it_states_though_its_pilot_is_small():
    check_plan(60, 5, 0.03)


def test_a_plan_is_the_fewest_pairs_and_says_what_a_budget_finds():
    planned = plan_pairs(0.03, 6, wanted=0.03, most=100, comparisons=2)
    assert planned.reached
    assert assured_power(0.03, planned.pairs, 0.03, 6, 0.025) >= 0.8
    assert assured_power(0.03, planned.pairs - 1, 0.03, 6, 0.025) < 0.8
    short = plan_pairs(0.03, 6, wanted=0.005, most=8)
    assert (short.pairs, short.reached) == (8, False)
    assert assured_power(short.effect, 8, 0.03, 6, 0.05) == pytest.approx(0.8, abs=1e-3)
    assert "8 pairs, the most that the budget has" in short.say("nats")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: look_alphas((), 0.05), "looks"),
        (lambda: look_alphas((1, 2), 0.05), "looks"),
        (lambda: look_alphas((4, 4), 0.05), "looks"),
        (lambda: look_alphas((4, 2000), 0.05), "1000"),
        (lambda: look_alphas((4, 8), 1.0), "alpha"),
        (lambda: plan_pairs(0.0, 5, wanted=0.1, most=9), "sd"),
        (lambda: plan_pairs(0.1, 2, wanted=0.1, most=9), "pilot_pairs"),
        (lambda: plan_pairs(0.1, 5, wanted=0.0, most=9), "wanted"),
        (lambda: plan_pairs(0.1, 5, wanted=0.1, most=1), "most"),
        (lambda: plan_pairs(0.1, 5, wanted=0.1, most=9, power=0.01), "power"),
    ],
)
def test_what_is_no_design_is_refused(call, says):
    with pytest.raises(ExperimentError, match=says):
        call()


@pytest.mark.soak
@pytest.mark.parametrize("looks", [(2, 4, 6), (3, 6, 9, 12), (5, 10, 20), (8, 12, 16, 20, 24)])
def test_levels_coverage_and_power_over_many_simulations(looks):
    check_level(200_000, looks, 0.05, 17)
    check_level(200_000, looks, 0.0125, 18)
    check_coverage(200_000, looks, 0.05, 0.01)
    check_plan(1000, looks[0] + 1, 0.03)
