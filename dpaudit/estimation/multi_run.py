"""Independent trials: bounds from the two error rates of a test of "in" against "out".

A trial is one training run with or without the target (or, under the assumption that canaries do not
influence each other's scores, one canary of a run). FPR and FNR get exact one-sided limits, each at half the error.
"""

import math

from scipy.special import ndtri

from dpaudit.estimation._invert import largest_refuted_for_group
from dpaudit.estimation.binomial import upper_limit


def epsilon_from_rates(fpr: float, fnr: float, delta: float, *, group_size: int = 1) -> float:
    """Return the epsilon at `delta` that upper limits of both error rates refute; 0 when none.

    Kairouz, Oh and Viswanath 2015: (epsilon, delta)-DP forces FPR + e^eps FNR >= 1 - delta and the same with the
    rates exchanged. Jagielski et al. 2020 plug in confidence limits. For a group of k, the pair must be
    (k epsilon, delta_k)-DP.
    """
    if group_size == 1:
        ratios = [(1 - delta - fnr, fpr), (1 - delta - fpr, fnr)]
        return max(0.0, *(math.log(top / bottom) for top, bottom in ratios if top > 0 and bottom > 0), 0.0)

    def refuted(epsilon: float, total_delta: float) -> bool:
        grow = math.exp(min(epsilon, 700.0))
        return fpr * grow + fnr < 1 - total_delta or fnr * grow + fpr < 1 - total_delta

    smallest = min(fpr, fnr)
    high = -math.log(smallest) if smallest > 0 else 700.0
    return largest_refuted_for_group(refuted, max(high, 0.0), delta=delta, group_size=group_size)


def mu_from_rates(fpr: float, fnr: float) -> float:
    """Return Phi^-1(1 - FPR) - Phi^-1(FNR), at least 0: the mu that upper limits of both rates refute.

    Nasr et al. 2023 (arXiv:2302.07956), from arXiv:1905.02383 equation 6. A negative difference is no evidence, so
    it gives 0; its absolute value (as a released tool took it) would turn noise into a bound.
    """
    if fpr >= 1 or fnr >= 1:
        return 0.0
    return max(0.0, -float(ndtri(fpr)) - float(ndtri(fnr)))


def rate_limits(
    *, false_positives: int, non_members: int, false_negatives: int, members: int, error: float
) -> tuple[float, float]:
    """Return upper limits of (FPR, FNR) that hold together with probability at least 1 - error.

    The threshold behind the counts must not have been chosen with the same scores, except that it may be
    a non-member order statistic of a fixed rank (see `thresholds.at_rank`).
    """
    return upper_limit(false_positives, non_members, error / 2), upper_limit(false_negatives, members, error / 2)
