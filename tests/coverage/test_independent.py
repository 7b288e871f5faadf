"""Bounds from independent trials: Clopper-Pearson on any mechanism, the Gaussian ones on the Gaussian mechanism."""

import numpy as np
import pytest
from scipy.stats import binom

from dpaudit.estimation import CurveFamily, estimate, estimate_confusion, per_step_bound, reference
from dpaudit.estimation.curves import gaussian_curve
from dpaudit.estimation.one_shot import published_lower_estimate
from dpaudit.gdp import gdp_epsilon

DELTA = 1e-5


def repeated(few, many):
    """Run with few trials by default, and with many under `-m slow`."""
    return pytest.mark.parametrize("trials", [few, pytest.param(many, marks=pytest.mark.slow)])


RUNS = {"declared": ("independent-runs",)}
CLOPPER_PEARSON = [
    ("clopper-pearson", RUNS),
    ("clopper-pearson", {**RUNS, "guesses": 5}),
    ("clopper-pearson", {**RUNS, "threshold_selection": "bonferroni:16"}),
    ("clopper-pearson", {**RUNS, "threshold_selection": "split"}),
]
FRIENDLY = [
    reference.null(),
    reference.randomised_response(1.0),
    reference.randomised_response(4.0),
    reference.laplace(1.0),
    reference.gaussian_of(1.0, DELTA),
    reference.gaussian_of(8.0, DELTA),
    reference.sampled_gaussian(0.5, 0.2),
]


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("mechanism", FRIENDLY, ids=lambda m: f"{m.name}-{m.epsilon(DELTA):.1f}")
@repeated(1000, 5000)
def test_clopper_pearson(mechanism, trials, coverage, limit):
    found = coverage(mechanism, 200, DELTA, CLOPPER_PEARSON, trials)
    assert found[:, 1].max() == 0
    assert found[:, 0].max() <= limit(trials, 28)


GAUSSIAN = [
    ("gdp", RUNS),
    ("gdp", {**RUNS, "threshold_selection": "bonferroni:17"}),
    ("gdp", {**RUNS, "threshold_selection": "split"}),
    ("mean-shift", RUNS),
    ("mean-shift", {}),
    ("independent-canaries", {}),
    ("independent-canaries", {"guesses": 200}),
    ("one-shot", {}),
]


QUICK = [("gdp", RUNS), ("mean-shift", {}), ("independent-canaries", {})]


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_gaussian_methods(epsilon, coverage, limit):
    trials = 1000
    found = coverage(reference.gaussian_of(epsilon, DELTA), 200, DELTA, QUICK, trials)
    assert found[:, 1].max() <= 15  # the tests of the assumptions rarely refuse what is true
    assert found[:, 0].max() <= limit(trials, 6)


@pytest.mark.slow
@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("epsilon", [0.0, 1.0, 4.0, 16.0])
def test_gaussian_methods_in_many_trials(epsilon, coverage, limit):
    trials = 3000
    mechanism = reference.gaussian_of(epsilon, DELTA) if epsilon else reference.null()
    found = coverage(mechanism, 500, DELTA, GAUSSIAN, trials, seed=3)
    assert found[:, 1].max() <= 0.01 * trials
    assert found[:, 0].max() <= limit(trials, 32)


def cosines_of(rng, canaries, epsilon, dimension=10_000, delta=1e-6):
    """(1 + <c_j, rest>) / |sum + noise| for random unit vectors: <c_j, rest> ~ N(0, |rest|^2 / d)."""
    variance = dimension / reference.gdp_mu(epsilon, delta) ** 2
    rest = np.sqrt((canaries - 1 + variance) / dimension)
    return (1 + rest * rng.normal(size=canaries)) / np.sqrt(canaries + variance)


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize(("canaries", "epsilon"), [(100, 1.0), (100, 10.0), (1000, 3.0)])
@repeated(500, 5000)
def test_one_shot_with_a_known_null(canaries, epsilon, trials, limit):
    """One Gaussian release of the sum of random unit vectors (the ideal setting of Andrew et al.)."""
    rng = np.random.default_rng(canaries)
    wrong = refused = 0
    for _ in range(trials):
        cosines = cosines_of(rng, canaries, epsilon)
        bound = estimate(cosines, [], method="one-shot", delta=1e-6, options={"dimension": 10_000})
        refused += bound.epsilon is None
        wrong += bound.epsilon is not None and bound.epsilon > epsilon
    assert refused <= 8 + 0.006 * trials
    assert wrong <= limit(trials, 3)


def test_the_harness_sees_the_published_one_shot_estimate():
    """Control: the best of uncorrected thresholds, as published, exceeds the truth in a quarter of the audits."""
    rng = np.random.default_rng(0)
    found = [published_lower_estimate(list(cosines_of(rng, 100, 1.0)), 10_000, 1e-6) for _ in range(300)]
    assert np.mean(np.greater(found, 1.0)) > 0.15


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("method", ["mean-shift", "mean-shift-centred", "mean-shift-signed", "gdp"])
@pytest.mark.parametrize("noise", [0.8, 4.0])
@repeated(600, 4000)
def test_per_step(method, noise, trials, limit):
    rng, wrong = np.random.default_rng(5), 0
    for _ in range(trials):
        coins = rng.random(1000) < 0.5
        canary = np.where(coins, 1.0, -1.0 if method == "mean-shift-signed" else 0.0)
        scores = canary + noise * rng.normal(size=1000)
        bound = per_step_bound(
            scores[coins],
            scores[~coins],
            compose=lambda z: 1 / z,
            delta=DELTA,
            method=method,
            claimed_noise_multiplier=noise,
        )
        wrong += bound.epsilon is not None and bound.epsilon > 1 / noise
    assert wrong <= limit(trials, 8)


FROM_OUTSIDE = CurveFamily(
    name="as from an accountant", curve=gaussian_curve, epsilon=gdp_epsilon, high=20.0, parameter="mu", tolerance=1e-4
)


@pytest.mark.statistical(failure_probability=1e-6)
@repeated(100, 2000)
def test_groups(trials, coverage, limit):
    """Three copies of each canary: scores shift by 3 mu, and the bound is on epsilon of one."""
    tripled = reference.gaussian(3 * reference.gdp_mu(2.0, DELTA))
    mechanism = reference.Mechanism(name="tripled", scores=tripled.scores, epsilon=lambda _: 2.0, independent=True)
    designs = [
        (method, {"group_size": 3, **options})
        for method, options in [
            ("one-run", {}),
            ("one-run-max", {}),
            ("one-run-fdp", {"curve": "gaussian"}),
            ("one-run-fdp", {"curve": FROM_OUTSIDE}),
            ("clopper-pearson", RUNS),
            ("gdp", RUNS),
            ("mean-shift", {}),
        ]
    ]
    found = coverage(mechanism, 200, DELTA, designs, trials)
    assert found[:, 0].max() <= limit(trials, 7)
    assert found[-1, 2] / trials > 1.0  # the copies do help


def test_credible_is_not_confidence():
    """Control: the Bayesian bound exceeds the truth on randomised response far more than 5 %; it is marked credible."""
    rng, mechanism, wrong = np.random.default_rng(0), reference.randomised_response(2.0), 0
    for _ in range(200):
        scores = mechanism.draw(1000, rng)
        ones = (int(scores.member.sum()), int(scores.non_member.sum()))
        bound = estimate_confusion(
            tp=ones[0], fn=scores.member.size - ones[0], fp=ones[1], tn=scores.non_member.size - ones[1],
            method="bayes", delta=DELTA,
        )  # fmt: skip
        assert bound.family == "credible"
        wrong += bound.epsilon > mechanism.epsilon(DELTA)
    assert wrong > binom.isf(1e-4, 200, 0.05)
