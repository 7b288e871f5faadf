"""The noise of each round on its own: one bad round must not hide in the average of many good ones."""

import numpy as np
from numpy.typing import ArrayLike

from dpaudit import _validate
from dpaudit.errors import DataError
from dpaudit.records import CheckResult, Status
from dpaudit.verification._results import (
    DETECTION,
    check_level,
    chi2_below,
    chi2_quantile,
    inconclusive,
    not_finite,
    vector,
)

BLIND_SHORTFALL = 0.75


def check_noise_rounds(
    squares: ArrayLike,
    freedom: ArrayLike,
    *,
    noise_multiplier: float,
    significance: float = 0.01,
    check: str = "noise.rounds",
    where: str = "the coordinates of absent canaries",
) -> CheckResult:
    """Test that no round has less noise than promised: the smallest lower-tail chi-square p-value, times the rounds.

    Args:
        squares: sum of squared noise values of each round, in clip norms, shape (rounds,).
        freedom: number of values behind each sum, shape (rounds,).
        noise_multiplier: promised standard deviation in clip norms.
        significance: false-alarm probability over all rounds (Bonferroni; exact for independent Gaussian noise).
        check: id of the result.
        where: the coordinates that were looked at, in words.

    Returns:
        `minimum_detectable` is the relative shortfall in one single round that is found with probability 0.99; the
        check is INCONCLUSIVE when that exceeds 0.75.

    Raises: DataError when the shapes differ; UsageError for a significance or noise multiplier out of range.
    """
    check_level(significance)
    _validate.positive(noise_multiplier=noise_multiplier)
    sums, counts = vector("squares", squares), vector("freedom", freedom)
    if sums.shape != counts.shape:
        raise DataError(f"squares and freedom must have one value per round; got {sums.size} and {counts.size}.")
    if sums.size == 0 or counts.min() < 1:
        return inconclusive(check, "a round without any observation of its noise.", significance=significance)
    refuted = f"noise multiplier {noise_multiplier:.4g} in every round"
    failed = not_finite(check, "noise", sums, significance=significance, refuted=refuted)
    if failed is not None:
        return failed
    share = significance / sums.size
    statistics = sums / noise_multiplier**2
    values = np.array([chi2_below(float(s), float(n)) for s, n in zip(statistics, counts, strict=True)])
    worst, least = int(np.argmin(values)), float(counts.min())
    shortfall = 1 - float(np.sqrt(chi2_quantile(share, least) / chi2_quantile(DETECTION, least)))
    p_value = min(1.0, float(values[worst]) * sums.size)
    status = Status.FAIL if p_value < significance else Status.PASS
    if status == Status.PASS and shortfall > BLIND_SHORTFALL:
        status = Status.INCONCLUSIVE
    ratio = float(np.sqrt(statistics[worst] / counts[worst]))
    return CheckResult(
        id=check,
        status=status,
        statistic=ratio,
        threshold=float(np.sqrt(chi2_quantile(share, float(counts[worst])) / counts[worst])),
        p_value=p_value,
        detail=f"the quietest of {sums.size} rounds is round {worst}, with {ratio:.4g} of the promised standard "
        f"deviation on {where}; minimum_detectable is a relative shortfall in one round",
        minimum_detectable=shortfall,
        refuted=refuted if status == Status.FAIL else None,
        significance=significance,
        n=int(counts.sum()),
    )
