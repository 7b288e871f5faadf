"""Anytime-valid tests: looking after every pair must not raise the error."""

import numpy as np
import pytest
from scipy.stats import laplace, norm

from dpaudit.estimation import ClaimTest, GuessTest, PairTest, anytime_epsilon, confidence_sequence, spend, steinke
from dpaudit.gdp import gdp_delta


def repeated(few, many):
    """Run with few trials by default, and with many under `-m slow`."""
    return pytest.mark.parametrize("trials", [few, pytest.param(many, marks=pytest.mark.slow)])


def pairs(rng, n, sigma, threshold):
    included, excluded = 1 + sigma * rng.normal(size=n), sigma * rng.normal(size=n)
    return (included > threshold).astype(float), (excluded > threshold).astype(float)


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize(("epsilon", "threshold"), [(0.0, 0.5), (1.0, 1.5), (3.0, 3.5)])
@repeated(1000, 5000)
def test_pair_test_at_the_boundary(epsilon, threshold, trials, limit):
    """Gaussian mechanism, sigma 1, the event at which (epsilon, delta(epsilon)) is attained: the worst true claim."""
    rng = np.random.default_rng(0)
    delta = gdp_delta(epsilon, 1.0)
    wrong = 0
    for _ in range(trials):
        test = PairTest(epsilon=epsilon, delta=delta)
        test.update(*pairs(rng, 3000, 1.0, threshold))
        wrong += test.refuted(0.05)
    assert wrong <= limit(trials, 3)


@pytest.mark.statistical(failure_probability=1e-6)
@repeated(120, 2000)
def test_claim_test_of_a_true_profile(trials, limit):
    rng, wrong = np.random.default_rng(1), 0
    points = [(4.377, 1e-5), *((e, gdp_delta(e, 1.0)) for e in (0.0, 0.5, 1.0, 2.0))]
    for _ in range(trials):
        test = ClaimTest(points=points)
        for _ in range(10):
            test.update(*pairs(rng, 200, 1.0, 0.5))
        wrong += test.refuted(0.05)
    assert wrong <= limit(trials)


def test_claim_test_finds_half_the_noise_soon_and_names_the_points():
    rng, counts = np.random.default_rng(2), []
    points = [(4.377, 1e-5), *((e, gdp_delta(e, 1.0)) for e in (0.0, 0.5, 1.0, 2.0))]
    for _ in range(20):
        test, n = ClaimTest(points=points), 0
        while not test.refuted(0.05) and n < 5000:
            test.update(*pairs(rng, 10, 0.5, 0.5))
            n += 10
        counts.append(n)
    assert np.median(counts) <= 150  # at the claimed point alone it takes about 12,000
    test.update(*pairs(rng, 2000, 0.5, 0.5))
    refuted = test.refuted_points(0.05)
    assert (0.0, gdp_delta(0.0, 1.0)) in refuted
    assert points[0] not in refuted


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("p", [0.01, 0.3, 0.5])
@repeated(300, 2000)
def test_confidence_sequence_holds_at_all_times(p, trials, limit):
    rng, wrong = np.random.default_rng(3), 0
    for _ in range(trials):
        total = np.cumsum(rng.random(2000) < p)
        for n in np.unique(np.geomspace(1, 2000, 25).astype(int)):
            low, high = confidence_sequence(int(total[n - 1]), int(n), 0.05)
            if not low <= p <= high:
                wrong += 1
                break
    assert wrong <= limit(trials, 3)


@pytest.mark.statistical(failure_probability=1e-6)
@repeated(150, 2000)
def test_anytime_epsilon_on_laplace(trials, limit):
    rng, wrong, last = np.random.default_rng(4), 0, []
    q, p = laplace.sf(1.0), laplace.sf(0.0)
    for _ in range(trials):
        x, y = np.cumsum(rng.random(3000) < p), np.cumsum(rng.random(3000) < q)
        looks = [
            anytime_epsilon(
                x_successes=int(x[n - 1]), y_successes=int(y[n - 1]), x_trials=int(n), y_trials=int(n), delta=0.0
            )
            for n in np.geomspace(10, 3000, 15).astype(int)
        ]
        wrong += max(looks) > 1.0
        last.append(looks[-1])
    assert wrong <= limit(trials)
    assert np.mean(last) > 0.75


@pytest.mark.statistical(failure_probability=1e-6)
@repeated(1000, 5000)
def test_guess_test_of_randomised_response(trials, limit):
    rng, q = np.random.default_rng(5), 1 / (1 + np.exp(-1.0))
    wrong = found = 0
    for _ in range(trials):
        test = GuessTest(epsilon=1.0)
        test.update(rng.random(1000) < q)
        wrong += test.refuted(0.05)
        test = GuessTest(epsilon=1.0)
        test.update(rng.random(1000) < norm.cdf(1.0))
        found += test.refuted(0.05)
    assert wrong <= limit(trials)
    assert found > 0.95 * trials


@pytest.mark.statistical(failure_probability=1e-6)
@repeated(300, 3000)
def test_error_over_all_releases(trials, limit):
    """Six releases of randomised response, each audited at the share of the error that `spend` gives it."""
    rng, q, m, wrong = np.random.default_rng(6), 1 / (1 + np.exp(-1.0)), 400, 0
    for _ in range(trials):
        correct = rng.binomial(m, q, size=6)
        bounds = [
            steinke.epsilon_lower_bound(canaries=m, guesses=m, correct=int(v), delta=0.0, error=spend(0.05, k))
            for k, v in enumerate(correct, start=1)
        ]
        wrong += max(bounds) > 1.0
    assert wrong <= limit(trials)
    assert sum(spend(0.05, k) for k in range(1, 10_000)) < 0.05
