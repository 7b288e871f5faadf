"""The Bayesian estimate of Zanella-Beguelin et al. (arXiv:2206.05199): a credible bound, not a confidence bound.

Its "95 %" bound exceeds the truth in 11 to 27 % of the audits of randomised response (measured), so it is marked
credible and is never a ground for a verdict.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv

from dpaudit.estimation._invert import group_delta, largest_refuted

_NODES = 2000
_PRIOR = 0.5  # Jeffreys

Floats = NDArray[np.float64]


def _region(fnr: Floats, epsilon: float, delta: float) -> tuple[Floats, Floats]:
    """Return the least and the greatest FPR that (epsilon, delta)-DP allows beside each FNR."""
    grow, shrink = math.exp(min(epsilon, 700.0)), math.exp(-epsilon)
    low = np.maximum(0.0, np.maximum(1 - delta - fnr * grow, (1 - delta - fnr) * shrink))
    high = np.minimum(1.0, np.minimum(1 + (delta - fnr) * shrink, delta + (1 - fnr) * grow))
    return low, high


def credible_lower_bound(
    *,
    tp: int,
    fn: int,
    fp: int,
    tn: int,
    delta: float,
    error: float = 0.05,
    group_size: int = 1,
    nodes: int = _NODES,
) -> float:
    """Return the epsilon below which the posterior probability is `error`; 0 when it is more already at 0.

    FNR ~ Beta(FN + 1/2, TP + 1/2) and FPR ~ Beta(FP + 1/2, TN + 1/2), independent; the probability that the two lie
    in the region of (epsilon, delta)-DP is an integral over the quantiles of the FNR (2,000 midpoints).

    Args:
        tp: Members called members.
        fn: Members called non-members.
        fp: Non-members called members.
        tn: Non-members called non-members.
        delta: Of the bound.
        error: Posterior probability below the bound.
        group_size: Units by which the data sets differ.
        nodes: Quantiles of the FNR that the integral uses.
    """
    levels = (np.arange(nodes) + 0.5) / nodes
    fnr = betaincinv(fn + _PRIOR, tp + _PRIOR, levels)

    def improbable(epsilon: float) -> bool:
        low, high = _region(fnr, group_size * epsilon, group_delta(epsilon, delta, group_size))
        inside = betainc(fp + _PRIOR, tn + _PRIOR, np.maximum(low, high)) - betainc(fp + _PRIOR, tn + _PRIOR, low)
        return float(np.mean(inside)) < error

    return largest_refuted(improbable, 50.0, tolerance=1e-7 if nodes == _NODES else 1e-3)
