"""Inversion of tests: the largest value that is refuted, found from below so that rounding never raises a bound."""

import math
from collections.abc import Callable

_HALVINGS = 60
_TOLERANCE = 1e-9


def largest_refuted(refuted: Callable[[float], bool], high: float, *, tolerance: float = _TOLERANCE) -> float:
    """Return the largest x in [0, high] (to `tolerance`) with `refuted(x)`, or 0 when 0 itself is not refuted.

    `refuted` must be decreasing: what refutes x refutes every smaller value. The value returned was itself
    tested and refuted (or is 0), so the search error only lowers a lower bound.
    """
    if not refuted(0.0):
        return 0.0
    if refuted(high):
        return high
    low = 0.0
    for _ in range(_HALVINGS):
        if high - low <= tolerance * max(1.0, low):
            break
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def group_delta(epsilon: float, delta: float, group_size: int) -> float:
    """Return the delta that (epsilon, delta)-DP promises at group_size * epsilon to a group, capped at 1.

    delta (e^(k epsilon) - 1) / (e^epsilon - 1), see Vadhan 2017, Lemma 2.2 (as a geometric sum).
    """
    if group_size == 1 or delta == 0:
        return delta
    if epsilon == 0:
        return min(1.0, group_size * delta)
    exponent = group_size * epsilon
    if exponent > 700:
        return 1.0
    return min(1.0, delta * math.expm1(exponent) / math.expm1(epsilon))


def largest_refuted_for_group(
    refuted: Callable[[float, float], bool],
    high: float,
    *,
    delta: float,
    group_size: int,
    tolerance: float = _TOLERANCE,
) -> float:
    """Return the largest epsilon of one unit that a test of (epsilon, delta) of the whole group refutes.

    `refuted(total_epsilon, total_delta)` tests the pair of data sets of the audit, which differ by `group_size`
    units; `high` bounds total_epsilon.
    """
    k = group_size

    def of_one(epsilon: float) -> bool:
        total_delta = group_delta(epsilon, delta, k)
        return total_delta < 1 and refuted(k * epsilon, total_delta)

    return largest_refuted(of_one, high / k, tolerance=tolerance)
