"""Entropy, population, quantile regression and trained attacks: what they compute, and what they gain."""

import sys

import numpy as np
import pytest
from scipy.special import logsumexp

from dpaudit.attacks import statistics
from dpaudit.attacks.base import Observed
from dpaudit.attacks.comparable import auc
from dpaudit.attacks.population import class_shares, shares_below
from dpaudit.attacks.quantile import features_of, quantile_scores
from dpaudit.attacks.registry import make
from dpaudit.attacks.trained import attack_features
from dpaudit.errors import DataError, MissingDependency


def test_entropy_is_shannons_and_stays_finite():
    z = np.random.default_rng(0).normal(size=(20, 5))
    p = np.exp(z - logsumexp(z, axis=1, keepdims=True))
    np.testing.assert_allclose(statistics.entropy(z), -(p * np.log(p)).sum(axis=1))
    np.testing.assert_allclose(statistics.entropy(np.array([[1e4, 0.0], [0.0, 0.0]])), [0.0, np.log(2)])


def test_population_shares_with_ties_and_rare_classes():
    assert shares_below(np.array([1.0, 2.0, 0.0]), np.array([1.0, 1.0, 3.0, 4.0])).tolist() == [0.25, 0.5, 0.0]
    rng = np.random.default_rng(1)
    known = np.concatenate([rng.normal(size=100), 10 + rng.normal(size=100), [50.0]])
    known_labels = np.repeat([0, 1, 2], [100, 100, 1])
    found = class_shares(np.array([10.0, 10.0, 10.0]), np.array([0, 1, 2]), known, known_labels)
    assert found[0] == 1.0
    assert 0.3 < found[1] < 0.7
    assert found[2] == shares_below(np.array([10.0]), known)[0]  # a class with one record is judged by all


def difficult(rng, n, gain):
    """Records whose difficulty shows in a feature; members are fitted `gain` better."""
    x, labels = rng.normal(size=(n, 4)), rng.integers(0, 3, n)
    member = rng.random(n) < 0.5
    logits = 0.3 * rng.normal(size=(n, 3))
    logits[np.arange(n), labels] += 3 * x[:, 0] + gain * member
    return x, labels, member, logits


def test_quantile_regression_takes_the_difficulty_out():
    rng = np.random.default_rng(2)
    x, labels, member, logits = difficult(rng, 2000, 1.5)
    known_x, known_labels, _, known_logits = difficult(rng, 2000, 0.0)
    known = Observed(logits=known_logits, labels=known_labels, x=known_x)
    seen = Observed(logits=logits, labels=labels, x=x, population=known)
    by_name = {name: auc(make(name).score(seen), member) for name in ("loss", "population", "quantile")}
    assert by_name["quantile"] > 0.9
    assert by_name["quantile"] > by_name["loss"] + 0.2
    assert by_name["population"] == pytest.approx(by_name["loss"], abs=0.03)


def test_quantile_scores_have_the_promised_false_positive_rate():
    """On records that were not trained on, a tenth lies above the predicted 0.9 quantile, which is score 1."""
    rng = np.random.default_rng(3)
    known, fresh = rng.normal(size=(4000, 3)), rng.normal(size=(4000, 3))
    phi, new = (2 * a[:, 0] + (1 + np.abs(a[:, 1])) * rng.normal(size=4000) for a in (known, fresh))
    scores = quantile_scores(fresh, new, known, phi)
    assert np.mean(scores > 1) == pytest.approx(0.1, abs=0.02)
    assert np.mean(scores > 0) == pytest.approx(0.5, abs=0.03)


def test_quantile_refuses_too_small_populations_and_text(monkeypatch):
    with pytest.raises(DataError, match="at least 50"):
        quantile_scores(np.zeros((3, 2)), np.zeros(3), np.zeros((49, 2)), np.zeros(49))
    with pytest.raises(DataError, match="numbers"):
        features_of(np.array([["a"], ["b"]]), np.array([0, 1]), 2)
    assert features_of(np.zeros((2, 3, 3)), np.array([0, 60]), 61).shape == (2, 10)
    assert features_of(np.zeros((2, 3, 3)), np.array([0, 1]), 2).shape == (2, 11)
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(MissingDependency, match="scikit-learn"):
        quantile_scores(np.zeros((3, 2)), np.zeros(3), np.zeros((50, 2)), np.zeros(50))


@pytest.mark.parametrize("name", ["trained-logistic", "trained-boosting"])
def test_a_trained_attack_learns_what_members_look_like(name):
    """Members are too sure of a wrong class: no plain score says so, reference models do."""
    rng = np.random.default_rng(4)
    labels, inside = rng.integers(0, 4, 1000), rng.random((9, 1000)) < 0.5
    logits = rng.normal(size=(9, 1000, 4))
    wrong = np.broadcast_to(((labels + 1) % 4), (9, 1000))[..., None]
    np.put_along_axis(logits, wrong, np.where(inside, 2.0, 0.0)[..., None], axis=2)
    seen = Observed(logits=logits[0], labels=labels, reference_logits=logits[1:], reference_in=inside[1:])
    assert auc(make(name).score(seen), inside[0]) > 0.8
    assert auc(make("loss").score(seen), inside[0]) < 0.5


def test_features_of_few_classes_and_extreme_logits_are_finite():
    features = attack_features(np.array([[1e5, -1e5], [0.0, 0.0]]), np.array([1, 0]))
    assert features.shape == (2, 7)
    assert np.isfinite(features).all()
