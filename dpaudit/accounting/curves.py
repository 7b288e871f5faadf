"""What one privacy loss distribution tells: profile, trade-off curve, ceilings on attacks, mu with its regret."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from dpaudit import _validate
from dpaudit.accounting._pmf import Floats, Pld, Profile
from dpaudit.errors import UsageError
from dpaudit.gdp import gdp_mu

_EPSILONS = 1500
_SMALLEST_DELTA = 1e-12


class PrivacyCurve:
    """The privacy profile delta(epsilon) of a mechanism, and everything that follows from it.

    Every answer is on the safe side for the person protected: epsilons, deltas, attack rates and posteriors are upper
    bounds, false-negative rates lower bounds.
    """

    def __init__(self, pld: Pld) -> None:
        self._profiles: tuple[Profile, ...] = pld.profiles()
        reach = float(self.epsilon(max(_SMALLEST_DELTA, 4 * self._infinity())))
        grid = np.linspace(0.0, 1.0, _EPSILONS) ** 2 * (reach if math.isfinite(reach) and reach > 0 else 1.0)
        self._epsilons, self._deltas = grid, self.delta(grid)

    def _infinity(self) -> float:
        return max(float(profile.above[-1]) for profile in self._profiles)

    def delta(self, epsilon: ArrayLike) -> Floats:
        """Return delta at each epsilon >= 0, for the worse direction."""
        wanted = np.asarray(epsilon, dtype=np.float64)
        if not np.all(wanted >= 0):
            raise UsageError(f"epsilon must be at least 0; got {wanted.min()!r}.")
        return np.asarray(np.max([profile.delta(wanted) for profile in self._profiles], axis=0))

    def epsilon(self, delta: ArrayLike) -> Floats:
        """Return the least epsilon at each delta, for the worse direction; infinity where there is none."""
        wanted = np.asarray(delta, dtype=np.float64)
        if not np.all((wanted > 0) & (wanted < 1)):
            raise UsageError("every delta must lie strictly between 0 and 1.")
        return np.asarray(np.max([profile.epsilon(wanted) for profile in self._profiles], axis=0))

    def false_negative_rate(self, fpr: ArrayLike) -> Floats:
        """Return the least false-negative rate of any attack at each false-positive rate (Dong et al., Prop. 2.5).

        Every (epsilon, delta) of the profile forbids a half plane on each side of the diagonal; the curve is the
        largest of these bounds.
        """
        alpha = np.asarray(fpr, dtype=np.float64)
        best = np.zeros(alpha.shape)
        for start in range(0, self._epsilons.size, 100):
            eps = self._epsilons[start : start + 100, None]
            delta = self._deltas[start : start + 100, None]
            flat = alpha.reshape(1, -1)
            with np.errstate(over="ignore", invalid="ignore"):
                steep = np.where(flat > 0, np.exp(eps) * flat, 0.0)
            bound = np.maximum(1 - delta - steep, np.exp(-eps) * (1 - delta - flat))
            best = np.maximum(best, np.maximum(bound.max(axis=0), 0.0).reshape(alpha.shape))
        return best

    def true_positive_rate(self, fpr: ArrayLike) -> Floats:
        """Return the largest true-positive rate of any attack at each false-positive rate."""
        return 1 - self.false_negative_rate(fpr)

    def posterior(self, prior: float, fpr: float) -> float:
        """Return the largest posterior probability of membership after a positive of an attack with rate `fpr`."""
        return largest_posterior(prior, tpr=float(self.true_positive_rate(fpr)), fpr=fpr)

    def advantage(self) -> float:
        """Return the largest TPR - FPR of any attack: delta at epsilon 0."""
        return float(self.delta(0.0))

    def mu(self, smallest_delta: float) -> tuple[float, float]:
        """Return (mu, regret): the least mu-GDP curve under the profile down to `smallest_delta`, and how far under.

        Regret is the least shift k with f(a + k) - k <= f_mu(a) for every a (arXiv:2503.10945): below 0.01, mu
        summarises the curve f well. No guarantee is made for deltas below `smallest_delta`.
        """
        mu = self.mu_only(smallest_delta)
        return (mu, self._regret(mu)) if mu > 0 else (0.0, 0.0)

    def mu_only(self, smallest_delta: float) -> float:
        """Return the least mu whose mu-GDP curve covers the profile for every delta down to `smallest_delta`."""
        _validate.open_unit_interval(smallest_delta=smallest_delta)
        inside = (self._deltas >= smallest_delta) & (self._deltas < 1)
        eps = np.append(self._epsilons[inside], self.epsilon(smallest_delta))
        deltas = np.append(self._deltas[inside], smallest_delta)
        finite = np.isfinite(eps)
        if not finite.any() or self._deltas[0] <= 0:
            return 0.0
        return float(np.max(gdp_mu(eps[finite], deltas[finite])))

    def _regret(self, mu: float) -> float:
        ends = np.geomspace(1e-9, 0.05, 300)
        alpha = np.unique(np.concatenate([[0.0], ends, np.linspace(0.05, 0.95, 600), 1 - ends, [1.0]]))
        beta, gaussian = self.false_negative_rate(alpha), ndtr(-ndtri(alpha) - mu)
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            enough = np.all(np.interp(np.minimum(alpha + middle, 1.0), alpha, beta) - middle <= gaussian)
            low, high = (low, middle) if enough else (middle, high)
        return high


def largest_posterior(prior: float, *, tpr: float, fpr: float) -> float:
    """Return the probability of membership after a positive of an attack with these rates, by Bayes.

    With the ceiling on `tpr` at `fpr` it is the largest that any attack with `fpr` reaches.

    Raises: UsageError unless prior and fpr lie strictly between 0 and 1.
    """
    _validate.open_unit_interval(prior=prior, fpr=fpr)
    return prior * tpr / (prior * tpr + (1 - prior) * fpr)


def pairs(first: Sequence[float] | Floats, second: Floats) -> tuple[tuple[float, float], ...]:
    """Return plain (x, y) pairs, leaving out those with an infinite or missing y."""
    return tuple((float(x), float(y)) for x, y in zip(first, second, strict=True) if math.isfinite(y))
