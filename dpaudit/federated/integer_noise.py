"""Integer noise from a numpy generator: the exact discrete Gaussian, and Skellam.

The discrete Gaussian is drawn by rejection in whole numbers alone (Canonne, Kamath, Steinke, arXiv:2004.00010,
Algorithms 1 to 3), so that its law is exact up to the generator. Skellam noise is the difference of two Poisson draws
of numpy, whose transformed rejection computes in float64: exact up to its rounding.
"""

import math
from decimal import Context, Decimal

import numpy as np
from numpy.typing import NDArray

from dpaudit import _validate
from dpaudit.errors import UsageError

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
LARGEST_VARIANCE = 2**29
"""Of one share: the product of four scales must fit 63 bits."""
_EXACTLY = Context(prec=80)
_INVERSE_E = tuple(
    np.uint64(word) for word in divmod(int(_EXACTLY.multiply(_EXACTLY.exp(Decimal(-1)), Decimal(2**128))), 2**64)
)
_ROOT = 3 * 10**9  # whose square fits 63 bits


def _bernoulli_exp(rng: np.random.Generator, numerators: Ints, denominator: int) -> Bools:
    """Return draws that are true with probability exp(-numerators / denominator), a ratio in [0, 1] (Algorithm 1)."""
    result = np.zeros(numerators.size, dtype=np.bool_)
    alive, k = np.arange(numerators.size), 1
    while alive.size:
        on = rng.integers(0, denominator, alive.size) < numerators[alive]
        if k > 1:
            on &= rng.integers(0, k, alive.size) == 0
        result[alive[~on]] = k % 2 == 1
        alive, k = alive[on], k + 1
    return result


def _inverse_e(rng: np.random.Generator, size: int) -> Bools:
    """Return draws that are true with probability 1/e, to within 2^-128: uniform bits against those of 1/e."""
    drawn = rng.integers(0, 2**64, size, dtype=np.uint64)
    result = drawn < _INVERSE_E[0]
    ties = np.flatnonzero(drawn == _INVERSE_E[0])
    result[ties] = rng.integers(0, 2**64, ties.size, dtype=np.uint64) < _INVERSE_E[1]
    return np.asarray(result)


def _successes(rng: np.random.Generator, size: int) -> Ints:
    """Return how many draws of probability 1/e succeed in a row."""
    counts = np.zeros(size, dtype=np.int64)
    alive = np.arange(size)
    while alive.size:
        alive = alive[_inverse_e(rng, alive.size)]
        counts[alive] += 1
    return counts


def _discrete_laplace(rng: np.random.Generator, scale: int, size: int) -> Ints:
    """Return about `size` / 2 or more draws of probability proportional to exp(-|x| / scale) (Algorithm 2)."""
    rest = rng.integers(0, scale, size)
    rest = rest[_bernoulli_exp(rng, rest, scale)]
    magnitude = rest + scale * _successes(rng, rest.size)
    negative = rng.integers(0, 2, rest.size) == 1
    kept = ~(negative & (magnitude == 0))
    return np.asarray(np.where(negative, -magnitude, magnitude)[kept])


def _survives(rng: np.random.Generator, roots: Ints, denominator: int) -> Bools:
    """Return draws that are true with probability exp(-roots^2 / denominator), whatever the ratio."""
    whole, rest = np.divmod(np.where(np.abs(roots) < _ROOT, roots, 0) ** 2, denominator)
    for at in np.flatnonzero(np.abs(roots) >= _ROOT):  # far in the tail of large scales: whole numbers without limit
        whole[at], rest[at] = divmod(int(roots[at]) ** 2, denominator)
    result = _successes(rng, roots.size) >= whole  # a 1/e for every whole
    result[result] = _bernoulli_exp(rng, rest[result], denominator)
    return result


def discrete_gaussian(rng: np.random.Generator, variance: int, size: int) -> Ints:
    """Return `size` independent draws with probability proportional to exp(-x^2 / (2 variance)) (Algorithm 3).

    `variance` is the parameter sigma^2, a whole number: the variance to within a millionth.

    Raises: UsageError unless `variance` is a whole number from 1 to LARGEST_VARIANCE.
    """
    _validate.positive_integer(variance=variance)
    if variance > LARGEST_VARIANCE:
        raise UsageError(
            f"a share of discrete Gaussian noise may have a variance of {LARGEST_VARIANCE} grid steps at most; got "
            f"{variance}. Let more contributions carry the noise (training.minimum_contributions), or add less."
        )
    scale = math.isqrt(variance) + 1
    found: list[Ints] = []
    missing = size
    while missing > 0:
        candidates = _discrete_laplace(rng, scale, 16 + 3 * missing)
        kept = candidates[_survives(rng, np.abs(candidates) * scale - variance, 2 * variance * scale * scale)]
        found.append(kept[:missing])
        missing -= found[-1].size
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def skellam(rng: np.random.Generator, variance: int, size: int) -> Ints:
    """Return `size` independent differences of two Poisson draws of mean `variance` / 2.

    Raises: UsageError unless `variance` is a whole number from 1 on.
    """
    _validate.positive_integer(variance=variance)
    return np.asarray(rng.poisson(variance / 2, size) - rng.poisson(variance / 2, size), dtype=np.int64)
