"""Canary scores: known answers, stability, blocks, and that they are the likelihood ratio (AUC by simulation)."""

import math
from decimal import Decimal, getcontext

import numpy as np
import pytest
from scipy.special import ndtr

from dpaudit.attacks import canary, llr_scores, per_step_scores
from dpaudit.attacks.comparable import auc
from dpaudit.errors import DataError, UsageError

getcontext().prec = 60


def exact(x, z, q):
    x, z, q = Decimal(float(x)), Decimal(float(z)), Decimal(float(q))
    return float((1 - q + q * ((x - Decimal("0.5")) / z**2).exp()).ln())


@pytest.mark.parametrize("x", [-40.0, -1.0, 0.0, 0.5, 1.0, 3.25, 60.0])
@pytest.mark.parametrize("z", [0.05, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("q", [1e-6, 0.1, 0.5, 1.0])
def test_one_step_equals_the_formula(x, z, q):
    seen, everywhere = np.array([[x]]), np.ones((1, 1), bool)
    got = llr_scores(seen, everywhere, noise_multiplier=z, secret_sampling_rate=q)[0]
    assert math.isclose(got, exact(x, z, q), rel_tol=1e-9, abs_tol=1e-15)


def test_rounds_add_up_and_ineligible_rounds_do_not_count():
    rng = np.random.default_rng(0)
    seen, eligible = rng.normal(size=(9, 5)).astype(np.float32), rng.random((9, 5)) < 0.6
    eligible[:, 4] = False
    steps = per_step_scores(seen, eligible, noise_multiplier=1.3, secret_sampling_rate=0.2)
    assert steps.shape == (9, 5)
    assert (steps[~eligible] == 0).all()
    total = llr_scores(seen, eligible, noise_multiplier=1.3, secret_sampling_rate=0.2)
    np.testing.assert_allclose(total, steps.sum(axis=0), rtol=1e-12)
    assert total[4] == 0
    assert total.shape == (5,)


def test_full_participation_is_the_linear_statistic():
    seen = np.array([[0.2, 1.4], [0.9, -0.3]])
    scores = llr_scores(seen, np.ones((2, 2), bool), noise_multiplier=2.0, secret_sampling_rate=1.0)
    np.testing.assert_allclose(scores, (seen - 0.5).sum(axis=0) / 4)


def test_memory_maps_are_read_in_blocks(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    seen, eligible = rng.normal(size=(50, 7)).astype("<f4"), rng.random((50, 7)) < 0.5
    whole = llr_scores(seen, eligible, noise_multiplier=0.8, secret_sampling_rate=0.3)
    seen.tofile(tmp_path / "seen.f32")
    mapped = np.memmap(tmp_path / "seen.f32", dtype="<f4", mode="r", shape=(50, 7))
    monkeypatch.setattr(canary, "_BLOCK", 30)
    blocks = llr_scores(mapped, eligible, noise_multiplier=0.8, secret_sampling_rate=0.3)
    np.testing.assert_allclose(blocks, whole, rtol=1e-12)


def test_nan_is_refused_where_it_counts_and_only_there():
    seen, eligible = np.array([[np.nan, 0.0]]), np.array([[True, True]])
    with pytest.raises(DataError, match="NaN"):
        llr_scores(seen, eligible, noise_multiplier=1.0, secret_sampling_rate=0.5)
    with pytest.raises(DataError, match="NaN"):
        per_step_scores(seen, eligible, noise_multiplier=1.0, secret_sampling_rate=0.5)
    eligible[0, 0] = False
    assert np.isfinite(llr_scores(seen, eligible, noise_multiplier=1.0, secret_sampling_rate=0.5)).all()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"noise_multiplier": 0.0}, UsageError),
        ({"noise_multiplier": math.nan}, UsageError),
        ({"secret_sampling_rate": 0.0}, UsageError),
        ({"secret_sampling_rate": 1.5}, UsageError),
        ({"secret_sampling_rate": 1e-300}, DataError),
        ({"eligible": np.ones((3, 1), bool)}, DataError),
        ({"observations": np.zeros(3)}, DataError),
    ],
)
def test_bad_arguments_are_refused(arguments, error):
    good = {
        "observations": np.zeros((2, 1)),
        "eligible": np.ones((2, 1), bool),
        "noise_multiplier": 1.0,
        "secret_sampling_rate": 0.5,
    }
    with pytest.raises(error):
        llr_scores(**{**good, **arguments})


def simulate(rng, *, rounds, canaries, z, q, client_rate=1.0):
    eligible, coins = rng.random((rounds, canaries)) < client_rate, rng.random(canaries) < 0.5
    present = eligible & coins & (rng.random((rounds, canaries)) < q)
    seen = (present + z * rng.standard_normal((rounds, canaries))).astype(np.float32)
    return seen, eligible, coins


@pytest.mark.statistical(failure_probability=1e-6)
def test_auc_without_sampling_is_that_of_two_gaussians():
    rounds, z, m = 20, 4.0, 40_000
    seen, eligible, coins = simulate(np.random.default_rng(2), rounds=rounds, canaries=m, z=z, q=1.0)
    got = auc(llr_scores(seen, eligible, noise_multiplier=z, secret_sampling_rate=1.0), coins)
    expected = float(ndtr(math.sqrt(rounds) / z / math.sqrt(2)))  # AUC of N(0, 1) and N(mu, 1): Phi(mu / sqrt 2)
    assert abs(got - expected) < 5 * 0.5 / math.sqrt(m / 2)


@pytest.mark.statistical(failure_probability=1e-6)
def test_the_score_is_a_likelihood_ratio():
    """E over left-out canaries of exp(score) is 1, and P[included | score] = 1 / (1 + exp(-score))."""
    seen, eligible, coins = simulate(
        np.random.default_rng(3), rounds=30, canaries=60_000, z=1.5, q=0.2, client_rate=0.5
    )
    scores = llr_scores(seen, eligible, noise_multiplier=1.5, secret_sampling_rate=0.2)
    weights = np.exp(scores[~coins])
    assert abs(weights.mean() - 1) < 5 * weights.std() / math.sqrt(len(weights))
    predicted = 1 / (1 + np.exp(-scores))
    for low, high in ((0.0, 0.35), (0.35, 0.5), (0.5, 0.65), (0.65, 1.0)):
        chosen = (predicted >= low) & (predicted < high)
        expected, n = predicted[chosen].mean(), chosen.sum()
        assert abs(coins[chosen].mean() - expected) < 5.5 * math.sqrt(expected * (1 - expected) / n)


@pytest.mark.statistical(failure_probability=1e-6)
def test_likelihood_ratio_beats_the_plain_sum_under_sampling():
    seen, eligible, coins = simulate(np.random.default_rng(4), rounds=100, canaries=20_000, z=0.66, q=0.02)
    ratio = auc(llr_scores(seen, eligible, noise_multiplier=0.66, secret_sampling_rate=0.02), coins)
    assert ratio > auc(seen.sum(axis=0), coins) + 0.03
