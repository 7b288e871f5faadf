"""Assumption-free bounds on every mechanism, friendly and adversarial; Gaussian-family bounds inside their family."""

import math

import numpy as np
import pytest
from scipy.special import betaincinv

from dpaudit.estimation import play_shared_coordinates, reference, steinke
from dpaudit.estimation.guessing import correct_guesses
from dpaudit.estimation.sources import ArraySource
from dpaudit.gdp import gdp_epsilon

DELTA = 1e-5


def repeated(few, many):
    """Run with few trials by default, and with many under `-m slow`."""
    return pytest.mark.parametrize("trials", [few, pytest.param(many, marks=pytest.mark.slow)])


FREE = [("one-run", {}), ("one-run-fdp", {}), ("one-run-max", {})]
ALL_GUESSED = [(method, {"guesses": 300}) for method, _ in FREE]
BONFERRONI = [(method, {"threshold_selection": "bonferroni:8"}) for method, _ in FREE]

MECHANISMS = [
    pytest.param(reference.null(), DELTA, id="null"),
    pytest.param(reference.randomised_response(1.0), DELTA, id="randomised-response-1"),
    pytest.param(reference.randomised_response(4.0), DELTA, id="randomised-response-4"),
    pytest.param(reference.laplace(1.0), DELTA, id="laplace-1"),
    pytest.param(reference.laplace(4.0), DELTA, id="laplace-4"),
    pytest.param(reference.gaussian_of(2.0, DELTA), DELTA, id="gaussian-2"),
    pytest.param(reference.gaussian_of(8.0, DELTA), DELTA, id="gaussian-8"),
    pytest.param(reference.sampled_gaussian(0.5, 0.2), DELTA, id="sampled-gaussian"),
    pytest.param(reference.shared_magnitude(0.5), DELTA, id="shared-magnitude-0.5"),
    pytest.param(reference.shared_magnitude(1.7), DELTA, id="shared-magnitude-1.7"),
    pytest.param(reference.rare_channel(0.5), DELTA, id="rare-channel-0.5"),
    pytest.param(reference.rare_channel(1.7), DELTA, id="rare-channel-1.7"),
    pytest.param(reference.reveal(0.0, 1e-3, 300, 6), 1e-3, id="reveal-6-of-pure-0"),
    pytest.param(reference.reveal(1.0, 1e-3, 300, 5), 1e-3, id="reveal-5-of-pure-1"),
    pytest.param(reference.reveal(2.0, 1e-4, 300, 1), 1e-4, id="reveal-1-of-pure-2"),
]
CELLS = len(MECHANISMS) * 9


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize(("mechanism", "delta"), MECHANISMS)
def test_assumption_free_bounds_hold_everywhere(mechanism, delta, coverage, limit):
    trials = 2000
    found = coverage(mechanism, 300, delta, FREE, trials)
    assert found[:, 1].max() == 0  # never refused
    assert found[:, 0].max() <= limit(trials, CELLS)


@pytest.mark.slow
@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize(("mechanism", "delta"), MECHANISMS)
def test_assumption_free_bounds_hold_everywhere_in_many_trials(mechanism, delta, coverage, limit):
    trials = 10_000
    found = coverage(mechanism, 300, delta, [*FREE, *ALL_GUESSED, *BONFERRONI], trials, seed=7)
    assert found[:, 0].max() <= limit(trials, CELLS)


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("guesses", [6, 20, 300])
def test_revealed_coins_against_every_number_of_guesses(guesses, coverage, limit):
    """The worst (epsilon, delta) case: with probability 5 % as many coins are told as are guessed."""
    trials, told = 2000, min(guesses, 20)
    mechanism = reference.reveal(0.0, 0.05 * told / 300, 300, told)
    designs = [(method, {"guesses": guesses}) for method, _ in FREE]
    found = coverage(mechanism, 300, 0.05 * told / 300, designs, trials)
    assert found[:, 0].max() <= limit(trials, 9)


def test_the_harness_sees_a_bound_without_the_delta_term():
    """Control: the binomial bound without the delta term exceeds the truth on the mechanism above."""
    rng, mechanism, misses = np.random.default_rng(0), reference.reveal(0.0, 0.1 * 20 / 300, 300, 20), 0
    for _ in range(1000):
        correct = correct_guesses(ArraySource(mechanism.draw(300, rng)), 20, rng)
        rate = betaincinv(correct, 20 - correct + 1, 0.05) if correct else 0.0
        misses += rate > 0.5 and math.log(rate / (1 - rate)) > 0
    assert misses > 80


GAUSSIAN_FAMILY = [
    pytest.param(reference.null(), 0.0, id="null"),
    pytest.param(reference.gaussian(0.5), 0.5, id="gaussian-0.5"),
    pytest.param(reference.gaussian(1.7), 1.7, id="gaussian-1.7"),
    pytest.param(reference.shared_magnitude(0.5), 0.5, id="shared-magnitude-0.5"),
    pytest.param(reference.shared_magnitude(1.7), 1.7, id="shared-magnitude-1.7"),
    pytest.param(reference.rare_channel(0.5), 0.5, id="rare-channel-0.5"),
    pytest.param(reference.rare_channel(1.7), 1.7, id="rare-channel-1.7"),
]


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize(("mechanism", "mu"), GAUSSIAN_FAMILY)
def test_gaussian_curve_holds_inside_its_family(mechanism, mu, coverage, limit):
    trials = 2000
    assert mechanism.epsilon(DELTA) == pytest.approx(gdp_epsilon(mu, DELTA))
    designs = [("one-run-fdp", {"curve": "gaussian"}), ("one-run-fdp", {"curve": "gaussian", "guesses": 300})]
    found = coverage(mechanism, 300, DELTA, designs, trials)
    assert found[:, 0].max() <= limit(trials, 14)


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("mu", [0.5, 1.0, 1.7])
def test_independent_canaries_are_refused_on_a_shared_magnitude(mu, coverage):
    designs = [(method, {}) for method in ("independent-canaries", "mean-shift", "gdp", "clopper-pearson")]
    found = coverage(reference.shared_magnitude(mu), 300, DELTA, designs, 100)
    assert found[:, 1].min() == 100
    found = coverage(reference.rare_channel(mu), 300, DELTA, designs, 100)
    assert found[:, 1].min() == 100


@pytest.mark.parametrize("mu", [0.5, 1.7])
def test_hiding_the_shared_magnitude_does_not_help(mu, coverage):
    """A little noise on each score removes the ties; the shape still gives the mechanism away."""
    shared = reference.shared_magnitude(mu)
    hidden = reference.Mechanism(
        name="hidden-magnitude",
        scores=lambda bits, rng: shared.scores(bits, rng) + 1e-9 * rng.normal(size=bits.size),
        epsilon=shared.epsilon,
        independent=False,
    )
    designs = [(method, {}) for method in ("independent-canaries", "mean-shift", "gdp")]
    found = coverage(hidden, 300, DELTA, designs, 100)
    assert found[:, 1].min() == 100


def revealed_in_turn(mechanism_delta, told, rng, *, shared, coordinates, noise):
    """Sums of coordinates that hold several canaries; with the probability that delta allows, some coins are told.

    Telling is done by a noiseless sum of a coordinate: (0, delta) on top of the Gaussian mechanism.
    """
    coins = rng.random((coordinates, shared)) < 0.5
    sums = coins.sum(1) + noise * rng.normal(size=coordinates)
    if rng.random() < coins.size * mechanism_delta / (told * shared):
        rows = rng.choice(coordinates, told, replace=False)
        sums[rows] = coins[rows].sum(1)
    return coins, sums


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("shared", [1, 4])
@repeated(300, 4000)
def test_adaptive_reveal(shared, trials, limit):
    """Several canaries per coordinate, guessed one by one, each coin revealed after its guess (Keinan et al.)."""
    rng, wrong, delta = np.random.default_rng(shared), 0, 1e-3
    noise = 1 / reference.gdp_mu(2.0, DELTA)
    for _ in range(trials):
        coins, sums = revealed_in_turn(delta, 10, rng, shared=shared, coordinates=60, noise=noise)
        game = play_shared_coordinates(sums, coins, noise=noise, guesses=30)
        found = steinke.epsilon_lower_bound(
            canaries=game.canaries, guesses=30, correct=game.correct, delta=delta + DELTA
        )
        wrong += found > 2.0
    assert wrong <= limit(trials, 2)


def test_the_refused_numbers_would_have_been_wrong():
    """Control: without the refusal, the bounds that need independence exceed the truth far more than 5 %."""
    from dpaudit.estimation import estimate

    mechanism, rng = reference.shared_magnitude(1.0), np.random.default_rng(1)
    truth, wrong = mechanism.epsilon(DELTA), {"independent-canaries": 0, "mean-shift": 0, "gdp": 0}
    for _ in range(300):
        scores = mechanism.draw(300, rng)
        for method in wrong:
            guesses = 300 if method == "independent-canaries" else None
            bound = estimate(scores.member, scores.non_member, method=method, delta=DELTA, guesses=guesses)
            wrong[method] += bound.details["epsilon_if_assumed"] > truth
    assert min(wrong.values()) > 45
