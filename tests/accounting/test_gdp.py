import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpaudit.errors import UsageError
from dpaudit.gdp import gdp_delta, gdp_epsilon, gdp_mu


def exact_delta(epsilon, mu):
    with mpmath.workdps(60):
        e, m = mpmath.mpf(epsilon), mpmath.mpf(mu)
        return mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m)


@pytest.mark.parametrize("mu", [1e-6, 1e-3, 0.05, 0.3, 1, 2, 5, 20, 60])
@pytest.mark.parametrize("epsilon", [0, 1e-3, 0.1, 1, 3, 10, 50, 500])
def test_delta_agrees_with_sixty_digits(epsilon, mu):
    exact = exact_delta(epsilon, mu)
    if exact > 1e-290:
        assert gdp_delta(epsilon, mu) == pytest.approx(float(exact), rel=1e-10)


def test_known_pairs_of_the_literature():
    # research/lower-bounds.md, section 1.0, at delta = 1e-5
    mus = gdp_mu(np.array([1.0, 2, 4, 8, 16]), 1e-5)
    np.testing.assert_allclose(mus, [0.26805, 0.50155, 0.92493, 1.66603, 2.90548], atol=6e-6)
    epsilons = gdp_epsilon(np.array([0.5, 1, 2, 4]), 1e-5)
    np.testing.assert_allclose(epsilons, [1.99309, 4.37718, 9.99726, 24.38161], atol=6e-6)


def test_balle_wang_of_dp_accounting(known_answers):
    for entry in known_answers("dp_accounting", "get_epsilon_gaussian"):
        given_, output = entry["input"], entry["output"]
        assert gdp_epsilon(1 / given_["sigma"], given_["delta"]) == pytest.approx(output, rel=1e-9)
    for entry in known_answers("dp_accounting", "get_sigma_gaussian"):
        given_, output = entry["input"], entry["output"]
        assert 1 / gdp_mu(given_["epsilon"], given_["delta"]) == pytest.approx(output, rel=1e-7)


def test_profile_of_the_gaussian_mechanism(known_answers):
    for entry in known_answers("dp_accounting", "from_gaussian_mechanism(sigma)"):
        deltas = gdp_delta(np.array([0.0, 1, 2, 4]), 1 / entry["input"]["sigma"])
        np.testing.assert_allclose(deltas, entry["output"], rtol=1e-6)


@given(st.floats(1e-3, 30), st.floats(1e-12, 0.9))
def test_epsilon_and_mu_invert_delta(mu, delta):
    epsilon = gdp_epsilon(mu, delta)
    if epsilon > 0:
        assert gdp_delta(epsilon, mu) == pytest.approx(delta, rel=1e-8)
        assert gdp_delta(epsilon, mu) <= delta * (1 + 1e-12), "the bound errs on the safe side"
        assert gdp_mu(epsilon, delta) == pytest.approx(mu, rel=1e-8)
    else:
        assert gdp_delta(0.0, mu) <= delta


def test_nothing_leaks_at_mu_zero():
    assert gdp_delta(0.0, 0.0) == 0.0
    assert gdp_epsilon(0.0, 1e-5) == 0.0


def test_scalars_in_scalars_out_and_arrays_broadcast():
    assert isinstance(gdp_delta(1.0, 1.0), float)
    assert isinstance(gdp_mu(1.0, 1e-5), float)
    assert gdp_epsilon(np.ones((2, 1)), np.array([1e-5, 1e-6, 1e-7])).shape == (2, 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: gdp_delta(-1.0, 1.0),
        lambda: gdp_delta(float("nan"), 1.0),
        lambda: gdp_epsilon(1.0, 0.0),
        lambda: gdp_epsilon(1.0, 1.0),
        lambda: gdp_epsilon(float("inf"), 1e-5),
        lambda: gdp_mu(1.0, [1e-5, 2.0]),
    ],
)
def test_arguments_out_of_range_are_refused(call):
    with pytest.raises(UsageError, match="must be"):
        call()
