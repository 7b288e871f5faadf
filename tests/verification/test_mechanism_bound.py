"""Bounds from a fixed sample: never above the truth more often than stated, close to it, free in delta and order."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from dpaudit.errors import UsageError
from dpaudit.gdp import gdp_delta
from dpaudit.records import Status
from dpaudit.verification import Neighbours, PrivacyClaim, bound_mechanism, check_mechanism_fixed
from dpaudit.verification import subject_mechanisms as subjects
from dpaudit.verification.claims import renyi_divergence

PAIR = subjects.SUMS


def laplace_renyi(order, epsilon):
    """Exact (Mironov 2017, proposition 6), for scale 1/epsilon and sensitivity 1."""
    a = order
    return math.log(a / (2 * a - 1) * math.exp((a - 1) * epsilon) + (a - 1) / (2 * a - 1) * math.exp(-a * epsilon)) / (
        a - 1
    )


@pytest.mark.statistical(failure_probability=1e-5)
def test_everything_holds_together():
    """Laplace and Gaussian at the very edge: any delta, any epsilon, any order, in at least 1 - alpha of the runs."""
    runs, level = 150, 0.1
    wrong = {"laplace": 0, "gaussian": 0}
    deltas, orders = np.geomspace(1e-6, 0.5, 20), (1.5, 2.0, 8.0)
    for seed in range(runs):
        bound = bound_mechanism(subjects.laplace(1.0).mechanism, PAIR, outputs=3000, significance=level, seed=seed)
        over = bound.epsilon(0.0) > 1 or bound.delta(0.5) > 1 - math.exp(-0.25)
        wrong["laplace"] += over or any(bound.renyi(a) > laplace_renyi(a, 1.0) for a in orders)
        bound = bound_mechanism(subjects.gaussian(1.0).mechanism, PAIR, outputs=3000, significance=level, seed=seed)
        over = any(float(gdp_delta(bound.epsilon(d), 1.0)) < d for d in deltas if bound.epsilon(d) > 0)
        wrong["gaussian"] += over or any(bound.renyi(a) > a / 2 for a in orders)
    assert max(wrong.values()) <= binom.isf(1e-6, runs, level)


def test_the_bounds_are_near_the_truth():
    bound = bound_mechanism(subjects.laplace(0.5).mechanism, PAIR, outputs=30_000, seed=1)
    assert 1.8 < bound.epsilon() <= 2.0
    assert 1.3 < bound.renyi(2.0) <= laplace_renyi(2.0, 2.0)  # about 1.6; an event cannot show all of it
    assert 0.57 < bound.delta(0.0) <= 1 - math.exp(-1)
    assert bound.epsilon(0.3) < bound.epsilon(0.1) < bound.epsilon()
    assert bound.confidence == 0.95


def test_nothing_is_seen_where_nothing_is():
    bound = bound_mechanism(subjects.constant().mechanism, PAIR, seed=1)
    assert (bound.epsilon(), bound.delta(0.0), bound.renyi(2.0)) == (0.0, 0.0, 0.0)
    assert not bound.refuted_points(PrivacyClaim.approximate(0.0))


@pytest.mark.parametrize("name", subjects.BROKEN)
def test_broken_mechanisms_are_refuted(name):
    subject, claim = subjects.BROKEN[name]
    result, bound = check_mechanism_fixed(subject.mechanism, subject.pairs, claim, outputs=120_000, seed=1)
    assert result.status == Status.FAIL, result.detail
    assert result.refuted == claim.text
    assert result.statistic > 0
    assert bound.refuted_points(claim)


@pytest.mark.parametrize("name", subjects.HONEST)
def test_honest_mechanisms_pass(name):
    subject, claim = subjects.HONEST[name]
    result, _ = check_mechanism_fixed(subject.mechanism, subject.pairs, claim, seed=2)
    assert result.status == Status.PASS, result.detail


def test_weak_tests_and_crashes_are_inconclusive():
    result, bound = check_mechanism_fixed(
        subjects.laplace(1.0).mechanism, PAIR, PrivacyClaim.approximate(1.0), outputs=60
    )
    assert result.status == Status.INCONCLUSIVE
    assert bound is not None
    result, bound = check_mechanism_fixed(lambda d, n: 1 / 0, PAIR, PrivacyClaim.approximate(1.0))
    assert result.status == Status.INCONCLUSIVE
    assert "ZeroDivisionError" in result.detail
    assert bound is None
    result, _ = check_mechanism_fixed(subjects.constant().mechanism, PAIR, PrivacyClaim.approximate(1.0))
    assert result.status == Status.INCONCLUSIVE  # nothing was learned, so nothing was tested
    assert "same output" in result.detail


@pytest.mark.statistical(failure_probability=1e-4)
def test_the_minimum_detectable_excess_is_found():
    n, runs = 6000, 30
    result, _ = check_mechanism_fixed(
        subjects.geometric(1.0).mechanism, PAIR, PrivacyClaim.approximate(1.0), outputs=n, seed=1
    )
    q = 1 / (1 + math.e**2)

    def leaks(d, n, rng):
        return (rng.random(n) < (math.e * q + result.minimum_detectable if d else q)).astype(float)

    checked = (
        check_mechanism_fixed(leaks, PAIR, PrivacyClaim.approximate(1.0), outputs=n, seed=s) for s in range(runs)
    )
    assert sum(found.status == Status.FAIL for found, _ in checked) >= binom.ppf(1e-5, runs, 0.99)


def test_renyi_claims_by_data_processing():
    claim = PrivacyClaim.renyi(2.0, laplace_renyi(2.0, 1.0))
    assert check_mechanism_fixed(subjects.laplace(0.5).mechanism, PAIR, claim)[0].status == Status.FAIL
    assert check_mechanism_fixed(subjects.laplace(1.0).mechanism, PAIR, claim)[0].status == Status.PASS


@pytest.mark.parametrize(("order", "epsilon"), [(2.0, 0.6), (1.2, 0.1), (16.0, 2.0), (64.0, 0.05)])
def test_tangents_of_a_renyi_claim(order, epsilon):
    """No pair of rates that the claim allows, in both directions, lies above a point; some touch each."""
    points = PrivacyClaim.renyi(order, epsilon).points
    rates = np.concatenate([np.geomspace(1e-9, 1e-3, 40), np.linspace(1e-3, 1 - 1e-3, 200)])
    slack = np.full(len(points), np.inf)
    for q in rates:
        for p in rates[rates > q]:
            if max(renyi_divergence(p, q, order), renyi_divergence(q, p, order)) <= epsilon:
                gap = [d - (p - math.exp(e) * q) for e, d in points]
                assert min(gap) >= 0, (p, q)
                slack = np.minimum(slack, gap)
    assert slack.min() < 0.02


def test_divergence_of_coins():
    assert renyi_divergence(0.3, 0.3, 2.0) == 0
    assert renyi_divergence(0.3, 0.0, 2.0) == math.inf
    assert renyi_divergence(1.0, 0.5, 3.0) == pytest.approx(math.log(2))
    p, q = 0.7, 0.2
    assert renyi_divergence(p, q, 2.0) == pytest.approx(math.log(p**2 / q + (1 - p) ** 2 / (1 - q)))


def test_arguments_out_of_range_are_refused():
    bound = bound_mechanism(subjects.laplace(1.0).mechanism, PAIR, outputs=600)
    for wrong in (lambda: bound.epsilon(2.0), lambda: bound.delta(-1.0), lambda: bound.renyi(1.0)):
        with pytest.raises(UsageError):
            wrong()
    with pytest.raises(UsageError, match="at least 6"):
        bound_mechanism(subjects.laplace(1.0).mechanism, PAIR, outputs=5)
    with pytest.raises(UsageError, match="Neighbours"):
        bound_mechanism(subjects.laplace(1.0).mechanism, [(0.0, 1.0)])
    for points in ((), ((-1.0, 0.0),), ((1.0, 2.0),)):
        with pytest.raises(UsageError):
            PrivacyClaim(points=points, text="nothing")


def test_the_error_is_shared_by_the_events_of_all_pairs():
    dull = [Neighbours(first=0.0, second=0.0, name=f"equal {i}") for i in range(5)]
    telling = Neighbours(first=0.0, second=1.0, name="telling")
    bound = bound_mechanism(subjects.laplace(0.5).mechanism, [*dull, telling], outputs=30_000, seed=1)
    assert bound.epsilon() > 1.5
    assert any("telling" in rate.where for rate in bound.rates)
