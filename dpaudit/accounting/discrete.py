"""Renyi divergence of integer noise: sums of discrete Gaussians, and Skellam noise.

The bounds are for the L2 and L1 norm of a shift by integers. They are not tight, and there is no privacy loss
distribution beside them: which shift of these norms is the worst is not known for noise in several dimensions.
"""

import math
from collections.abc import Callable

import numpy as np

from dpaudit import events as ev
from dpaudit.accounting._pmf import Floats

DiscreteEvent = ev.DistributedDiscreteGaussian | ev.Skellam
DivergenceAt = Callable[[Floats], Floats]
_SUMMED = 1_000_000
_LEAST = 0.25  # share variance under which the correction for sums is not proven


def correction(shares: int, share_variance: float) -> float:
    """Return tau, by which a sum of discrete Gaussians falls short of one discrete Gaussian, on a coordinate.

    tau = 10 sum_{k=1}^{n-1} exp(-2 pi^2 sigma^2 k / (k + 1)) (Kairouz, Liu, Steinke, arXiv:2102.06387, Theorem 1, for
    sigma >= 1/2). Beyond a million shares every further term is counted as the largest, that of k = 1.
    """
    if shares == 1:
        return 0.0
    k = np.arange(1, min(shares, _SUMMED), dtype=np.float64)
    exponents = -2 * math.pi**2 * share_variance * k / (k + 1)
    rest = max(0, shares - _SUMMED) * math.exp(-(math.pi**2) * share_variance)
    return 10 * (float(np.exp(exponents).sum()) + rest)


def _discrete_gaussian(event: ev.DistributedDiscreteGaussian, orders: Floats, units: float) -> Floats:
    """Return the bound of arXiv:2102.06387, Proposition 14 (one share: Canonne et al., arXiv:2004.00010, Theorem 4)."""
    if event.shares > 1 and event.share_variance < _LEAST:
        return np.full(orders.shape, math.inf)
    tau, d = correction(event.shares, event.share_variance), event.dimension
    sigma = math.sqrt(event.shares * event.share_variance)
    l2, l1 = units * event.l2_norm / sigma, units * event.l1_norm / sigma
    additive = orders / 2 * l2**2 + tau * d
    with_l1 = orders / 2 * (l2**2 + 2 * tau * l1 + tau**2 * d)
    with_l2 = orders / 2 * (l2 + math.sqrt(d) * tau) ** 2
    return np.asarray(np.minimum(additive, np.minimum(with_l1, with_l2)))


def between(at: DivergenceAt, orders: Floats) -> Floats:
    """Return a bound at every order from one that is known at the whole orders from 2.

    (a - 1) times the divergence is convex in the order a and 0 at order 1 (van Erven, Harremoes, arXiv:1206.2459,
    Corollary 2), so that the chord between two whole orders is an upper bound.
    """
    low = np.floor(orders)
    moments = [(a - 1) * at(np.maximum(a, 2)) for a in (low, low + 1)]
    share = orders - low
    chord = (1 - share) * moments[0] + np.where(share > 0, share * moments[1], 0.0)
    return np.asarray(chord / (orders - 1))


def _skellam(event: ev.Skellam, orders: Floats, units: float) -> Floats:
    """Return the bound of Agarwal, Kairouz, Liu (arXiv:2110.04995, Theorem 3.5), for whole orders."""
    a, mu = orders, event.variance
    l2, l1 = units * event.l2_norm, units * event.l1_norm
    extra = np.minimum(((2 * a - 1) * l2**2 + 6 * l1) / (4 * mu**2), 3 * l1 / (2 * mu))
    return np.asarray(a * l2**2 / (2 * mu) + extra)


def divergence(event: DiscreteEvent, orders: Floats, *, units: float = 1.0) -> Floats:
    """Return an upper bound on the divergence at each order when a sum shifts by `units` contributions.

    2 where one unit replaces another. Infinity where no bound is known.
    """
    if event.noise_multiplier == 0:
        return np.full(orders.shape, math.inf)
    if isinstance(event, ev.Skellam):
        return between(lambda whole: _skellam(event, whole, units), orders)
    return _discrete_gaussian(event, orders, units)
