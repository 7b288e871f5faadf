"""Small shared pieces of the checks: results that could not be computed, exact quantiles, shares of a significance."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammainc, gammaincc, gammaincinv, ndtri

from dpaudit import _validate
from dpaudit.errors import DataError
from dpaudit.records import CheckResult, Status

Floats = NDArray[np.float64]

DETECTION = 0.99
"""Probability with which an effect of size `minimum_detectable` would have been found."""
Z_DETECTION = float(ndtri(DETECTION))


def inconclusive(check: str, reason: str, *, significance: float, n: int = 0) -> CheckResult:
    """Return the result of a check that could not say anything, with the reason."""
    return CheckResult(id=check, status=Status.INCONCLUSIVE, detail=reason, significance=significance, n=n)


def vector(name: str, values: ArrayLike) -> Floats:
    """Return numbers as a flat float64 vector that may hold NaN; raise DataError for anything but numbers."""
    try:
        return np.asarray(values, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be numbers; got {type(values).__name__} ({error}).") from error


def not_finite(check: str, what: str, values: Floats, *, significance: float, refuted: str) -> CheckResult | None:
    """Return a FAIL when a released value is NaN or infinite, else None: such a release is never private noise."""
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if not bad:
        return None
    detail = (
        f"{bad} of {values.size} values of the {what} are NaN or infinite: what was released is not the claimed noise."
    )
    return CheckResult(
        id=check, status=Status.FAIL, detail=detail, refuted=refuted, significance=significance, n=int(values.size)
    )


def chi2_below(x: float, freedom: float) -> float:
    """Return P[chi2 <= x]."""
    return float(gammainc(freedom / 2, x / 2))


def chi2_above(x: float, freedom: float) -> float:
    """Return P[chi2 > x]."""
    return float(gammaincc(freedom / 2, x / 2))


def chi2_quantile(p: float, freedom: float) -> float:
    """Return the x with P[chi2 <= x] = p."""
    return 2 * float(gammaincinv(freedom / 2, p))


def check_level(significance: float) -> None:
    """Raise UsageError unless a significance lies in (0, 1)."""
    _validate.open_unit_interval(significance=significance)
