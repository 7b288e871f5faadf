"""Laws of the integer noise, against exact probabilities. Fixed seeds; each test fails honestly once in a million."""

import math

import numpy as np
import pytest
from scipy.special import ive
from scipy.stats import chi2

from dpaudit import _rng
from dpaudit.errors import UsageError
from dpaudit.federated import integer_noise
from dpaudit.federated.integer_noise import LARGEST_VARIANCE, discrete_gaussian, skellam

SIZE = 100_000
ALPHA = 1e-6


def discrete_gaussian_pmf(variance, k):
    wide = np.arange(-60 * math.isqrt(variance) - 60, 60 * math.isqrt(variance) + 61)
    return np.exp(-(k**2) / (2 * variance)) / np.exp(-(wide**2) / (2 * variance)).sum()


def skellam_pmf(variance, k):
    return ive(np.abs(k), variance)


def chi_square_p(draws, pmf):
    """p-value of the counts of integers against exact probabilities; cells of less than 10 expected are joined."""
    reach = int(np.abs(draws).max()) + 1
    k = np.arange(-reach, reach + 1)
    expected = pmf(k) * draws.size
    counts = np.bincount(draws + reach, minlength=k.size)
    keep = expected >= 10
    tail_expected, tail_count = draws.size - expected[keep].sum(), draws.size - counts[keep].sum()
    statistic = float(((counts[keep] - expected[keep]) ** 2 / expected[keep]).sum())
    if tail_expected >= 10:
        statistic += (tail_count - tail_expected) ** 2 / tail_expected
    return float(chi2.sf(statistic, int(keep.sum()) - 1 + (tail_expected >= 10)))


SAMPLERS = {
    "discrete-gaussian": (discrete_gaussian, discrete_gaussian_pmf),
    "skellam": (skellam, skellam_pmf),
}


@pytest.mark.parametrize("variance", [1, 2, 7, 100, 2500])
@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_follow_the_exact_law(name, variance):
    sampler, pmf = SAMPLERS[name]
    draws = sampler(_rng.stream(1, name, variance), variance, SIZE)
    assert draws.shape == (SIZE,)
    assert draws.dtype == np.int64
    assert chi_square_p(draws, lambda k: pmf(variance, k)) > ALPHA


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_test_of_the_law_sees_half_the_noise_and_the_other_law(name):
    """Mutants of the samplers: the chi-square test has the power to see them."""
    sampler, pmf = SAMPLERS[name]
    draws = sampler(_rng.stream(2, name), 4, SIZE)
    other = next(law for key, (_, law) in SAMPLERS.items() if key != name)
    assert chi_square_p(draws, lambda k: pmf(5, k)) < ALPHA
    assert chi_square_p(draws, lambda k: other(4, k)) < ALPHA


def test_large_scales_have_the_right_variance_and_tail():
    """Beyond what can be enumerated: variance within 5 standard errors, and the share beyond 3 scales."""
    draws = discrete_gaussian(_rng.stream(3, "large"), LARGEST_VARIANCE, SIZE) / math.sqrt(LARGEST_VARIANCE)
    assert abs(float(np.mean(draws**2)) - 1) < 5 * math.sqrt(2 / SIZE)
    beyond = int(np.count_nonzero(np.abs(draws) > 3))
    assert abs(beyond - 0.0027 * SIZE) < 5 * math.sqrt(0.0027 * SIZE)


def test_the_accept_probability_is_exact_where_squares_do_not_fit_63_bits():
    """The wide path agrees with the fast one where both apply, and with whole numbers where only it does."""
    rng = _rng.stream(4, "wide")
    roots = np.full(50_000, integer_noise._ROOT + 5)
    denominator = (integer_noise._ROOT + 5) ** 2  # probability exp(-1)
    share = float(integer_noise._survives(rng, roots, denominator).mean())
    assert abs(share - math.exp(-1)) < 5 * math.sqrt(0.24 / 50_000)
    assert not integer_noise._survives(rng, roots, 2).any()


def test_one_over_e():
    words = [int(word) for word in integer_noise._INVERSE_E]
    assert words == [0x5E2D58D8B3BCDF1A, 0xBADEC7829054F90D]  # 1/e in binary (OEIS A068985 in base 16)
    share = float(integer_noise._inverse_e(_rng.stream(5, "e"), 200_000).mean())
    assert abs(share - math.exp(-1)) < 5 * math.sqrt(0.24 / 200_000)


def test_draws_depend_on_the_stream_alone():
    first, again, other = (discrete_gaussian(_rng.stream(root, "x"), 9, 1000) for root in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_no_draws_and_no_variance():
    assert discrete_gaussian(_rng.stream(1, "x"), 9, 0).size == 0
    for sampler in (discrete_gaussian, skellam):
        for variance in (0, -1, 2.5):
            with pytest.raises(UsageError):
                sampler(_rng.stream(1, "x"), variance, 3)
    with pytest.raises(UsageError, match="minimum_contributions"):
        discrete_gaussian(_rng.stream(1, "x"), LARGEST_VARIANCE + 1, 3)
