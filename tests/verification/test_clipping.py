"""The clip: contributions of at most 1 pass, larger ones fail, weak evidence is inconclusive."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from dpaudit.errors import UsageError
from dpaudit.records import Status
from dpaudit.verification import check_contribution


def seen(seed, n, contribution=1.0, z=0.9):
    return contribution + z * np.random.default_rng(seed).standard_normal(n)


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("contribution", [1.0, 0.99])
def test_honest_contributions_do_not_fail_more_often_than_stated(contribution):
    runs, level = 500, 0.05
    alarms = sum(
        check_contribution(seen(s, 200, contribution), noise_multiplier=0.9, significance=level).status == Status.FAIL
        for s in range(runs)
    )
    assert alarms <= binom.isf(1e-6, runs, level)
    if contribution == 1.0:
        assert alarms >= binom.ppf(1e-6, runs, level / 2)  # the mean's half is exact


@pytest.mark.statistical(failure_probability=1e-5)
def test_the_minimum_detectable_excess_is_found_as_often_as_stated():
    runs, n = 300, 500
    excess = check_contribution(seen(0, n), noise_multiplier=0.9).minimum_detectable
    found = sum(
        check_contribution(seen(s, n, 1 + excess), noise_multiplier=0.9).status == Status.FAIL for s in range(runs)
    )
    assert found >= binom.ppf(1e-6, runs, 0.99)


def test_no_clip_at_all_fails():
    result = check_contribution(seen(1, 50, 10.0), noise_multiplier=0.9)
    assert result.status == Status.FAIL
    assert result.refuted


def test_one_contribution_that_bypasses_the_clip_is_found():
    values = seen(2, 5000)
    values[77] += 9.0
    assert check_contribution(values, noise_multiplier=0.9).status == Status.FAIL
    assert "largest 1" in check_contribution(values, noise_multiplier=0.9).detail


def test_weak_evidence_is_inconclusive():
    assert check_contribution([], noise_multiplier=1.0).status == Status.INCONCLUSIVE
    noisy = check_contribution(seen(13, 10, z=9.0), noise_multiplier=9.0)
    assert noisy.status == Status.INCONCLUSIVE
    assert noisy.minimum_detectable > 1
    dead = check_contribution(seen(4, 5000, 0.0), noise_multiplier=0.9)
    assert dead.status == Status.INCONCLUSIVE
    assert "not tested" in dead.detail


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_release_that_is_not_a_number_fails(bad):
    result = check_contribution([1.0, bad, 1.0], noise_multiplier=1.0)
    assert result.status == Status.FAIL
    assert "NaN" in result.detail


def test_arguments_out_of_range():
    with pytest.raises(UsageError):
        check_contribution([1.0], noise_multiplier=0.0)
    with pytest.raises(UsageError):
        check_contribution([1.0], noise_multiplier=1.0, significance=1.0)
