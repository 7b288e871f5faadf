"""The curves of DP-SGD from the accountant's privacy loss distribution, in one-run f-DP auditing."""

import numpy as np
import pytest

from dpaudit.errors import UsageError
from dpaudit.estimation import estimate_game, reference
from dpaudit.estimation.curves import gaussian_curve
from dpaudit.pipeline.pld_curve import dp_sgd_curves

GAME = {"canaries": 1000, "method": "one-run-fdp", "delta": 1e-5}
RATES = np.concatenate([np.geomspace(1e-7, 0.5, 30), 1 - np.geomspace(1e-7, 0.4, 30)])


@pytest.fixture(scope="module")
def sampled():
    return dp_sgd_curves(sampling_rate=0.1, steps=100)


@pytest.mark.parametrize("mu", [0.2, 1.0, 3.0])
def test_whole_batches_give_the_gaussian_curve_from_below(mu):
    curve, exact = dp_sgd_curves(sampling_rate=1.0, steps=4).curve(mu / 2), gaussian_curve(mu)
    found, expected = np.array([curve(y) for y in RATES]), np.array([exact(y) for y in RATES])
    assert np.all(found <= expected + 1e-12)
    assert found == pytest.approx(expected, rel=0.05, abs=1e-7)


def test_one_sampled_step_meets_its_optimal_test():
    """No threshold on the observation has a smaller false-positive rate at its true-positive rate."""
    from scipy.special import ndtr

    noise, rate = 0.8, 0.3
    curve = dp_sgd_curves(sampling_rate=rate, steps=1).curve(1 / noise)
    for x in np.linspace(-1.0, 3.0, 9):
        fpr = float(ndtr(-x / noise))
        tpr = (1 - rate) * fpr + rate * float(ndtr((1 - x) / noise))
        assert curve(tpr) <= fpr + 1e-9
        assert curve(1 - fpr) <= 1 - tpr + 1e-9
    x = 0.5
    fpr = float(ndtr(-x / noise))
    tpr = (1 - rate) * fpr + rate * float(ndtr((1 - x) / noise))
    assert max(curve(tpr) / fpr, curve(1 - fpr) / (1 - tpr)) > 0.9


def test_sub_sampling_raises_the_bound(sampled):
    """Research notes, 5.1: with q < 1 the curve of the PLD beats the Gaussian one."""
    found = estimate_game(guesses=200, correct=185, curve=sampled, **GAME)
    gaussian = estimate_game(guesses=200, correct=185, curve="gaussian", **GAME)
    assert 1.02 * gaussian.epsilon < found.epsilon < 1.25 * gaussian.epsilon
    half = estimate_game(guesses=200, correct=185, curve=sampled, group_size=2, **GAME)
    assert half.epsilon < 0.75 * found.epsilon


@pytest.mark.slow
def test_true_noise_is_not_refuted_by_likelihood_ratios(sampled):
    """The scores of the strongest attack, at the true noise: no bound beyond the truth in 40 audits.

    How often the true curve is refuted is counted in test_curves.py, over 1,000 audits.
    """
    from dpaudit import accounting
    from dpaudit.estimation import estimate
    from dpaudit.records import ScoreSet

    noise, rate, steps, canaries = 1.386, 0.1, 100, 500
    truth = accounting.epsilon(accounting.steps_of(noise, sampling_rate=rate, steps=steps), 1e-5)
    rng, found = np.random.default_rng(0), []
    for _ in range(40):
        bits = rng.random(canaries) < 0.5
        x = (bits[:, None] & (rng.random((canaries, steps)) < rate)) + noise * rng.normal(size=(canaries, steps))
        values = np.sum(np.logaddexp(np.log1p(-rate), np.log(rate) + (x - 0.5) / noise**2), axis=1)
        scores = ScoreSet(member=values[bits], non_member=values[~bits])
        bound = estimate(scores.member, scores.non_member, method="one-run-fdp", curve=sampled, delta=1e-5)
        found.append(bound.epsilon)
    assert max(found) < truth
    assert np.mean(found) > 0.25 * truth


@pytest.mark.parametrize("correct", [0, 100_000])
def test_ends_of_the_family(sampled, correct):
    game = {**GAME, "canaries": 100_000, "guesses": 100_000, "correct": correct}
    found = estimate_game(curve=sampled, **game)
    assert (found.epsilon == 0.0) if correct == 0 else (10 < found.epsilon <= 41)


def test_impossible_samplers_are_refused():
    with pytest.raises(UsageError):
        dp_sgd_curves(sampling_rate=1.5, steps=10)
    with pytest.raises(UsageError):
        dp_sgd_curves(sampling_rate=0.5, steps=0)


def test_reference_mechanism_of_one_sampled_step():
    """The epsilon of the accountant's family is that of the exact formula."""
    family, exact = dp_sgd_curves(sampling_rate=0.2, steps=1), reference.sampled_gaussian(0.5, 0.2)
    assert family.epsilon(2.0, 1e-5) == pytest.approx(exact.epsilon(1e-5), rel=1e-3)
