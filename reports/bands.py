"""Confidence bands of ROC curves: exact at every false-positive rate by itself, whatever the scores look like.

The limits are those of Clopper and Pearson (Biometrika 26, 1934). With r the ROC of the attack and x one
false-positive rate: the strictest threshold whose lower FPR limit reaches x is set by the non-members alone, and the
upper TPR limit of the members above it bounds r(x); likewise from below. Each of these four limits may fail
with probability 1.25 %, hence both sides together hold with 95 %, at one x. Other points may fail elsewhere.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpaudit.evidence import Curve
from dpaudit.records import AttackResult

CONFIDENCE = 0.95
LEFT = 1e-3
"""Where the logarithmic axes begin."""
_CELLS = 120
_WHOLE = 1e-6  # how far a rate times its count may lie from a whole number

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Limits of the true-positive rate: `cells` holds (from FPR, to FPR, lower limit, upper limit), side by side."""

    name: str
    role: str
    cells: tuple[tuple[float, float, float, float], ...]


def band_of(curve: Curve, attack: AttackResult, *, name: str, role: str) -> Band | None:
    """Return the pointwise 95 % band of an attack's ROC on logarithmic cells from 0.1 % to 100 %.

    Each cell holds the upper limit of its right end and the lower limit of its left end, so that the limits hold
    anywhere in the cell. None where the attack does not say how many were scored, or the curve is not of so many.
    """
    found = _counts(curve, attack)
    if found is None:
        return None
    false, true = found
    least, most = _limits(false, attack.n_non_member)
    low, high = _limits(true, attack.n_member)
    edges = np.geomspace(LEFT, 1.0, _CELLS + 1)
    edges[-1] = 1.0
    above = np.append(high, 1.0)[np.searchsorted(least, edges[1:], side="left")]
    below = np.append(0.0, low)[np.searchsorted(most, edges[:-1], side="right")]
    cells = zip(edges[:-1], edges[1:], below, above, strict=True)
    return Band(name=name, role=role, cells=tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in cells))


def _counts(curve: Curve, attack: AttackResult) -> tuple[Floats, Floats] | None:
    """Return how many non-members and members are flagged, at the best point of every false-positive rate."""
    if attack.n_member < 1 or attack.n_non_member < 1 or not curve.roc:
        return None
    exact = np.array(curve.roc, dtype=np.float64) * (attack.n_non_member, attack.n_member)
    counts = np.rint(exact)
    fits = bool(np.all(np.abs(exact - counts) <= _WHOLE))
    rising = bool(np.all(np.diff(counts, axis=0) >= 0)) and counts.min() >= 0
    if not fits or not rising or counts[-1, 0] > attack.n_non_member or counts[-1, 1] > attack.n_member:
        return None
    last = np.append(np.diff(counts[:, 0]) > 0, True)
    return counts[last, 0], counts[last, 1]


def _limits(successes: Floats, trials: int) -> tuple[Floats, Floats]:
    """Return the lower and the upper limit of a rate, each failing with a quarter of what the band may fail."""
    from scipy.special import betaincinv

    error, failures = (1 - CONFIDENCE) / 4, trials - successes
    low = betaincinv(np.maximum(successes, 1.0), failures + 1, error)
    high = betaincinv(successes + 1, np.maximum(failures, 1.0), 1 - error)
    return np.where(successes > 0, low, 0.0), np.where(failures > 0, high, 1.0)
