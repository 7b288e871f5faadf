"""One run, many canaries: the bound of Steinke, Nasr and Jagielski (arXiv:2305.08846), valid for every mechanism.

The game: m canaries, each included by an independent fair coin; the auditor, who sees the output, guesses r of the
coins (r fixed beforehand) and abstains on the others; v guesses are right.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc, betaincinv, gammaln

from dpaudit.errors import UsageError
from dpaudit.estimation._invert import largest_refuted_for_group

_REACH = 12.0  # standard deviations (and 30 counts more): the mass outside cannot move the maximum


def check_game(canaries: int, guesses: int, correct: int) -> None:
    """Raise UsageError unless 0 <= correct <= guesses <= canaries and there is a guess."""
    if not (1 <= guesses <= canaries and 0 <= correct <= guesses):
        raise UsageError(
            "a guessing game needs 1 <= guesses <= canaries and 0 <= correct <= guesses; "
            f"got canaries={canaries}, guesses={guesses}, correct={correct}."
        )


def _log_pmf(k: NDArray[np.float64], n: int, p: float) -> NDArray[np.float64]:
    choose = gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)
    return np.asarray(choose + k * math.log(p) + (n - k) * math.log1p(-p))


def _delta_slope(guesses: int, correct: int, p: float) -> float:
    """Return max over 1 <= i <= v of P[v - i <= Bin(r, p) < v] / i."""
    sd = math.sqrt(guesses * p * (1 - p))
    low = max(0, math.floor(guesses * p - _REACH * sd - 30))
    high = min(correct - 1, math.ceil(guesses * p + _REACH * sd + 30))
    low = max(0, min(low, high - 1))
    counts = np.arange(high, low - 1, -1, dtype=np.float64)
    mass = np.cumsum(np.exp(_log_pmf(counts, guesses, p)))
    return float(np.max(mass / (correct - counts)))


def p_value(*, canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return a p-value of "the mechanism is (epsilon, delta)-DP" from `correct` right guesses of `guesses`.

    Theorem 5.2 and appendix D of arXiv:2305.08846: with q = e^epsilon / (1 + e^epsilon) and W ~ Bin(r, q),
    P[V >= v] <= P[W >= v] + 2 m delta max_i P[v - i <= W < v] / i. `canaries` counts the abstained ones too.

    Raises: UsageError for impossible counts.
    """
    check_game(canaries, guesses, correct)
    if correct == 0:
        return 1.0
    p = 1.0 / (1.0 + math.exp(-min(epsilon, 700.0)))
    if p >= 1.0:
        return 1.0
    beta = float(bdtrc(correct - 1, guesses, p))
    if delta == 0 or beta >= 1:
        return min(1.0, beta)
    return min(1.0, beta + 2 * canaries * delta * _delta_slope(guesses, correct, p))


@lru_cache(maxsize=4096)
def epsilon_lower_bound(
    *,
    canaries: int,
    guesses: int,
    correct: int,
    delta: float,
    error: float = 0.05,
    group_size: int = 1,
    tolerance: float = 1e-9,
) -> float:
    """Return the lower bound on epsilon at `delta` that exceeds the truth with probability at most `error`.

    Assumption-free: it holds for every mechanism whose coins were independent and fair and whose `guesses` was
    fixed before the coins were seen. 0 when nothing is refuted.

    Raises: UsageError for impossible counts.
    """
    check_game(canaries, guesses, correct)
    if correct == 0:
        return 0.0
    rate = float(betaincinv(correct, guesses - correct + 1.0, error))  # where P[Bin(r, q) >= v] = error
    if rate <= 0.5:
        return 0.0

    def refuted(total_epsilon: float, total_delta: float) -> bool:
        value = p_value(canaries=canaries, guesses=guesses, correct=correct, epsilon=total_epsilon, delta=total_delta)
        return value < error

    high = math.log(rate) - math.log1p(-rate)
    return largest_refuted_for_group(refuted, high, delta=delta, group_size=group_size, tolerance=tolerance)
