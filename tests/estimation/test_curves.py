import numpy as np
import pytest
from scipy.stats import binom

from dpaudit.errors import UsageError
from dpaudit.estimation import CurveFamily, estimate, profile_curve, reference, refutes_curve
from dpaudit.estimation.curves import eps_delta_curve, gaussian_curve, group_curve
from dpaudit.estimation.guessing import correct_guesses
from dpaudit.estimation.sources import ArraySource
from dpaudit.gdp import gdp_delta, gdp_epsilon
from dpaudit.records import ScoreSet

GRID = np.concatenate([[0.0], np.geomspace(1e-3, 30, 300)])


def test_profile_of_a_gaussian_is_just_below_its_curve():
    exact, listed = gaussian_curve(1.0), profile_curve(GRID, gdp_delta(GRID, 1.0))
    for tpr in (1e-6, 1e-3, 0.05, 0.3, 0.5, 0.9, 0.999):
        assert listed(tpr) <= exact(tpr) + 1e-12
        assert listed(tpr) == pytest.approx(exact(tpr), rel=1e-2, abs=1e-8)


def test_profile_of_one_point_is_the_epsilon_delta_curve():
    one, two = profile_curve([1.3], [1e-3]), eps_delta_curve(1.3, 1e-3)
    for tpr in np.linspace(0, 1, 21):
        assert one(float(tpr)) == pytest.approx(two(float(tpr)), abs=1e-15)


def test_randomised_response_meets_its_curve():
    """q right guesses of 1: fpr 1 - q, tpr q, the corner of the eps-DP region."""
    q = 1 / (1 + np.exp(-2.0))
    assert eps_delta_curve(2.0, 0.0)(q) == pytest.approx(1 - q, rel=1e-12)


def test_group_of_a_gaussian_and_of_pure_dp():
    """k mu and k epsilon; with delta, never below the curve of (k epsilon, delta (e^(k eps) - 1) / (e^eps - 1))."""
    rough = eps_delta_curve(1.5, 1e-4 * np.expm1(1.5) / np.expm1(0.5))
    for tpr in (1e-6, 1e-3, 0.05, 0.3, 0.5, 0.9, 0.999):
        assert group_curve(gaussian_curve(0.4), 3)(tpr) == pytest.approx(gaussian_curve(1.2)(tpr), rel=1e-9)
        assert group_curve(eps_delta_curve(0.5, 0.0), 3)(tpr) <= eps_delta_curve(0.5, 0.0)(tpr)
        assert group_curve(eps_delta_curve(0.5, 1e-4), 3)(tpr) >= rough(tpr) - 1e-15
    assert group_curve(eps_delta_curve(0.5, 0.0), 3)(1e-3) == pytest.approx(1e-3 * np.exp(-1.5))


BAD = [([], []), ([1.0], [0.1, 0.2]), ([-1.0], [0.1]), ([1.0], [1.5]), ([np.nan], [0.1])]


@pytest.mark.parametrize(("epsilons", "deltas"), BAD)
def test_bad_profiles_are_refused(epsilons, deltas):
    with pytest.raises(UsageError, match="profile"):
        profile_curve(epsilons, deltas)


def sampled_profile(noise, rate, steps):
    from dp_accounting.pld import privacy_loss_distribution as pld

    single = pld.from_gaussian_mechanism(noise, value_discretization_interval=1e-3, sampling_prob=rate)
    return np.array(single.self_compose(steps).get_delta_for_epsilon(list(GRID)))


@pytest.mark.slow
@pytest.mark.statistical(failure_probability=1e-6)
def test_pld_of_sampled_steps_is_rarely_refuted_when_true_and_often_when_false():
    """DP-SGD with q = 0.1, 20 steps, log-likelihood ratios; the true PLD, and the PLD of 3 times the noise."""
    noise, rate, steps, canaries, trials = 0.6, 0.1, 20, 1000, 1000
    true = sampled_profile(noise, rate, steps)
    false = sampled_profile(3 * noise, rate, steps)
    curves = profile_curve(GRID, true), profile_curve(GRID, false)
    rng, counts = np.random.default_rng(0), [0, 0]
    for _ in range(trials):
        bits = rng.random(canaries) < 0.5
        present = bits[:, None] & (rng.random((canaries, steps)) < rate)
        x = present + noise * rng.normal(size=(canaries, steps))
        scores = np.sum(np.logaddexp(np.log1p(-rate), np.log(rate) + (x - 0.5) / noise**2), axis=1)
        source = ArraySource(ScoreSet(member=scores[bits], non_member=scores[~bits]))
        correct = correct_guesses(source, 120, rng)
        for i, curve in enumerate(curves):
            counts[i] += refutes_curve(curve, canaries=canaries, guesses=120, correct=correct)
    assert counts[0] <= binom.isf(1e-6, trials, 0.05)
    assert counts[1] > 0.5 * trials


def test_a_family_of_profiles_reaches_the_gaussian_bound():
    """The road of an accountant: parameter to profile to curve to epsilon."""
    family = CurveFamily(
        name="pld",
        curve=lambda mu: profile_curve(GRID, gdp_delta(GRID, mu)),
        epsilon=gdp_epsilon,
        high=6.0,
        parameter="inverse_noise_multiplier",
        tolerance=1e-4,
    )
    scores = reference.gaussian(1.5).draw(1000, np.random.default_rng(0))
    options = {"method": "one-run-fdp", "delta": 1e-5, "guesses": 150}
    found = estimate(scores.member, scores.non_member, curve=family, **options)
    exact = estimate(scores.member, scores.non_member, curve="gaussian", **options)
    assert found.epsilon <= exact.epsilon
    assert found.epsilon == pytest.approx(exact.epsilon, rel=0.01)
    assert found.details["inverse_noise_multiplier"] > 0
