"""Is a sum of many noises as large as independent noises make it, neither less nor more?"""

import math

from numpy.typing import ArrayLike

from dpaudit import _validate
from dpaudit.errors import DataError
from dpaudit.records import CheckResult, Status
from dpaudit.verification._results import (
    DETECTION,
    check_level,
    chi2_above,
    chi2_below,
    chi2_quantile,
    inconclusive,
    not_finite,
    vector,
)

BLIND = 0.5


def check_noise_spread(
    squares: ArrayLike,
    freedom: ArrayLike,
    *,
    noise_multiplier: float,
    significance: float = 0.01,
    check: str = "noise.spread",
    where: str = "sums",
) -> CheckResult:
    """Test sums of noise, scaled to the variance of one, against a chi-square, two-sided.

    Noise that devices or steps share adds up faster than independent noise: the sum has too much. Noise that is
    missing, or cancels between devices or steps, leaves too little. Both ends get half of the significance.

    Args:
        squares: sum of squares of each sum, divided by how many noises it holds, in clip norms, shape (sums,).
        freedom: number of coordinates behind each, shape (sums,).
        noise_multiplier: promised standard deviation of one noise in clip norms.
        significance: false-alarm probability (exact for independent Gaussian noise).
        check: id of the result.
        where: what was looked at, in words.

    Returns: `statistic` is the standard deviation over the promised one; `minimum_detectable` is the relative excess of
        it that is found with probability 0.99. INCONCLUSIVE when that exceeds one half.

    Raises: DataError when the shapes differ.
    """
    check_level(significance)
    _validate.positive(noise_multiplier=noise_multiplier)
    values, counts = vector("squares", squares), vector("freedom", freedom)
    if values.shape != counts.shape:
        raise DataError(f"squares and freedom must have one value per sum; got {values.size} and {counts.size}.")
    if values.size == 0:
        return inconclusive(check, "no sum of noise was observed.", significance=significance)
    refuted = f"independent noise of multiplier {noise_multiplier:.4g} in every device and step"
    failed = not_finite(check, "noise", values, significance=significance, refuted=refuted)
    if failed is not None:
        return failed
    statistic, n = float(values.sum()) / noise_multiplier**2, float(counts.sum())
    p_value = min(1.0, 2 * min(chi2_below(statistic, n), chi2_above(statistic, n)))
    upper = chi2_quantile(1 - significance / 2, n)
    excess = math.sqrt(upper / chi2_quantile(1 - DETECTION, n)) - 1
    status = Status.FAIL if p_value < significance else Status.PASS
    if status == Status.PASS and excess > BLIND:
        status = Status.INCONCLUSIVE
    return CheckResult(
        id=check,
        status=status,
        statistic=math.sqrt(statistic / n),
        threshold=math.sqrt(upper / n),
        p_value=p_value,
        detail=f"{math.sqrt(statistic / n):.4g} of the promised standard deviation in {where} ({values.size} of them); "
        "less is missing or cancelling noise, more is noise that is shared; minimum_detectable is a relative excess.",
        minimum_detectable=excess,
        refuted=refuted if status == Status.FAIL else None,
        significance=significance,
        n=int(n),
    )
