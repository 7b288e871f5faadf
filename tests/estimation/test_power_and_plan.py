import math

import numpy as np
import pytest

from dpaudit.errors import UsageError
from dpaudit.estimation import (
    METHODS,
    estimate,
    perfect_attack,
    plan_audit,
    plan_per_step,
    reference,
    simulated_power,
)
from dpaudit.estimation.power import per_step_power
from dpaudit.records import Family

DELTA = 1e-5


def power(mechanism, canaries, method="one-run-max", trials=100, seed=0, claim=1.0, **options):
    return simulated_power(
        lambda rng: mechanism.draw(canaries, rng),
        claim_epsilon=claim,
        factor=4.0,
        alternative_epsilon=mechanism.epsilon(DELTA),
        method=method,
        delta=DELTA,
        trials=trials,
        seed=seed,
        **options,
    )


def test_power_grows_with_the_canaries_and_is_repeatable():
    mechanism = reference.gaussian_of(4.0, DELTA)
    results = [power(mechanism, m) for m in (50, 300, 3000)]
    assert [r.power for r in results] == sorted(r.power for r in results)
    assert results[0].power < 0.5 < results[2].power
    assert power(mechanism, 300) == results[1]
    low, high = results[1].power_ci
    assert low < results[1].power < high
    assert results[1].family is Family.ASSUMPTION_FREE
    assert (results[1].trials, results[1].claim_epsilon, results[1].alternative_epsilon) == (
        100,
        1.0,
        pytest.approx(4.0),
    )


def test_a_true_claim_is_rarely_refuted():
    assert power(reference.gaussian_of(1.0, DELTA), 1000).power <= 0.05


def test_power_uses_the_options_of_the_audit():
    mechanism = reference.gaussian_of(4.0, DELTA)
    assert power(mechanism, 1000, guesses=150).power > power(mechanism, 1000, guesses=1000).power


def test_largest_certifiable_epsilon():
    bound = perfect_attack(500, 500, method="one-run", delta=0.0, guesses=100)
    assert bound.epsilon == pytest.approx(-math.log(0.05 ** (-1 / 100) - 1), abs=1e-6)
    bound = perfect_attack(500, 500, method="clopper-pearson", delta=DELTA, guesses=1)
    assert bound.epsilon == pytest.approx(4.905584135932773, rel=1e-9)
    bound = perfect_attack(50, 50, method="mean-shift", delta=DELTA)
    assert bound.epsilon is None
    assert "distances" in bound.reason
    bound = perfect_attack(500, 500, method="independent-canaries", delta=DELTA)
    assert bound.epsilon > 5


@pytest.mark.parametrize("method", [m for m in METHODS if m != "bayes"])
def test_plan_reaches_the_power(method):
    plan = plan_audit(claim_epsilon=1.0, delta=DELTA, method=method, factor=6.0, power=0.7, trials=60, seed=1)
    assert plan.canaries is not None
    assert plan.result.power >= 0.7
    if method.startswith("one-run"):
        interest = plan.interest_epsilon
        mechanism = reference.gaussian_of(6.0, DELTA)
        again = power(mechanism, plan.canaries, method=method, seed=99, interest_epsilon=interest)
        assert again.power > 0.5
        scores = mechanism.draw(plan.canaries, np.random.default_rng(0))
        options = {"method": method, "delta": DELTA, "interest_epsilon": interest}
        assert estimate(scores.member, scores.non_member, **options).guesses == plan.guesses


def test_copies_of_a_canary_help_little_more_than_they_cost():
    """Three copies: the scores part more, and the bound is divided by three."""
    options = {"claim_epsilon": 1.0, "delta": DELTA, "method": "mean-shift", "factor": 4.0, "trials": 60}
    one, three = plan_audit(**options), plan_audit(**options, group_size=3)
    assert three.canaries <= 1.1 * one.canaries
    game = plan_audit(**{**options, "method": "one-run"}, group_size=3)
    assert game.result.power >= 0.8
    scores = reference.gaussian(3 * reference.gdp_mu(4.0, DELTA)).draw(game.canaries, np.random.default_rng(0))
    found = estimate(
        scores.member, scores.non_member, method="one-run", delta=DELTA, interest_epsilon=4.0, group_size=3
    )
    assert found.guesses == game.guesses


NOISES = {"claimed_noise_multiplier": 2.0, "actual_noise_multiplier": 1.6}


def test_plan_of_the_per_step_audit_reaches_its_power():
    plan = plan_per_step(claim_epsilon=1.0, delta=DELTA, factor=1.3, trials=100, **NOISES)
    again = per_step_power(plan.canaries, claim_epsilon=1.0, factor=1.3, delta=DELTA, trials=300, seed=7, **NOISES)
    assert plan.result.power >= 0.8
    assert again.power > 0.65
    assert again.largest_certifiable_epsilon is None
    assert again.reason
    true = per_step_power(
        plan.canaries, claim_epsilon=1.0, factor=1.3, delta=DELTA, trials=300, seed=8,
        claimed_noise_multiplier=2.0, actual_noise_multiplier=2.0,
    )  # fmt: skip
    assert true.power < 0.1
    out_of_reach = plan_per_step(claim_epsilon=1.0, delta=DELTA, factor=1.3, trials=20, max_observations=50, **NOISES)
    assert out_of_reach.canaries is None
    assert "50 canaries" in out_of_reach.reason


def test_plan_says_when_the_power_is_out_of_reach():
    plan = plan_audit(claim_epsilon=4.0, delta=DELTA, method="one-run", max_canaries=500, trials=30)
    assert plan.canaries is None
    assert "500 canaries" in plan.reason
    assert plan.result.power < 0.8


IMPOSSIBLE = [
    {"factor": 1.0},
    {"group_size": 0},
    {"power": 1.0},
    {"claim_epsilon": 0.0},
    {"method": "x"},
    {"delta": 0.0},
]


@pytest.mark.parametrize("options", IMPOSSIBLE)
def test_impossible_plans_are_refused(options):
    with pytest.raises(UsageError):
        plan_audit(**{"claim_epsilon": 1.0, "delta": DELTA, "method": "one-run", **options})
