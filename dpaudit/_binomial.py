"""Exact binomial tails without SciPy, whose import would double the time of `dpaudit gate`."""

from math import exp, lgamma, log, log1p

_ENOUGH = 1e-17


def _log_term(k: int, n: int, p: float) -> float:
    choose = lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
    return choose + k * log(p) + (n - k) * log1p(-p)


def lower_tail(k: int, n: int, p: float) -> float:
    """Return P[X <= k] for X ~ Binomial(n, p) with k <= n p, where the terms fall as the count falls."""
    if k < 0:
        return 0.0
    total = term = 1.0
    for i in range(k, 0, -1):
        term *= i * (1 - p) / ((n - i + 1) * p)
        total += term
        if term < _ENOUGH * total:
            break
    return min(1.0, total * exp(_log_term(k, n, p)))


def fair_coin_p_value(heads: int, tails: int) -> float:
    """Return the two-sided exact p-value of `heads` and `tails` if the coin is fair."""
    n = heads + tails
    fewer = min(heads, tails)
    if 2 * fewer == n:
        return 1.0
    return min(1.0, 2 * lower_tail(fewer, n, 0.5))
