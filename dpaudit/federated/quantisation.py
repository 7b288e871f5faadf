"""From a float vector to integers whose norm is bounded: clip, scale, round at random, again until it fits.

Kairouz, Liu, Steinke (arXiv:2102.06387, Algorithm 1) without its rotation, which only narrows the range of a sum: the
field here is wide enough without it, and canaries keep coordinates of their own. A vector is clipped to the clip norm
and measured in steps of a grid, of which `levels` make a clip norm. Rounding moves a coordinate by less than a step,
and so lengthens the vector. How much is part of the sensitivity: the rounding is repeated until the integer vector has
an L2 norm of at most 1 + 1/256 clip norms, and this bound is what the noise is accounted against.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpaudit import _validate

Ints = NDArray[np.int64]
Matrix = NDArray[np.float32]
LEAST_LEVELS = 1024
INFLATION = 1 + 1 / 256
"""Bound on the L2 norm of a quantised contribution, in clip norms."""
FIELD_BITS = 32
_ATTEMPTS = 100


def levels_for(width: int) -> int:
    """Return the steps per clip norm for vectors of `width` coordinates: a power of two, at least 16 sqrt(width).

    By arXiv:2102.06387, Proposition 22 with beta = e^(-1/2), the rounded norm then stays under sqrt(c^2 + d/4 + c +
    sqrt(d)/2) <= (1 + 1/256) c with probability at least 1 - beta: rounding is repeated 1.7 times at most on average.
    """
    _validate.positive_integer(width=width)
    wanted = max(LEAST_LEVELS, 16 * math.sqrt(width))
    return 1 << math.ceil(math.log2(wanted))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiser:
    """Quantises contributions of `width` coordinates, clipped to `clip_norm`."""

    clip_norm: float
    width: int

    def __post_init__(self) -> None:
        _validate.positive(clip_norm=self.clip_norm)
        _validate.positive_integer(width=self.width)

    @property
    def levels(self) -> int:
        """Steps of the grid per clip norm."""
        return levels_for(self.width)

    @property
    def granularity(self) -> float:
        """Width of a step of the grid."""
        return self.clip_norm / self.levels

    @property
    def l2_norm(self) -> float:
        """Bound on the L2 norm of a quantised contribution, in steps."""
        return self.levels * INFLATION

    @property
    def l1_norm(self) -> float:
        """Bound on its L1 norm, in steps: |x|_1 <= sqrt(d) |x|_2, and |x|_1 <= |x|_2^2 for integers."""
        return min(math.sqrt(self.width) * self.l2_norm, self.l2_norm**2)

    def scaled(self, rows: Matrix) -> NDArray[np.float64]:
        """Return finite rows (n, at most width), each clipped to the clip norm, in steps, filled up with zeros."""
        wide = np.zeros((len(rows), self.width))
        wide[:, : rows.shape[1]] = rows
        norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        return np.asarray(wide * (self.levels / np.maximum(norms, self.clip_norm))[:, None])

    def quantised(self, rows: Matrix, *, key: bytes) -> Ints:
        """Return finite rows (n, at most width) as integers (n, width) of L2 norm at most `l2_norm`.

        The coins of a row come from the key and the row itself: they do not depend on who else takes part, and the
        same row is rounded in the same way wherever it is computed.
        """
        scaled = self.scaled(rows)
        result = np.empty(scaled.shape, dtype=np.int64)
        for row, floats, out in zip(rows, scaled, result, strict=True):
            digest = hashlib.sha256(key + np.ascontiguousarray(row, dtype="<f4").tobytes()).digest()
            rng = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))
            out[:] = rounded(floats, rng, l2_norm=self.l2_norm)
        return result

    def floats(self, integers: NDArray[np.integer] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return steps as what they stand for."""
        return np.asarray(integers * self.granularity, dtype=np.float64)

    def steps(self, floats: NDArray[np.float64]) -> Ints:
        """Return the whole steps that a sum of quantised contributions stands for: the inverse of `floats`."""
        return np.rint(floats / self.granularity).astype(np.int64)


def rounded(values: NDArray[np.float64], rng: np.random.Generator, *, l2_norm: float) -> Ints:
    """Return values rounded up or down at random, without bias, again until the L2 norm is at most `l2_norm`.

    After a hundred attempts (each fails with probability e^(-1/2) at most, where `l2_norm` is the bound of
    `levels_for`) values are rounded towards zero, which lengthens nothing.
    """
    low = np.floor(values)
    share, limit = values - low, math.floor(l2_norm**2)
    for _ in range(_ATTEMPTS):
        found = (low + (rng.random(values.size) < share)).astype(np.int64)
        if int(np.dot(found, found)) <= limit:
            return found
    return np.trunc(values).astype(np.int64)


def wrapped(values: Ints) -> Ints:
    """Return integers modulo the size of the field, in [-2^31, 2^31): what a sum in the field can show."""
    half = 1 << (FIELD_BITS - 1)
    return ((values + half) & ((1 << FIELD_BITS) - 1)) - half


def fits_field(shares: int, *, l2_norm: float, noise_stddev: float) -> bool:
    """Return whether a sum cannot wrap around but by noise beyond 12 standard deviations.

    Each of `shares` integer vectors has no coordinate above its L2 norm. A discrete Gaussian is sub-Gaussian (Canonne
    et al., Corollary 17), and Skellam noise nearly (Bernstein), so that a coordinate wraps with probability below
    1e-30. Wrapping costs accuracy only: it happens after the noise, so that privacy does not depend on it.
    """
    return shares * l2_norm + 12 * noise_stddev < 1 << (FIELD_BITS - 1)
