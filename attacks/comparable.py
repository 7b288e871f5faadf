"""Are members and non-members comparable? If they differ without the model, an attack's success says nothing about it.

A classifier that never sees the model is trained on one half of the records and tried on the other; an area under the
curve (AUC) above 1/2 means that the two samples come from different populations (Duan et al. 2024, arXiv:2402.07841).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from dpaudit import _validate
from dpaudit.errors import DataError, MissingDependency
from dpaudit.records import CheckResult, Status

Floats = NDArray[np.float64]

CHECK_ID = "attack.comparable"
CLAIM = "members and non-members come from the same population"
TOLERATED_AUC = 0.55
"""A difference that is statistically clear but smaller than this cannot explain an attack worth reporting."""

_FEWEST = 20  # units per side
_MOST_EXAMPLES = 20_000


def check_comparable(
    x: NDArray[Any],
    y: NDArray[Any],
    is_member: NDArray[np.bool_],
    *,
    unit: NDArray[np.integer] | None = None,
    significance: float = 0.01,
    seed: int = 0,
) -> CheckResult:
    """Check that a classifier on (x, y) alone cannot tell members from non-members.

    Args:
        x: records, shape (n, ...); NaN is allowed and counts as a feature.
        y: labels, shape (n,), used as one more feature.
        is_member: membership of each record, shape (n,).
        unit: privacy unit of each record (n,): halves and AUC are then over units.
        significance: false-alarm probability (normal approximation of the rank-sum statistic).
        seed: seed of halves, sub-sampling and classifier.

    Returns:
        FAIL when AUC exceeds 1/2 at `significance` and exceeds 0.55; INCONCLUSIVE with fewer than 20 units on one
        side; else PASS. `statistic` is the AUC, `minimum_detectable` the AUC found with probability 0.99.

    Raises:
        DataError: shapes that do not fit.  MissingDependency: scikit-learn is not installed.
    """
    _validate.open_unit_interval(significance=significance)
    member = np.asarray(is_member, dtype=bool)
    if len(x) != len(member) or len(y) != len(member):
        raise DataError(f"x, y and is_member must have the same length; got {len(x)}, {len(y)} and {len(member)}.")
    groups = np.arange(len(member)) if unit is None else np.unique(unit, return_inverse=True)[1]
    side = np.zeros(int(groups.max(initial=-1)) + 1, dtype=bool)
    side[groups] = member
    if (side[groups] != member).any():
        raise DataError("every record of a unit must be on the same side: some unit is member and non-member.")
    n1, n0 = int(side.sum()), int((~side).sum())
    if min(n1, n0) < _FEWEST:
        reason = f"needs {_FEWEST} units on each side to say anything; got {n1} members and {n0} non-members."
        return CheckResult(id=CHECK_ID, status=Status.INCONCLUSIVE, detail=reason, significance=significance, n=n1 + n0)
    kept = _subsample(groups, seed)
    features = _features(np.asarray(x)[kept], np.asarray(y)[kept])
    halves = _held_out(features, member[kept], groups[kept], seed)
    return _judge([(auc(scores, truth), truth) for scores, truth in halves], significance, n1 + n0)


def _judge(halves: list[tuple[float, NDArray[np.bool_]]], significance: float, n: int) -> CheckResult:
    """Turn the AUC of each half, found by a classifier of the other half, into a result.

    Given its classifier, each half is an exact rank-sum test; the two depend on each other, hence Bonferroni.
    """
    spreads = [math.sqrt((len(t) + 1) / (12 * int(t.sum()) * int((~t).sum()))) for _, t in halves]
    best = max(range(len(halves)), key=lambda k: (halves[k][0] - 0.5) / spreads[k])
    value, spread = halves[best][0], spreads[best]
    share = significance / len(halves)
    z = float(-ndtri(share))
    threshold = max(0.5 + z * spread, TOLERATED_AUC)
    found = value > threshold
    detail = (
        f"a classifier that never saw the model separates them with AUC {value:.3f} "
        f"(at least {max(0.0, value - z * spread):.3f}); minimum_detectable is an AUC."
    )
    return CheckResult(
        id=CHECK_ID,
        status=Status.FAIL if found else Status.PASS,
        statistic=value,
        threshold=threshold,
        p_value=min(1.0, len(halves) * float(ndtr((0.5 - value) / spread))),
        detail=detail,
        minimum_detectable=min(1.0, max(0.5 + (z + float(ndtri(0.99))) * max(spreads), TOLERATED_AUC)),
        refuted=CLAIM if found else None,
        significance=significance,
        n=n,
    )


def auc(scores: Floats, side: NDArray[np.bool_]) -> float:
    """Return P[score of a True > score of a False] + P[equal] / 2, by ranks."""
    values, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    n1 = int(side.sum())
    rank_sum = float(ranks[inverse][side].sum())
    return (rank_sum - n1 * (n1 + 1) / 2) / (n1 * (len(values[inverse]) - n1))


def _subsample(groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the records to use: all, or those of random whole units up to the limit."""
    if len(groups) <= _MOST_EXAMPLES:
        return np.arange(len(groups))
    order = np.random.default_rng(seed).permutation(int(groups.max()) + 1)
    sizes = np.bincount(groups)[order]
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[np.cumsum(sizes) <= _MOST_EXAMPLES]] = True
    return np.flatnonzero(chosen[groups])


def _features(x: NDArray[Any], y: NDArray[Any]) -> Floats:
    """Flatten the records and append the label one-hot (or as it is, where it is not a small class)."""
    try:
        flat = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
    except (TypeError, ValueError) as error:
        raise DataError(f"x must be numbers to be compared; got {np.asarray(x).dtype} ({error}).") from error
    classes, codes = np.unique(y, return_inverse=True)
    label = np.eye(len(classes))[codes] if len(classes) <= 50 else np.asarray(codes, dtype=np.float64)[:, None]
    return np.concatenate([np.where(np.isinf(flat), np.nan, flat), label], axis=1)


def _held_out(
    features: Floats, member: NDArray[np.bool_], groups: NDArray[np.int64], seed: int
) -> list[tuple[Floats, NDArray[np.bool_]]]:
    """Return, for each half of the units, scores by a classifier of the other half, and the truth: one per unit."""
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError as error:
        raise MissingDependency(
            "comparing members with non-members needs scikit-learn: pip install scikit-learn"
        ) from error
    halves = []
    folds = StratifiedGroupKFold(n_splits=2, shuffle=True, random_state=seed)
    for train, test in folds.split(features, member, groups):
        model = HistGradientBoostingClassifier(
            max_iter=40, max_leaf_nodes=8, learning_rate=0.1, early_stopping=False, random_state=seed
        )
        model.fit(features[train], member[train])
        units, first, codes = np.unique(groups[test], return_index=True, return_inverse=True)
        sums = np.bincount(codes, weights=model.decision_function(features[test]), minlength=len(units))
        halves.append((sums / np.bincount(codes), member[test][first]))
    return halves
