"""What a proven epsilon allows any attack to achieve: ceilings on TPR at FPR, AUC and advantage.

An (epsilon, delta)-differentially private release limits every test of "in" against "out" (Kairouz, Oh, Viswanath,
arXiv:1311.0776, theorem 2.1): TPR <= e^epsilon FPR + delta and 1 - FPR <= e^epsilon (1 - TPR) + delta. Every pair of a
privacy profile gives such lines, and a trade-off curve gives points; the ceiling is the least of all of them.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dpaudit import _validate
from dpaudit.records import AccountingSummary, AttackResult

Floats = NDArray[np.float64]
_GRID = np.unique(np.concatenate([[0.0], np.geomspace(1e-9, 1e-2, 400), np.linspace(1e-2, 1.0, 2000)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """Upper bounds on attacks: `profile` holds (delta, epsilon), `points` (FPR, largest TPR); each pair is proven."""

    profile: tuple[tuple[float, float], ...]
    points: tuple[tuple[float, float], ...] = ()

    def _known(self, fpr: Floats) -> Floats:
        best = np.ones_like(fpr)
        for delta, epsilon in self.profile:
            best = np.minimum(best, np.exp(min(epsilon, 700.0)) * fpr + delta)
            best = np.minimum(best, 1 - np.exp(-epsilon) * np.maximum(1 - delta - fpr, 0.0))
        for at, tpr in self.points:
            scaled = tpr * fpr / at if at > 0 else np.ones_like(fpr)  # the largest TPR is concave in the FPR
            best = np.minimum(best, np.where(fpr <= at, tpr, scaled))
        return best

    def tpr(self, fpr: float) -> float:
        """Return the largest true-positive rate that any attack can have at a false-positive rate."""
        _validate.probability(fpr=fpr)
        return float(self._known(np.array([fpr]))[0])

    def auc(self) -> float:
        """Return the largest area under the curve: an upper sum, never below the truth."""
        return float(min(1.0, np.sum(np.diff(_GRID) * self._known(_GRID)[1:])))

    def advantage(self) -> float:
        """Return the largest TPR - FPR (an upper bound on a fine grid)."""
        return float(min(1.0, np.max(self._known(_GRID)[1:] - _GRID[:-1])))


def ceiling_of_claim(epsilon: float, delta: float) -> Ceiling:
    """Return the ceiling of one (epsilon, delta).

    Raises: UsageError for epsilon < 0 or delta outside [0, 1].
    """
    _validate.non_negative(epsilon=epsilon)
    _validate.probability(delta=delta)
    return Ceiling(profile=((delta, epsilon),))


def ceiling_of(summary: AccountingSummary) -> Ceiling | None:
    """Return the ceiling that the accountants prove; None when they prove nothing."""
    profile = list(summary.profile)
    epsilons = [e for e in (summary.epsilon_pld, summary.epsilon_rdp) if e is not None]
    if epsilons:
        profile.append((summary.delta, min(epsilons)))
    points = [*summary.tpr_ceilings, *((fpr, 1 - fnr) for fpr, fnr in summary.trade_off)]
    if not profile and not points:
        return None
    return Ceiling(profile=tuple(profile), points=tuple(points))


def with_ceiling(result: AttackResult, ceiling: Ceiling | None) -> AttackResult:
    """Return the result with the ceilings beside what was measured."""
    if ceiling is None:
        return result
    points = tuple(replace(point, ceiling=ceiling.tpr(point.fpr)) for point in result.tpr_at_fpr)
    return replace(result, tpr_at_fpr=points, auc_ceiling=ceiling.auc(), advantage_ceiling=ceiling.advantage())
