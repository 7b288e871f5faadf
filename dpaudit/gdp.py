"""Gaussian differential privacy: exact conversions between mu and (epsilon, delta), in log space.

mu-GDP (Dong, Roth, Su, arXiv:1905.02383) is the privacy of telling N(0, 1) from N(mu, 1). A Gaussian mechanism
with noise multiplier z is (1/z)-GDP. Corollary 2.13 there (the same curve as Balle and Wang, arXiv:1805.06530,
Theorem 8): delta(epsilon) = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu).
"""

from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erf, erfcx, log_ndtr

from dpaudit.errors import UsageError

Floats = NDArray[np.float64]
_HALVINGS = 130  # from 80 down to below 1e-37: every representable answer that matters, to the last bit
_LOG_SQRT_2PI = 0.5 * np.log(2 * np.pi)


def _mills(x: Floats) -> Floats:
    """Return (1 - Phi(x)) / phi(x), which stays smooth where both underflow."""
    return np.asarray(np.sqrt(np.pi / 2) * erfcx(x / np.sqrt(2)))


def _log_delta(epsilon: Floats, mu: Floats) -> Floats:
    """Return log delta(epsilon) of mu-GDP for mu > 0, epsilon >= 0.

    With x = epsilon/mu - mu/2 and y = epsilon/mu + mu/2, e^epsilon phi(y) = phi(x), so that
    delta = phi(x) (M(x) - M(y)) with M Mills' ratio: no cancellation of two tiny tails.
    """
    x, y = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        tail = -0.5 * x * x - _LOG_SQRT_2PI + np.log(_mills(np.maximum(x, -1)) - _mills(y))
        body = log_ndtr(-x) + np.log1p(-np.exp(-0.5 * x * x - _LOG_SQRT_2PI - log_ndtr(-x)) * _mills(y))
    return np.asarray(np.where(x >= -1, tail, body))


def _checked(name: str, value: ArrayLike, *, upper: float = np.inf) -> Floats:
    array = np.asarray(value, dtype=np.float64)
    inside = (array >= 0) & np.isfinite(array) if upper == np.inf else (array > 0) & (array < upper)
    if not np.all(inside):
        wanted = "finite and at least 0" if upper == np.inf else f"strictly between 0 and {upper:g}"
        raise UsageError(f"{name} must be {wanted}; got {np.extract(~inside, array)[0]!r}.")
    return array


def _plain(result: Floats) -> float | Floats:
    return float(result) if result.ndim == 0 else result


@overload
def gdp_delta(epsilon: float, mu: float) -> float: ...
@overload
def gdp_delta(epsilon: ArrayLike, mu: ArrayLike) -> Floats: ...
def gdp_delta(epsilon: ArrayLike, mu: ArrayLike) -> float | Floats:
    """Return the smallest delta at `epsilon` of a mu-GDP mechanism; arrays broadcast.

    Raises: UsageError unless epsilon and mu are finite and at least 0.
    """
    eps, strength = np.broadcast_arrays(_checked("epsilon", epsilon), _checked("mu", mu))
    safe = np.where(strength > 0, strength, 1.0)
    at_zero = erf(safe / np.sqrt(8))
    delta = np.where(eps > 0, np.exp(_log_delta(eps, safe)), at_zero)
    return _plain(np.where(strength > 0, np.clip(delta, 0.0, 1.0), 0.0))


@overload
def gdp_epsilon(mu: float, delta: float) -> float: ...
@overload
def gdp_epsilon(mu: ArrayLike, delta: ArrayLike) -> Floats: ...
def gdp_epsilon(mu: ArrayLike, delta: ArrayLike) -> float | Floats:
    """Return the smallest epsilon >= 0 at `delta` of a mu-GDP mechanism; arrays broadcast.

    Raises: UsageError unless mu is finite and at least 0 and delta lies strictly between 0 and 1.
    """
    strength, wanted = np.broadcast_arrays(_checked("mu", mu), _checked("delta", delta, upper=1.0))
    safe, log_wanted = np.where(strength > 0, strength, 1.0), np.log(wanted)
    low = np.zeros(safe.shape)
    # delta(epsilon) <= Phi(mu/2 - epsilon/mu) <= exp(-(epsilon/mu - mu/2)^2 / 2): the end of the bracket.
    high = safe**2 / 2 + safe * np.sqrt(-2 * log_wanted)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if np.all((middle == low) | (middle == high)):
            break
        reached = _log_delta(middle, safe) <= log_wanted
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    needless = (strength == 0) | (np.asarray(gdp_delta(np.zeros(safe.shape), safe)) <= wanted)
    return _plain(np.where(needless, 0.0, high))


@overload
def gdp_mu(epsilon: float, delta: float) -> float: ...
@overload
def gdp_mu(epsilon: ArrayLike, delta: ArrayLike) -> Floats: ...
def gdp_mu(epsilon: ArrayLike, delta: ArrayLike) -> float | Floats:
    """Return the largest mu whose mu-GDP implies (epsilon, delta)-DP; arrays broadcast.

    Raises: UsageError unless epsilon is finite and at least 0 and delta lies strictly between 0 and 1.
    """
    eps, wanted = np.broadcast_arrays(_checked("epsilon", epsilon), _checked("delta", delta, upper=1.0))
    low, high = np.zeros(eps.shape), np.sqrt(2 * eps) + 80.0  # there 1 - delta < Phi(-40)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        kept = np.asarray(gdp_delta(eps, middle)) <= wanted
        low, high = np.where(kept, middle, low), np.where(kept, high, middle)
    return _plain(low)
