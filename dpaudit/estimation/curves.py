"""Trade-off curves for one-run f-DP auditing: given a true-positive rate, the least false-positive rate.

A mechanism is f-DP when every test of "in" against "out" with false-positive rate x has a true-positive rate of at
most fbar(x) = 1 - f(x). The audit needs the inverse: `least_fpr(y)` = fbar^-1(y), increasing, least_fpr(y) <= y.
A curve that is too low (too little privacy) only weakens an audit; one that is too high makes it invalid. All
curves here are exact or err to the low side.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from dpaudit.errors import UsageError
from dpaudit.gdp import gdp_epsilon

LeastFpr = Callable[[float], float]


def gaussian_curve(mu: float) -> LeastFpr:
    """Return least_fpr of mu-GDP: Phi(Phi^-1(y) - mu) (arXiv:1905.02383, equation 6)."""
    return lambda tpr: float(ndtr(ndtri(tpr) - mu))


def eps_delta_curve(epsilon: float, delta: float) -> LeastFpr:
    """Return least_fpr of (epsilon, delta)-DP: max(0, e^-eps (y - delta), 1 - delta - e^eps (1 - y)).

    The symmetric curve of Proposition 3 of arXiv:1905.02383 (Wasserman and Zhou): no family is assumed.
    """
    shrink, grow = math.exp(-min(epsilon, 700.0)), math.exp(min(epsilon, 700.0))

    def least_fpr(tpr: float) -> float:
        return max(0.0, shrink * (tpr - delta), 1 - delta - grow * (1 - tpr))

    return least_fpr


def group_curve(least_fpr: LeastFpr, size: int) -> LeastFpr:
    """Return least_fpr of a group of `size` units: that of one unit, applied `size` times.

    An f-DP mechanism is (1 - (1 - f)^(o k))-DP for groups of k (arXiv:1905.02383, Theorem 2.14).
    """
    if size == 1:
        return least_fpr

    def of_group(tpr: float) -> float:
        for _ in range(size):
            tpr = least_fpr(tpr)
        return tpr

    return of_group


def profile_curve(epsilons: ArrayLike, deltas: ArrayLike) -> LeastFpr:
    """Return least_fpr of a privacy profile: a mechanism that is (epsilons[j], deltas[j])-DP for every j.

    The supremum of the (epsilon, delta) curves, which is piecewise linear and convex: exact for the listed points,
    and on the safe side of the mechanism's own curve whatever points are listed.

    Args:
        epsilons: Values >= 0, any order.
        deltas: The delta at each epsilon, in [0, 1].

    Raises: UsageError when the arrays do not match or hold other values.
    """
    eps, dlt = np.asarray(epsilons, dtype=np.float64), np.asarray(deltas, dtype=np.float64)
    if eps.ndim != 1 or eps.shape != dlt.shape or eps.size == 0:
        raise UsageError(f"a privacy profile needs two vectors of one length; got shapes {eps.shape} and {dlt.shape}.")
    if not (np.all(np.isfinite(eps)) and np.all(eps >= 0) and np.all((dlt >= 0) & (dlt <= 1))):
        raise UsageError("a privacy profile needs finite epsilons >= 0 and deltas in [0, 1].")
    eps = np.minimum(eps, 700.0)
    # Lines slope * y + offset below fbar^-1: both directions of every point, and the trivial 0.
    slope = np.concatenate([[0.0], np.exp(-eps), np.exp(eps)])
    offset = np.concatenate([[0.0], -np.exp(-eps) * dlt, 1 - dlt - np.exp(eps)])
    return lambda tpr: float(np.max(tpr * slope + offset))


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveFamily:
    """One-parameter family of curves, ordered: a larger parameter means less privacy.

    Attributes:
        name: What the family is called in results, for example "gaussian" or "pld".
        curve: Parameter to least_fpr.
        epsilon: Parameter to the smallest epsilon at the delta that was asked for.
        high: A parameter so large that no audit refutes it.
        parameter: What the parameter is called in results.
        tolerance: How closely the largest refuted parameter is searched; curves of a PLD are dear.
    """

    name: str
    curve: Callable[[float], LeastFpr]
    epsilon: Callable[[float, float], float]
    high: float
    parameter: str
    tolerance: float = 1e-9


def gaussian_family() -> CurveFamily:
    """Return the family of Gaussian trade-offs, with parameter mu."""
    return CurveFamily(
        name="gaussian",
        curve=gaussian_curve,
        epsilon=lambda mu, delta: float(gdp_epsilon(mu, delta)),
        high=60.0,
        parameter="mu",
    )
