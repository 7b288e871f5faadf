"""Renyi divergences of Gaussian mixtures: dp-accounting's series where it has one, exact integrals elsewhere."""

import math
from collections.abc import Callable

import numpy as np
from scipy.special import gammaln, log_ndtr, logsumexp

from dpaudit.accounting._pmf import Floats

ORDERS: Floats = np.array([1 + x / 10 for x in range(1, 100)] + list(range(11, 64)) + [128, 256, 512, 1024], float)
"""The default orders of dp-accounting 0.6."""

LogDensity = Callable[[Floats], Floats]
_FRACTIONAL = np.floor(ORDERS) != ORDERS
_TERMS = 1000  # as many as dp-accounting adds before it leaves an order out
_SMALL = 30.0


def log_normal(x: Floats, mean: float, z: float) -> Floats:
    """Return the log density of N(mean, z^2)."""
    return np.asarray(-((x - mean) ** 2) / (2 * z * z) - math.log(z) - 0.5 * math.log(2 * math.pi))


def log_mixture(z: float, rate: float, mean: float) -> LogDensity:
    """Return the log density of (1 - rate) N(0, z^2) + rate N(mean, z^2)."""

    def log_density(x: Floats) -> Floats:
        return np.logaddexp(math.log1p(-rate) + log_normal(x, 0, z), math.log(rate) + log_normal(x, mean, z))

    return log_density


def log_moments(upper: LogDensity, lower: LogDensity, z: float, shift: float, orders: Floats) -> Floats:
    """Return log of the integral of upper^a lower^(1-a) at every order a, where the mass lies in [-1, shift * a].

    The integrand has no singularity nearer to the real line than pi z^2; with a width of z^2/2 (z/8 for large z)
    the trapezoid rule errs by less than e^-39.
    """
    width = min(z / 8, z * z / 2)
    result = np.empty(orders.size)
    for index, order in enumerate(orders):
        x = np.arange(-1 - 14 * z, shift * order + 14 * z + width, width)
        result[index] = logsumexp(order * upper(x) + (1 - order) * lower(x)) + math.log(width)
    return result


def _series(z: float, rate: float, orders: Floats) -> Floats:
    """Return log moments of the sampled Gaussian at fractional orders, infinite where 1000 terms do not suffice.

    The two series of Mironov, Talwar, Zhang (arXiv:1908.10530, Section 3.3), with absolute values in place of
    alternating signs, as dp-accounting 0.6 sums them: an upper bound, and the same numbers as the library's.
    """
    i, a = np.arange(_TERMS, dtype=np.float64), orders[:, None]
    j, z0 = a - i, z * z * math.log(1 / rate - 1) + 0.5
    log_choose = gammaln(a + 1) - gammaln(i + 1) - gammaln(j + 1)
    log_q, log_p = math.log(rate), math.log1p(-rate)
    left = log_choose + i * log_q + j * log_p + (i * i - i) / (2 * z * z) + log_ndtr((z0 - i) / z)
    right = log_choose + j * log_q + i * log_p + (j * j - j) / (2 * z * z) + log_ndtr((j - z0) / z)
    total = np.logaddexp(np.logaddexp.accumulate(left, axis=1), np.logaddexp.accumulate(right, axis=1))
    falling = (np.diff(left, axis=1) < 0) & (np.diff(right, axis=1) < 0)
    done = falling & (np.maximum(left, right)[:, 1:] < total[:, 1:] - _SMALL)
    stop = np.argmax(done, axis=1)
    reached = total[np.arange(orders.size), stop + 1]
    return np.asarray(np.where(done.any(axis=1), reached, np.inf))


def _binomial(z: float, rate: float, order: float) -> float:
    """Return the log moment of the sampled Gaussian at a whole order (Mironov, Talwar, Zhang, Section 3.3).

    The sum over i of C(a, i) (1 - q)^(a - i) q^i e^((i^2 - i) / 2z^2) is 1 plus positive terms from i = 2 on, which
    keep their digits however small they are.
    """
    i = np.arange(2, order + 1)
    growth = (i * i - i) / (2 * z * z)
    log_choose = gammaln(order + 1) - gammaln(i + 1) - gammaln(order - i + 1)
    terms = log_choose + i * math.log(rate) + (order - i) * math.log1p(-rate) + growth + np.log(-np.expm1(-growth))
    excess = float(logsumexp(terms))
    return math.log1p(math.exp(excess)) if excess < 30 else excess


def sampled_gaussian(z: float, rate: float) -> Floats:
    """Return the log moments of a Poisson-sampled Gaussian when a unit is removed (the larger direction), 0 < rate < 1.

    Orders at which the series does not converge, which dp-accounting leaves out, are integrated.
    """
    logs = np.empty(ORDERS.size)
    logs[_FRACTIONAL] = _series(z, rate, ORDERS[_FRACTIONAL])
    logs[~_FRACTIONAL] = [_binomial(z, rate, order) for order in ORDERS[~_FRACTIONAL]]
    missing = ~np.isfinite(logs)
    logs[missing] = log_moments(log_mixture(z, rate, 1.0), lambda x: log_normal(x, 0, z), z, 1.0, ORDERS[missing])
    return logs
