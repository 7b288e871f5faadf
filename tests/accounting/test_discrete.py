"""Integer noise: the bounds against exact enumeration of the distributions."""

import math

import numpy as np
import pytest
from scipy.signal import fftconvolve
from scipy.special import ive

from dpaudit import accounting, events
from dpaudit.accounting import discrete
from dpaudit.accounting._renyi import ORDERS
from dpaudit.accounting.group import group_event
from dpaudit.errors import Refusal, UnsupportedEvent


def discrete_gaussian_pmf(variance, half):
    k = np.arange(-half, half + 1.0)
    weights = np.exp(-(k**2) / (2 * variance))
    return weights / weights.sum()


def sum_pmf(pmf, shares):
    total = pmf
    for _ in range(shares - 1):
        total = np.convolve(total, pmf)
    return total


def skellam_pmf(variance, half):
    k = np.arange(-half, half + 1)
    return ive(np.abs(k), variance)  # e^-mu I_k(mu): Poissons of rate variance / 2


def renyi(p, q, order):
    """D_order(p || q) over the points where both are represented: a lower bound on the true value, near to it."""
    keep = (p > 1e-290) & (q > 1e-290)
    logs = order * np.log(p[keep]) + (1 - order) * np.log(q[keep])
    return float(np.logaddexp.reduce(logs) / (order - 1))


def shifted(pmf, shift):
    wide = np.concatenate([np.zeros(shift), pmf, np.zeros(shift)])
    return wide[shift : pmf.size + shift], wide[: pmf.size]


@pytest.mark.parametrize(("shares", "variance"), [(1, 0.1), (1, 1.0), (2, 0.25), (3, 0.3), (5, 1.0), (4, 9.0)])
@pytest.mark.parametrize("shift", [1, 2, 5])
def test_discrete_gaussian_bound_is_above_the_exact_divergence(shares, variance, shift):
    half = int(30 * math.sqrt(variance) + 25)
    pmf = sum_pmf(discrete_gaussian_pmf(variance, half), shares)
    p, q = shifted(pmf, shift)
    event = events.DistributedDiscreteGaussian(
        shares=shares, share_variance=variance, l2_norm=shift, l1_norm=shift, dimension=1
    )
    orders = ORDERS[ORDERS <= 16]
    bound = discrete.divergence(event, orders)
    exact = np.array([renyi(p, q, a) for a in orders])
    assert np.all(bound >= exact * (1 - 1e-9) - 1e-12)
    if shares == 1 and variance >= 1:  # a shift by an integer is worth exactly shift^2 / 2 sigma^2 per order
        near = orders * shift <= 20  # beyond, float64 has no tail left to enumerate
        assert np.allclose(bound[near], exact[near], rtol=1e-6)


@pytest.mark.parametrize("variance", [0.5, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("shift", [1, 2, 6])
def test_skellam_bound_is_above_the_exact_divergence(variance, shift):
    pmf = skellam_pmf(variance, int(40 * math.sqrt(variance) + 150))
    p, q = shifted(pmf, shift)
    event = events.Skellam(variance=variance, l2_norm=shift, l1_norm=shift)
    orders = ORDERS[ORDERS <= 12]
    exact = np.array([max(renyi(p, q, a), renyi(q, p, a)) for a in orders])
    assert np.all(discrete.divergence(event, orders) >= exact * (1 - 1e-9))


def test_the_bounds_add_up_over_coordinates():
    """A shift (3, 2, 1): the divergences of the coordinates add up, and the norms are those of the vector."""
    shift, variance = (3, 2, 1), 6.0
    pmf = skellam_pmf(variance, 250)
    exact = np.array([sum(renyi(*shifted(pmf, s), a) for s in shift) for a in range(2, 9)])
    event = events.Skellam(variance=variance, l2_norm=math.sqrt(14), l1_norm=6)
    bound = discrete.divergence(event, np.arange(2.0, 9.0))
    assert np.all(bound >= exact)
    assert np.all(bound <= 2 * exact)


def test_the_second_order_of_skellam_noise_by_hand():
    """Order 2, shift 1, variance 4: 2 / 8 + min((3 + 6) / 64, 3 / 8) = 0.390625 (arXiv:2110.04995, Theorem 3.5)."""
    event = events.Skellam(variance=4.0, l2_norm=1.0, l1_norm=1.0)
    assert discrete.divergence(event, np.array([2.0]))[0] == pytest.approx(0.390625)


def test_the_correction_for_sums_by_hand():
    """Two shares of variance 1/4: 10 e^(-pi^2 / 4); a hundred thousand: within the closed bound for more than that."""
    assert discrete.correction(2, 0.25) == pytest.approx(10 * math.exp(-(math.pi**2) / 4))
    assert discrete.correction(1, 0.25) == 0
    assert discrete.correction(3_000_000, 1.0) >= discrete.correction(1_000_001, 1.0)


def test_the_sum_of_narrow_discrete_gaussians_is_no_discrete_gaussian():
    """Without the correction the bound would be under the truth: so the correction is needed, and is tested above."""
    pmf = sum_pmf(discrete_gaussian_pmf(0.25, 40), 2)
    exact = renyi(*shifted(pmf, 1), 2.0)
    assert exact > 2.0 / (2 * 2 * 0.25) * 0.5  # the same order of magnitude
    uncorrected = 2.0 / 2 / (2 * 0.25)
    event = events.DistributedDiscreteGaussian(shares=2, share_variance=0.25, l2_norm=1, l1_norm=1, dimension=1)
    assert discrete.divergence(event, np.array([2.0]))[0] > max(exact, uncorrected)


@pytest.mark.parametrize("count", [1, 8])
def test_epsilon_is_above_the_exact_one(count):
    """`count` rounds of a shift by 1 on one coordinate each: the exact profile by convolving privacy losses."""
    variance, delta = 16.0, 1e-5
    p, q = shifted(discrete_gaussian_pmf(variance, 60), 1)
    keep = (p > 0) & (q > 0)
    losses = np.log(p[keep] / q[keep])  # of a shifted discrete Gaussian: on a grid of width 1 / variance
    step = 1 / variance
    index = np.rint((losses - losses.min()) / step).astype(int)
    single = np.zeros(index.max() + 1)
    np.add.at(single, index, p[keep])
    total = single
    for _ in range(count - 1):
        total = fftconvolve(total, single)
    grid = count * losses.min() + step * np.arange(total.size)
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        divergence = float(np.maximum(total * -np.expm1(middle - grid), 0)[grid > middle].sum())
        low, high = (middle, high) if divergence > delta else (low, middle)
    event = events.DistributedDiscreteGaussian(shares=1, share_variance=variance, l2_norm=1, l1_norm=1, dimension=1)
    bound = accounting.epsilon(events.SelfComposed(event=event, count=count), delta, "rdp")
    assert high <= bound <= 1.4 * high + 0.05


def test_what_the_accountants_say():
    event = events.DistributedDiscreteGaussian(shares=10, share_variance=4e5, l2_norm=1e3, l1_norm=1e4, dimension=1000)
    skellam = events.Skellam(variance=4e6, l2_norm=1e3, l1_norm=1e4)
    plain = events.Gaussian(noise_multiplier=event.noise_multiplier)
    for found in (event, skellam):
        assert found.noise_multiplier == pytest.approx(2.0)
        epsilon = accounting.epsilon(found, 1e-5, "rdp")
        assert epsilon == pytest.approx(accounting.epsilon(plain, 1e-5, "rdp"), rel=1e-2)
        assert epsilon >= accounting.epsilon(plain, 1e-5, "rdp")
        with pytest.raises(UnsupportedEvent, match="worst shift"):
            accounting.epsilon(found, 1e-5, "pld")
        twice = accounting.epsilon(found, 1e-5, "rdp", relation="replace-one")
        assert twice == pytest.approx(accounting.epsilon(group_event(found, 2), 1e-5, "rdp"))
        assert accounting.RunningEpsilon(found, 1e-5).after(3) == pytest.approx(
            accounting.epsilon(events.SelfComposed(event=found, count=3), 1e-5, "rdp")
        )


def test_cohorts_that_everybody_may_know_and_secret_ones():
    inner = events.Skellam(variance=4e6, l2_norm=1e3, l1_norm=1e4)
    public = events.PubliclySampled(sampling_rate=0.1, event=inner)
    epsilon = accounting.epsilon(events.SelfComposed(event=public, count=20), 1e-5, "rdp")
    every = accounting.epsilon(events.SelfComposed(event=inner, count=20), 1e-5, "rdp")
    assert accounting.epsilon(events.SelfComposed(event=inner, count=2), 1e-5, "rdp") < epsilon < every
    summary = accounting.summarize(public, delta=1e-5)
    assert summary.epsilon_pld is None
    assert "worst shift" in summary.reasons["epsilon_pld"]
    assert summary.epsilon_no_amplification == pytest.approx(accounting.epsilon(inner, 1e-5, "rdp"))
    assert any("brings a share" in item.text for item in summary.assumptions)
    for secret in (
        events.PoissonSampled(sampling_rate=0.1, event=inner),
        events.SampledWithoutReplacement(population=100, sample_size=10, event=inner),
    ):
        for accountant in ("rdp", "pld"):
            with pytest.raises(UnsupportedEvent):
                accounting.epsilon(secret, 1e-5, accountant)


def test_what_has_no_bound_is_refused():
    narrow = events.DistributedDiscreteGaussian(shares=3, share_variance=0.2, l2_norm=1, l1_norm=1, dimension=1)
    with pytest.raises(UnsupportedEvent, match="at least 1/4"):
        accounting.epsilon(narrow, 1e-5, "rdp")
    with pytest.raises(Refusal, match="has no noise"):
        accounting.epsilon(events.Skellam(variance=0.0, l2_norm=1, l1_norm=1), 1e-5, "rdp")
