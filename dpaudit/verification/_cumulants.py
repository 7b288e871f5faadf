"""Null distributions of the sampling statistics, by three cumulants and a shifted gamma (Pearson type III)."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc, gammaincc, gammaincinv, gammaln, ndtr, ndtri

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Law(NamedTuple):
    """A distribution known by its mean, variance and third cumulant."""

    mean: float
    variance: float
    third: float

    def below(self, x: float) -> float:
        """Return about P[X <= x]."""
        z, skew = self._standard(x)
        if skew < 1e-6:
            return float(ndtr(z))
        shape = 4 / skew**2
        return float(gammainc(shape, max(0.0, shape + z * math.sqrt(shape))))

    def above(self, x: float) -> float:
        """Return about P[X >= x]."""
        z, skew = self._standard(x)
        if skew < 1e-6:
            return float(ndtr(-z))
        shape = 4 / skew**2
        return float(gammaincc(shape, max(0.0, shape + z * math.sqrt(shape))))

    def quantile(self, p: float) -> float:
        """Return about the x with P[X <= x] = p."""
        _, skew = self._standard(self.mean)
        if skew < 1e-6:
            return self.mean + math.sqrt(self.variance) * float(ndtri(p))
        shape = 4 / skew**2
        return self.mean + math.sqrt(self.variance / shape) * (float(gammaincinv(shape, p)) - shape)

    def _standard(self, x: float) -> tuple[float, float]:
        spread = math.sqrt(self.variance)
        return (x - self.mean) / spread, max(0.0, self.third / spread**3)


def squared_deviations(counts: Ints, trials: Ints, rate: float) -> tuple[float, Law]:
    """Return the sum of (B - n p)^2 / (n p (1 - p)) over independent B ~ Bin(n, p), and its law under the null.

    The law uses the exact cumulants of each term, so that it also holds where n p is small and the sum is not
    chi-square. Counts without trials are left out.
    """
    used = trials > 0
    n, deviation = trials[used].astype(np.float64), counts[used] - trials[used] * rate
    pq, skew = rate * (1 - rate), 1 - 2 * rate
    k2, k3, k4, k6 = n * pq, n * pq * skew, n * pq * (1 - 6 * pq), n * pq * (1 - 30 * pq + 120 * pq**2)
    second = (k4 + 3 * k2**2) / k2**2
    third = (k6 + 15 * k4 * k2 + 10 * k3**2 + 15 * k2**3) / k2**3
    law = Law(float(n.size), float((second - 1).sum()), float((third - 3 * second + 2).sum()))
    return float((deviation**2 / k2).sum()), law


def log_probability_of_modes(trials: Ints, rate: float) -> float:
    """Return log P[every B ~ Bin(n, p) sits at its mode]: no sum of squared deviations is less likely than that."""
    n = trials[trials > 0].astype(np.float64)
    mode = np.minimum(np.floor((n + 1) * rate), n)
    choose = gammaln(n + 1) - gammaln(mode + 1) - gammaln(n - mode + 1)
    return float((choose + mode * math.log(rate) + (n - mode) * math.log1p(-rate)).sum())


def repeats_law(trials: Ints, rate: float) -> Law:
    """Return the law of the number of consecutive pairs both taken, in independent chains of `trials` fair draws.

    The pairs of a chain are 1-dependent, so its r-th cumulant is linear in the length from r + 1 on; the first ones
    come from the transfer matrix of the chain, as power series to the third order.
    """
    lengths = 9
    series = np.zeros((lengths, 4))
    off, on = np.array([1 - rate, 0, 0, 0]), np.array([rate, 0, 0, 0])
    exponential = np.array([1, 1, 1 / 2, 1 / 6])
    series[0, 0] = 1.0
    for length in range(1, lengths):
        series[length] = off + on
        off, on = (1 - rate) * (off + on), rate * (off + np.convolve(on, exponential)[:4])
    table = np.array([_cumulants(row) for row in series])
    size = np.minimum(trials, lengths - 1)
    beyond = (trials - size)[:, None] * (table[-1] - table[-2])
    total = (table[size] + beyond).sum(axis=0)
    return Law(*(float(value) for value in total))


def _cumulants(series: Floats) -> tuple[float, float, float]:
    """Return the first three cumulants from the coefficients of a moment generating function."""
    m1, m2, m3 = series[1], 2 * series[2], 6 * series[3]
    return float(m1), float(m2 - m1**2), float(m3 - 3 * m1 * m2 + 2 * m1**3)
