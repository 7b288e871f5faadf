"""Are the contributions of a round those of the units that the record names? By computing them once more, alone."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpaudit.records import CheckResult, Status

Units = NDArray[np.int64]
Sum = Callable[[Units], ArrayLike]

TOLERANCE = 1e-2
"""Relative: float32 sums in another order, and other kernels for other batch sizes, differ by less."""
_APART = 10 * TOLERANCE


def check_cohort(contribute: Sum, alone: Sum, cohorts: Sequence[Units]) -> CheckResult:
    """Compare what an engine computes for a cohort with what it computes where nobody else exists.

    An engine that ignores, swaps or pads the cohort it is given computes on other units; the sampling that was
    recorded then never happened, and with it goes the amplification. Exact, up to rounding; no noise is involved.

    Args:
        contribute: the sum of the contributions of these units, by the engine with all data.
        alone: the same by an engine that holds the data of these units only.
        cohorts: recorded cohorts to replay, at least two different ones; empty ones are left out.

    Returns:
        `statistic` is the largest relative difference; INCONCLUSIVE when the sums of different cohorts are so alike
        that a swap would not show, or when either engine fails.
    """
    check, refuted = "sampling.cohort", "the recorded units are those that were computed on"
    used = [cohort for cohort in cohorts if len(cohort)]
    if len(used) < 2:
        return CheckResult(id=check, status=Status.INCONCLUSIVE, detail="fewer than two recorded cohorts to replay.")
    try:
        given = [np.asarray(contribute(cohort), dtype=np.float64).ravel() for cohort in used]
        wanted = [np.asarray(alone(cohort), dtype=np.float64).ravel() for cohort in used]
    except Exception as error:
        detail = f"a recorded cohort cannot be replayed: {type(error).__name__}: {error}"
        return CheckResult(id=check, status=Status.INCONCLUSIVE, detail=detail)
    gaps = [_gap(one, other) for one, other in zip(given, wanted, strict=True)]
    apart = min(_gap(wanted[i], wanted[j]) for i in range(len(used)) for j in range(i))
    worst = int(np.argmax(gaps))
    detail = (
        f"{len(used)} recorded cohorts replayed: what the engine computes for them and what their units alone "
        f"contribute differ by {gaps[worst]:.2g} at most, different cohorts by {apart:.2g} at least"
    )
    status = Status.FAIL if gaps[worst] > TOLERANCE else Status.PASS
    if status == Status.PASS and apart < _APART:
        status, detail = Status.INCONCLUSIVE, f"the cohorts contribute too much alike to tell them apart: {detail}"
    return CheckResult(
        id=check,
        status=status,
        statistic=gaps[worst],
        threshold=TOLERANCE,
        detail=f"{detail}; minimum_detectable is a relative difference.",
        minimum_detectable=TOLERANCE,
        refuted=refuted if status == Status.FAIL else None,
        n=len(used),
    )


def _gap(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return |a - b| relative to the larger of the two; infinity (never NaN) where they cannot be compared."""
    if a.shape != b.shape:
        return float("inf")
    size = max(float(np.linalg.norm(a)), float(np.linalg.norm(b)))
    if not np.isfinite(size):
        return float("inf")
    return float(np.linalg.norm(a - b)) / size if size > 0 else 0.0
