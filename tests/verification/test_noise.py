"""Noise: known answers, honest runs do not fail more often than stated, planted faults are found, NaN never passes."""

import math

import numpy as np
import pytest
from scipy.stats import binom, chi2

from dpaudit.errors import DataError, UsageError
from dpaudit.records import Status
from dpaudit.verification import check_noise_reuse, check_noise_scale, check_noise_shape

Z = 1.7


def gaussian(seed, *shape, z=Z):
    return z * np.random.default_rng(seed).standard_normal(shape)


# Scale


@pytest.mark.parametrize("n", [30, 1000, 250_000])
@pytest.mark.parametrize("factor", [0.9, 0.999, 1.0, 1.1])
def test_scale_is_the_chi_square_test(n, factor):
    values = np.full(n, Z * factor) * np.where(np.arange(n) % 2, 1, -1)
    result = check_noise_scale(values, noise_multiplier=Z, significance=0.01)
    assert result.statistic == pytest.approx(n * factor**2)
    assert result.threshold == pytest.approx(chi2.ppf(0.01, n), rel=1e-9)
    assert result.p_value == pytest.approx(chi2.cdf(n * factor**2, n), rel=1e-6)
    assert (result.status == Status.FAIL) == (result.p_value < 0.01)
    eta = result.minimum_detectable
    assert chi2.cdf(result.threshold / (1 - eta) ** 2, n) == pytest.approx(0.99, abs=1e-6)


@pytest.mark.parametrize(
    ("n", "eta"), [(107_158, 0.01), (26_521, 0.02), (4_116, 0.05), (977, 0.10), (219, 0.20), (24, 0.50)]
)
def test_minimum_detectable_known_answers(n, eta):
    """Reference formula: n for which a chi-square test at 0.01 finds a shortfall eta with probability 0.99."""
    assert check_noise_scale(np.full(n, Z), noise_multiplier=Z).minimum_detectable <= eta
    assert check_noise_scale(np.full(n - 1 - n // 1000, Z), noise_multiplier=Z).minimum_detectable > eta


def test_half_the_noise_fails_and_names_the_claim():
    result = check_noise_scale(
        gaussian(0, 2000) / 2, noise_multiplier=Z, claim_text="noise multiplier 1.7 of the ledger"
    )
    assert result.status == Status.FAIL
    assert result.refuted == "noise multiplier 1.7 of the ledger"
    assert "0.4" in result.detail or "0.5" in result.detail


def test_too_much_noise_passes_and_says_so():
    result = check_noise_scale(2 * gaussian(1, 2000), noise_multiplier=Z)
    assert result.status == Status.PASS
    assert "more noise than promised" in result.detail
    assert "more noise than promised" not in check_noise_scale(gaussian(1, 2000), noise_multiplier=Z).detail


def test_too_few_values_are_inconclusive_but_a_gross_fault_still_fails():
    assert check_noise_scale([], noise_multiplier=Z).status == Status.INCONCLUSIVE
    few = check_noise_scale(gaussian(2, 10), noise_multiplier=Z)
    assert few.status == Status.INCONCLUSIVE
    assert few.minimum_detectable > 0.5
    assert check_noise_scale(np.zeros(10), noise_multiplier=Z).status == Status.FAIL


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_noise_that_is_not_a_number_fails(bad):
    values = gaussian(3, 50, 40)
    values[7, 7] = bad
    for result in (
        check_noise_scale(values, noise_multiplier=Z),
        check_noise_shape(values, noise_multiplier=Z),
        check_noise_reuse(values),
    ):
        assert result.status == Status.FAIL
        assert "NaN" in result.detail
        assert result.refuted


@pytest.mark.parametrize("check", [check_noise_scale, check_noise_shape])
def test_arguments_out_of_range(check):
    for z, level in [(0.0, 0.01), (-1.0, 0.01), (math.nan, 0.01), (1.0, 0.0), (1.0, 1.0)]:
        with pytest.raises(UsageError):
            check(gaussian(4, 100), noise_multiplier=z, significance=level)
    with pytest.raises(DataError, match="numbers"):
        check(["a"], noise_multiplier=1.0)


# Shape


def laplace(rng, n):
    return rng.laplace(size=n)


def uniform(rng, n):
    return rng.uniform(-1, 1, n)


def truncated(rng, n, at=2.5):
    values = rng.standard_normal(n)
    return np.where(np.abs(values) > at, np.sign(values) * at * rng.random(n), values)


def student5(rng, n):
    return rng.standard_t(5, n)


def two_scales(rng, n):
    return rng.standard_normal(n) * np.where(np.arange(n) < n // 2, 0.5, 1.5)


def rounded(rng, n):
    return np.round(rng.standard_normal(n))


def shifted(rng, n):
    return rng.standard_normal(n) + 0.2


@pytest.mark.parametrize("law", [laplace, uniform, truncated, student5, two_scales, rounded, shifted])
def test_other_shapes_are_found_whatever_their_scale(law):
    found = 0
    for seed in range(20):
        values = law(np.random.default_rng(seed), 10_000)
        result = check_noise_shape(values * 3.3, noise_multiplier=Z)
        found += result.status == Status.FAIL
    assert found == 20


def test_truncation_at_three_sigma_needs_the_tail_counts():
    found = [
        check_noise_shape(truncated(np.random.default_rng(seed), 20_000, 3.0), noise_multiplier=1.0)
        for seed in range(20)
    ]
    assert all(result.status == Status.FAIL for result in found)
    assert all("tail beyond" in result.detail for result in found)


def test_a_wrong_scale_is_left_to_the_scale_check():
    assert check_noise_shape(gaussian(5, 20_000) / 2, noise_multiplier=Z).status == Status.PASS


def test_shape_of_nothing_and_of_little():
    assert check_noise_shape([], noise_multiplier=Z).status == Status.INCONCLUSIVE
    assert check_noise_shape(gaussian(6, 20), noise_multiplier=Z).status == Status.INCONCLUSIVE
    silent = check_noise_shape(np.zeros(1000), noise_multiplier=Z)
    assert silent.status == Status.FAIL
    assert "no noise" in silent.detail


# Reuse


def test_fresh_noise_passes():
    result = check_noise_reuse(gaussian(7, 60, 500))
    assert result.status == Status.PASS
    assert result.statistic < result.threshold
    assert 0.2 < result.minimum_detectable < 0.5


@pytest.mark.parametrize("kind", ["same", "negated", "scaled", "partly", "zero", "broadcast"])
def test_reused_noise_fails_and_names_the_rounds(kind):
    noise = gaussian(8, 40, 400).astype(np.float32)
    other = gaussian(9, 400)
    noise[31] = {
        "same": noise[4],
        "negated": -noise[4],
        "scaled": 0.3 * noise[4],
        "partly": 0.6 * noise[4] + 0.8 * other,
        "zero": 0 * noise[4],
        "broadcast": noise[31],
    }[kind]
    if kind == "broadcast":  # one number for all coordinates: rounds differ by a factor only
        noise = np.repeat(gaussian(10, 40, 1), 400, axis=1)
    result = check_noise_reuse(noise)
    assert result.status == Status.FAIL
    if kind in ("same", "negated", "scaled", "partly"):
        assert "31" in result.detail
        assert "4" in result.detail


def test_reuse_in_blocks_of_rounds(monkeypatch):
    from dpaudit.verification import noise as module

    rows = gaussian(11, 700, 30)
    rows[650] = 1.5 * rows[3]
    largest, pair = module._largest_cosine(rows)
    assert pair == (3, 650)
    assert largest == pytest.approx(1.0)


def test_too_few_rounds_or_coordinates():
    assert check_noise_reuse(gaussian(12, 1, 100)).status == Status.INCONCLUSIVE
    assert check_noise_reuse(gaussian(12, 30, 2)).status == Status.INCONCLUSIVE
    assert check_noise_reuse(gaussian(12, 30, 8)).status == Status.INCONCLUSIVE
    with pytest.raises(DataError, match="rounds, coordinates"):
        check_noise_reuse(gaussian(12, 30))


# All together


def all_checks(values, share):
    return [
        check_noise_scale(values, noise_multiplier=Z, significance=share),
        check_noise_shape(values, noise_multiplier=Z, significance=share),
        check_noise_reuse(values, significance=share),
    ]


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("shape", [(40, 60), (12, 700)])
def test_total_false_alarm_of_honest_noise(shape):
    """Bonferroni: three checks with a third of 0.06 each; any of them may fail in 6 % of honest runs."""
    runs, total = 400, 0.06
    alarms = sum(
        any(result.status == Status.FAIL for result in all_checks(gaussian(seed, *shape), total / 3))
        for seed in range(runs)
    )
    assert alarms <= binom.isf(1e-6, runs, total)
    # An honest test is not a deaf one: the scale check alone is exact.
    low = [
        check_noise_scale(gaussian(seed, *shape), noise_multiplier=Z, significance=0.2).status for seed in range(runs)
    ]
    assert low.count(Status.FAIL) >= binom.ppf(1e-6, runs, 0.2)


@pytest.mark.statistical(failure_probability=1e-5)
def test_five_percent_less_noise_is_found_as_often_as_stated():
    runs, n = 300, 4116
    found = sum(
        check_noise_scale(0.95 * gaussian(seed, n), noise_multiplier=Z, significance=0.01).status == Status.FAIL
        for seed in range(runs)
    )
    assert found >= binom.ppf(1e-6, runs, 0.99)
