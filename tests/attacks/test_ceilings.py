"""Ceilings: the trade-off of (epsilon, delta) and of Gaussian mechanisms, and that they are upper bounds."""

import numpy as np
import pytest
from scipy.stats import norm

from dpaudit import accounting, events
from dpaudit.attacks.ceilings import Ceiling, ceiling_of, ceiling_of_claim, with_ceiling
from dpaudit.errors import UsageError
from dpaudit.estimation import summarise_attack
from dpaudit.records import ScoreSet


def test_the_ceiling_of_a_claim_is_the_trade_off_of_randomized_response():
    epsilon, delta = 1.3, 1e-3
    ceiling = ceiling_of_claim(epsilon, delta)
    for fpr in (0.0, 1e-4, 0.01, 0.2, 0.5, 0.9, 1.0):
        exact = min(1.0, np.exp(epsilon) * fpr + delta, 1 - np.exp(-epsilon) * max(1 - delta - fpr, 0))
        assert ceiling.tpr(fpr) == pytest.approx(exact)
    grid = np.linspace(0, 1, 200_001)
    exact = np.minimum(np.exp(epsilon) * grid + delta, 1 - np.exp(-epsilon) * np.maximum(1 - delta - grid, 0))
    area = np.trapezoid(np.minimum(exact, 1), grid)
    assert area <= ceiling.auc() <= area + 2e-3
    advantage = (np.exp(epsilon) - 1 + 2 * delta) / (np.exp(epsilon) + 1)
    assert advantage <= ceiling.advantage() <= advantage + 2e-3


def test_the_ceiling_of_a_summary_is_near_and_above_the_gaussian_truth():
    mu = 1.0
    summary = accounting.summarize(events.Gaussian(noise_multiplier=1 / mu), delta=1e-5, witness=False)
    ceiling = ceiling_of(summary)
    for fpr in (0.001, 0.01, 0.1, 0.3):
        truth = norm.sf(norm.isf(fpr) - mu)
        assert truth - 1e-9 <= ceiling.tpr(fpr) <= 1.1 * truth + 1e-3
    truth = norm.cdf(mu / np.sqrt(2))
    assert truth <= ceiling.auc() <= truth + 0.01
    assert 2 * norm.cdf(mu / 2) - 1 <= ceiling.advantage() <= 2 * norm.cdf(mu / 2) - 1 + 0.02


def test_extremes():
    assert ceiling_of_claim(0.0, 0.0).auc() == pytest.approx(0.5, abs=1e-3)
    assert ceiling_of_claim(0.0, 0.0).tpr(0.1) == pytest.approx(0.1)
    assert ceiling_of_claim(800.0, 0.0).tpr(0.001) == 1.0
    assert Ceiling(profile=(), points=()).auc() == pytest.approx(1.0)
    with pytest.raises(UsageError):
        ceiling_of_claim(-1.0, 1e-5)
    with pytest.raises(UsageError):
        ceiling_of_claim(1.0, 1e-5).tpr(1.5)


def test_results_carry_the_ceiling():
    rng = np.random.default_rng(0)
    scores = ScoreSet(member=rng.normal(0.2, 1, 300), non_member=rng.normal(0, 1, 300))
    plain = summarise_attack(scores, attack="a", threat_model="t", fprs=(0.1, 0.01))
    assert with_ceiling(plain, None) is plain
    assert plain.auc_ceiling is None
    told = with_ceiling(plain, ceiling_of_claim(1.0, 1e-5))
    assert [point.ceiling for point in told.tpr_at_fpr] == pytest.approx([0.2718 + 1e-5, 0.02718 + 1e-5], abs=1e-4)
    assert 0.6 < told.auc_ceiling < 0.75
    assert told.auc == plain.auc
