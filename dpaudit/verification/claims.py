"""What is claimed of a mechanism, as points (epsilon, delta) that it must respect: one point, a profile, GDP, Renyi."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dpaudit import _validate
from dpaudit.errors import UsageError
from dpaudit.gdp import gdp_delta

PROFILE = tuple(np.linspace(0.0, 2.0, 9).tolist())
"""Epsilons at which a claimed profile is tested, if nothing else is said."""

_TANGENTS = 10
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyClaim:
    """What is claimed of a mechanism: points (epsilon, delta), the first of which is the headline; and its name."""

    points: tuple[tuple[float, float], ...]
    text: str

    def __post_init__(self) -> None:
        if not self.points:
            raise UsageError("a privacy claim needs at least one (epsilon, delta) point.")
        for epsilon, delta in self.points:
            _validate.non_negative(epsilon=epsilon)
            _validate.probability(delta=delta)

    @classmethod
    def approximate(cls, epsilon: float, delta: float = 0.0) -> "PrivacyClaim":
        """(epsilon, delta)-differential privacy; delta 0 is pure."""
        _validate.non_negative(epsilon=epsilon)
        _validate.probability(delta=delta)
        name = f"{epsilon:g}-DP" if delta == 0 else f"({epsilon:g}, {delta:g})-DP"
        return cls(points=((epsilon, delta),), text=name)

    @classmethod
    def gaussian(cls, mu: float) -> "PrivacyClaim":
        """mu-Gaussian differential privacy (Dong, Roth and Su, arXiv:1905.02383), tested at its whole profile.

        The epsilons are those at which thresholds from the middle to two standard deviations beyond are best.
        """
        _validate.positive(mu=mu)
        epsilons = np.linspace(0.0, mu * (2 + mu / 2), len(PROFILE))
        return cls.profile(lambda epsilon: float(gdp_delta(epsilon, mu)), epsilons=epsilons, text=f"{mu:g}-GDP")

    @classmethod
    def profile(
        cls,
        delta_of: Callable[[float], float],
        *,
        epsilons: Iterable[float] = PROFILE,
        text: str = "the claimed profile",
    ) -> "PrivacyClaim":
        """A whole privacy profile delta(epsilon), tested at the given epsilons; the first is the headline."""
        return cls(points=tuple((float(e), float(delta_of(float(e)))) for e in epsilons), text=text)

    @classmethod
    def renyi(cls, order: float, epsilon: float) -> "PrivacyClaim":
        """(order, epsilon)-Renyi differential privacy, tested on events by data processing.

        For the rates p and q of any event, p^a q^(1-a) + (1-p)^a (1-q)^(1-a) <= e^((a-1) epsilon). The pairs (p, q)
        that satisfy it are a convex set, so they are exactly those below all its tangents p <= e^x q + d; each
        tangent is a point (x, d) that the mechanism must respect (this is also the best conversion to approximate
        differential privacy: Asoodeh et al., arXiv:2008.06529).
        """
        if not order > 1:
            raise UsageError(f"order must be greater than 1; got {order!r}.")
        _validate.positive(epsilon=epsilon)
        points = _renyi_points(order, epsilon)
        if not points:
            raise UsageError(f"({order:g}, {epsilon:g})-Renyi DP allows nearly everything; no event can refute it.")
        return cls(points=points, text=f"({order:g}, {epsilon:g})-Renyi DP")


def renyi_divergence(p: float, q: float, order: float) -> float:
    """Return the Renyi divergence of a coin of rate p from one of rate q; infinity where q does not allow p.

    By data processing, no larger than that of the two output distributions for any event with these rates.
    """
    terms = [(p, q), (1 - p, 1 - q)]
    if any(a > 0 and b <= 0 for a, b in terms):
        return math.inf
    logs = [order * math.log(a) + (1 - order) * math.log(b) for a, b in terms if a > 0]
    return max(0.0, float(np.logaddexp.reduce(logs)) / (order - 1))


def _renyi_points(order: float, epsilon: float) -> tuple[tuple[float, float], ...]:
    """Return tangents of the set of rates that (order, epsilon)-Renyi DP allows, by rising epsilon."""
    points = []
    for q in np.geomspace(1e-3, 0.97, _TANGENTS) * math.exp(-epsilon):
        p = _largest_p(float(q), order, epsilon)
        slope = _slope(p, float(q), order)
        intercept = p - slope * float(q)
        if slope < 1:  # read it off the complement, with the sides exchanged: the claim is symmetric
            slope, intercept = 1 / slope, (intercept + slope - 1) / slope
        delta = intercept + _ROUNDING
        if 0 <= delta < 1:
            points.append((math.log(slope), delta))
    return tuple(sorted(points))


def _largest_p(q: float, order: float, epsilon: float) -> float:
    """Return the largest rate p >= q that the claim allows, rounded up."""
    low, high = q, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if renyi_divergence(middle, q, order) <= epsilon else (low, middle)
    return high


def _slope(p: float, q: float, order: float) -> float:
    """Return dp/dq along the border of the allowed set."""
    win, lose = math.log(p / q), math.log1p(-p) - math.log1p(-q) if p < 1 else -math.inf
    a = order
    # (a - 1)/a (e^(a win) - e^(a lose)) / (e^((a-1) win) - e^((a-1) lose)), without overflow
    gap = lose - win
    return (a - 1) / a * math.exp(win) * -math.expm1(a * gap) / -math.expm1((a - 1) * gap)


class Worse(NamedTuple):
    """A mechanism about twice as bad as a claim: its telling event has rate `q`, and exceeds the claim by `excess`."""

    q: float
    excess: float


def twice_as_bad(claim: PrivacyClaim) -> Worse:
    """Return randomised response with twice the epsilon of the claim's headline (0.5 more for 0), or twice the delta.

    Whichever exceeds the claim by more; its event is as unlikely under one data set as likely under the other.
    """
    epsilon, delta = claim.points[0]
    worse = 2 * epsilon if epsilon > 0 else 0.5
    excess = min(max((math.exp(worse) - math.exp(epsilon)) / (1 + math.exp(worse)), delta), 1 - delta)
    return Worse((1 - delta - excess) / (1 + math.exp(epsilon)), excess)
