"""Never NaN, never a silent zero: a number that is right, None with a reason, or a clear error."""

import math

import numpy as np
import pytest

from dpaudit.errors import DataError
from dpaudit.estimation import METHODS, estimate, estimate_confusion
from dpaudit.records import BoundStatus

DELTA = 1e-5
COUNTING = ("one-run", "one-run-fdp", "one-run-max")


def sane(bound):
    if bound.epsilon is None:
        assert bound.reason
        assert bound.status is not BoundStatus.OK
    else:
        assert math.isfinite(bound.epsilon)
        assert bound.epsilon >= 0
    assert bound.mu is None or math.isfinite(bound.mu)
    return bound


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n1", "n0"), [(5, 0), (0, 5), (1, 0), (0, 1)])
def test_an_empty_side(method, n1, n0):
    bound = sane(estimate(np.arange(float(n1)), np.arange(float(n0)), method=method, delta=DELTA))
    assert bound.epsilon is None
    assert bound.status is not BoundStatus.OK


@pytest.mark.parametrize("method", METHODS)
def test_no_scores_at_all(method):
    with pytest.raises(DataError, match="no scores"):
        estimate([], [], method=method, delta=DELTA)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n1", "n0"), [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3)])
def test_one_score_or_two(method, n1, n0):
    rng = np.random.default_rng(0)
    bound = sane(estimate(rng.normal(10, 1, n1), rng.normal(0, 1, n0), method=method, delta=DELTA))
    if bound.epsilon is not None and method in COUNTING and n1 + n0 <= 4:
        assert bound.epsilon == 0.0  # four coins are guessed right by luck in 6 % of the games


@pytest.mark.parametrize("method", COUNTING)
def test_constant_scores_are_coin_flips(method):
    """Everything ties, so the guesses are lots: the p-value is that of fair guessing, and the bound is 0."""
    found = [sane(estimate(np.ones(300), np.ones(300), method=method, delta=DELTA, seed=s)).epsilon for s in range(60)]
    assert np.mean(np.greater(found, 0)) < 0.2


@pytest.mark.parametrize("method", ["mean-shift", "gdp", "independent-canaries", "clopper-pearson", "one-shot"])
def test_constant_scores_show_no_independence(method):
    bound = sane(estimate(np.ones(300), np.ones(300), method=method, delta=DELTA))
    assert bound.epsilon is None


@pytest.mark.parametrize("method", ["clopper-pearson", "gdp"])
def test_constant_scores_of_independent_runs_are_no_evidence(method):
    bound = sane(estimate(np.ones(300), np.ones(300), method=method, delta=DELTA, declared=["independent-runs"]))
    assert bound.epsilon == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_integers_and_booleans_are_scores(method):
    rng = np.random.default_rng(1)
    member, other = rng.integers(5, 1000, 200), rng.integers(0, 995, 200)
    as_float = estimate(member.astype(float), other.astype(float), method=method, delta=DELTA)
    assert sane(estimate(member, other, method=method, delta=DELTA)) == as_float
    sane(estimate(rng.random(50) < 0.9, rng.random(50) < 0.1, method=method, delta=DELTA))


def test_perfect_separation_stays_below_the_ceiling():
    member, other = np.arange(50.0) + 100, np.arange(50.0)
    bound = sane(estimate(member, other, method="one-run", delta=0.0, guesses=100))
    assert bound.epsilon == pytest.approx(-math.log(0.05 ** (-1 / 100) - 1), abs=1e-6)
    bound = sane(
        estimate(member, other, method="clopper-pearson", delta=1e-5, guesses=1, declared=["independent-runs"])
    )
    assert bound.epsilon == pytest.approx(2.569573917285156, rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_extreme_magnitudes(method, scale):
    rng = np.random.default_rng(2)
    sane(estimate(scale * (rng.normal(size=100) + 1), scale * rng.normal(size=100), method=method, delta=DELTA))


@pytest.mark.parametrize("method", METHODS)
def test_a_nearly_constant_side(method):
    rng = np.random.default_rng(3)
    sane(estimate(np.full(50, 2.0), rng.normal(size=50), method=method, delta=DELTA))
    sane(estimate(rng.normal(size=50), np.full(50, -2.0), method=method, delta=DELTA))


@pytest.mark.parametrize("members", [30, 970])
@pytest.mark.parametrize("method", [*COUNTING, "independent-canaries"])
def test_unfair_coins_refute_the_one_run_methods(method, members):
    rng = np.random.default_rng(4)
    bound = sane(estimate(rng.normal(3, 1, members), rng.normal(size=1000 - members), method=method, delta=DELTA))
    assert bound.status is BoundStatus.ASSUMPTION_REFUTED
    assert "fair-coins" in bound.reason


@pytest.mark.parametrize("method", ["clopper-pearson", "gdp", "bayes"])
def test_counts_of_an_empty_side(method):
    bound = sane(estimate_confusion(tp=0, fn=0, fp=3, tn=5, method=method, delta=DELTA))
    assert bound.epsilon is None
    sane(estimate_confusion(tp=1, fn=0, fp=0, tn=1, method=method, delta=DELTA))
