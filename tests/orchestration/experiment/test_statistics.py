"""Intervals cover at the rate they state, the correction keeps the family's error, and a stated effect is found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orchestration.errors import ExperimentError
from orchestration.experiment.analysis.statistics import (
    bootstrap_bounds,
    estimate,
    holm,
    minimum_detectable_effect,
    power_of_t_test,
    t_bounds,
    t_p_value,
)

SIMULATIONS = 1000


def within(hits: int, rate: float, of: int = SIMULATIONS) -> bool:
    """Whether so many hits are credible for the rate: inside the binomial's central 99.9 %."""
    low, high = stats.binom.interval(0.999, of, rate)
    return low <= hits <= high


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("effect", [0.0, -0.02])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_t_interval_covers_at_its_level(seeds, effect, level):
    differences = np.random.default_rng(seeds).normal(effect, 0.01, (SIMULATIONS, seeds))
    low, high = t_bounds(differences, 1 - level)
    assert within(int(((low <= effect) & (effect <= high)).sum()), level)


def test_the_percentile_bootstrap_of_three_pairs_covers_too_rarely_to_decide():
    """Which is why it decides nothing: it is 95 % on paper only; with fifty pairs it would do."""
    rng = np.random.default_rng(0)
    covered = {}
    for seeds in (3, 50):
        low, high = bootstrap_bounds(rng.normal(0, 1, (SIMULATIONS, seeds)), 0.05)
        covered[seeds] = ((low <= 0) & (high >= 0)).mean()
    assert covered[3] < 0.85
    assert covered[50] == pytest.approx(0.94, abs=0.02)


def test_the_bootstrap_agrees_with_scipy():
    differences = np.random.default_rng(4).normal(0, 1, 8)
    theirs = stats.bootstrap((differences,), np.mean, method="percentile", rng=np.random.default_rng(1))
    assert bootstrap_bounds(differences, 0.05) == pytest.approx(tuple(theirs.confidence_interval), abs=0.03)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("arms", [1, 6])
def test_a_family_of_nulls_is_called_null(seeds, arms):
    """Arms share their baseline's noise, as in an experiment; at least one false finding in at most alpha of all."""
    rng = np.random.default_rng(arms * 10 + seeds)
    noise = rng.normal(0, 1, (SIMULATIONS, arms + 1, seeds))
    p_values = t_p_value(noise[:, 1:] - noise[:, :1])
    found = sum(any(p <= a for p, a in zip(row, holm(row, 0.05)[1], strict=True)) for row in p_values.tolist())
    assert found <= stats.binom.ppf(0.999, SIMULATIONS, 0.05)
    assert found <= 0.06 * SIMULATIONS


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("comparisons", [1, 6])
def test_the_stated_effect_is_found_as_often_as_stated(seeds, comparisons):
    stated = minimum_detectable_effect(seeds, 0.01, power=0.8, comparisons=comparisons)
    rng = np.random.default_rng(seeds)
    differences = rng.normal(-stated.effect, 0.01, (SIMULATIONS, seeds))
    low, high = t_bounds(differences, 0.05 / comparisons)
    assert within(int(((low > 0) | (high < 0)).sum()), 0.8)
    assert power_of_t_test(stated.effect, seeds, 0.01, 0.05 / comparisons) == pytest.approx(0.8, abs=1e-6)


def test_the_stated_effect_agrees_with_a_published_table():
    """Cohen 1988, table 2.3.5 through one-sample d: n = 10, two-sided .05, power .80 needs d = 1.00 (0.996)."""
    assert minimum_detectable_effect(10, 1.0).effect == pytest.approx(0.996, abs=0.002)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 0.1), "seeds = 1"),
        ((3, 0.0), "sd_of_paired_difference"),
        ((3, float("nan")), "sd_of_paired_difference"),
        ((3, 0.1, 0.05, 1.0), "power"),
    ],
)
def test_what_is_no_design_is_refused(arguments, message):
    with pytest.raises(ExperimentError, match=message):
        minimum_detectable_effect(*arguments)


def test_an_estimate_agrees_with_scipy():
    differences = {3: -0.011, 1: -0.02, 2: -0.013, 7: 0.002}
    found = estimate(differences, 0.05)
    theirs = stats.ttest_1samp([differences[seed] for seed in found.seeds], 0.0)
    assert found.seeds == (1, 2, 3, 7)
    assert found.p == pytest.approx(theirs.pvalue)
    interval = theirs.confidence_interval(0.95)
    assert (found.t.low, found.t.high) == pytest.approx((interval.low, interval.high))
    assert found.bootstrap.low >= -0.02
    assert found == estimate(dict(reversed(differences.items())), 0.05)


def test_an_estimate_of_one_pair_claims_nothing():
    found = estimate({1: -0.5}, 0.05)
    assert (found.mean, found.sd, found.t, found.bootstrap, found.p) == (-0.5, None, None, None, None)
    assert estimate({}, 0.05) is None


@pytest.mark.parametrize(("value", "p"), [(0.0, 1.0), (-0.1, 0.0)])
def test_equal_differences_have_a_p_value_and_an_interval(value, p):
    found = estimate({1: value, 2: value, 3: value}, 0.05)
    assert found.p == pytest.approx(p, abs=1e-12)
    assert found.t.low == pytest.approx(value) == found.bootstrap.high


@given(st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_holm_rejects_where_the_interval_at_its_alpha_excludes_zero(p_values, alpha):
    adjusted, alphas = holm(p_values, alpha)
    known = sorted(p for p in p_values if p is not None)
    rejected = 0
    while rejected < len(known) and known[rejected] <= alpha / (len(p_values) - rejected):
        rejected += 1
    for p, corrected, own in zip(p_values, adjusted, alphas, strict=True):
        assert alpha / len(p_values) <= own <= alpha
        if p is None:
            assert corrected is None
        else:
            by_step_down = any(p == each for each in known[:rejected])
            assert (p <= own) == by_step_down
            assert p <= corrected <= 1
            assert (corrected <= alpha * (1 + 1e-12)) >= by_step_down
