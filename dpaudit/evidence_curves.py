"""Curves of an attack, thinned for a report: ROC points and histogram shares, so that no report needs raw scores."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import DataError
from dpaudit.records import ScoreSet

MAX_POINTS = 400
BINS = 40
_TAIL = 0.5  # per cent of all scores beyond each end of the histogram, shown in its end bins

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What a figure shows of a set of scores.

    `roc` holds (false-positive rate, true-positive rate) pairs, both rising, at most 400. `edges` are the borders
    of the histogram bins; `member` and `non_member` hold the share of the scores in each bin (they sum to 1; the
    end bins take what lies beyond), so that counts stay out of reports.
    """

    roc: tuple[tuple[float, float], ...]
    edges: tuple[float, ...]
    member: tuple[float, ...]
    non_member: tuple[float, ...]


def curve_of(scores: ScoreSet) -> Curve:
    """Return the thinned ROC and the histogram of a ScoreSet.

    Raises: DataError if there are no members or no non-members.
    """
    if not scores.member.size or not scores.non_member.size:
        raise DataError(
            f"a curve needs members and non-members; got {scores.member.size} and {scores.non_member.size} scores."
        )
    fpr, tpr = _roc(scores)
    kept = _thin(fpr)
    edges = _edges(scores)
    return Curve(
        roc=tuple((float(x), float(y)) for x, y in zip(fpr[kept], tpr[kept], strict=True)),
        edges=tuple(map(float, edges)),
        member=_shares(scores.member, edges),
        non_member=_shares(scores.non_member, edges),
    )


def _roc(scores: ScoreSet) -> tuple[Floats, Floats]:
    """Rates of scores >= t for every distinct t, from (0, 0) to (1, 1); ties move both at once."""
    member, non_member = np.sort(scores.member), np.sort(scores.non_member)
    thresholds = np.unique(np.concatenate([member, non_member]))[::-1]
    tpr = 1 - np.searchsorted(member, thresholds, side="left") / member.size
    fpr = 1 - np.searchsorted(non_member, thresholds, side="left") / non_member.size
    return np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr])


def _thin(fpr: Floats) -> NDArray[np.intp]:
    """Choose at most MAX_POINTS points, half of them evenly in log FPR, where the interest is."""
    last = fpr.size - 1
    if last < MAX_POINTS:
        return np.arange(fpr.size)
    positive = fpr[fpr > 0]
    wanted = np.concatenate([np.geomspace(positive[0], 1, MAX_POINTS // 2), np.linspace(0, 1, MAX_POINTS // 2 - 1)])
    picked = np.searchsorted(fpr, wanted, side="right") - 1  # the best TPR that each FPR reaches
    return np.unique(np.concatenate([[0], np.clip(picked, 0, last)]))


def _edges(scores: ScoreSet) -> Floats:
    pooled = np.concatenate([scores.member, scores.non_member])
    low, high = np.percentile(pooled, [_TAIL, 100 - _TAIL])
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    return edges if np.all(np.diff(edges) > 0) else np.asarray(np.array([low, np.nextafter(low, np.inf)]))


def _shares(values: Floats, edges: Floats) -> tuple[float, ...]:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)
    return tuple(float(c) for c in counts / values.size)
