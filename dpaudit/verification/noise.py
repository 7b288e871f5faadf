"""Is the noise what was promised? Scale, shape and independence, from observations without any signal.

Input is the noise itself, in units of the clip norm, so that the promise is N(0, noise_multiplier^2).
Too little noise breaks privacy and fails; too much costs accuracy only and passes, with the fact in `detail`.
"""

import hashlib
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, bdtrc, betainc, betaincinv, ndtr

from dpaudit import _validate
from dpaudit.errors import DataError
from dpaudit.records import CheckResult, Status
from dpaudit.verification._results import (
    DETECTION,
    Z_DETECTION,
    Floats,
    check_level,
    chi2_above,
    chi2_below,
    chi2_quantile,
    inconclusive,
    not_finite,
    vector,
)

BLIND_SHORTFALL = 0.5
"""A scale check that could not have seen half the noise missing is inconclusive."""
BLIND_DISTANCE = 0.25
"""A shape check that could not have seen a distribution this far away (Kolmogorov distance) is inconclusive."""
BLIND_CORRELATION = 0.9
"""A reuse check that could not have seen this correlation is inconclusive."""
TAILS = (2.5, 3.0, 3.5, 4.0)


def check_noise_scale(
    residuals: ArrayLike,
    *,
    noise_multiplier: float,
    significance: float = 0.01,
    claim_text: str = "the claimed noise multiplier",
) -> CheckResult:
    """Test that the noise is not smaller than promised, by the lower tail of chi-square (exact).

    With x_i ~ N(0, z^2) the sum of (x_i / z)^2 is chi-square with n degrees of freedom.

    Args:
        residuals: noise values in clip norms, any shape.
        noise_multiplier: promised standard deviation z in clip norms.
        significance: false-alarm probability of this check.
        claim_text: what a failure refutes, in words.

    Returns:
        `minimum_detectable` is the relative shortfall of the standard deviation that is found with probability 0.99
        (exact); the check is INCONCLUSIVE when that exceeds one half.
    """
    check, refuted = "noise.scale", claim_text
    check_level(significance)
    _validate.positive(noise_multiplier=noise_multiplier)
    values = vector("residuals", residuals)
    n = values.size
    if n == 0:
        return inconclusive(check, "no observation of the noise: nothing was tested.", significance=significance)
    failed = not_finite(check, "noise", values, significance=significance, refuted=refuted)
    if failed is not None:
        return failed
    statistic = float(np.sum((values / noise_multiplier) ** 2))
    threshold = chi2_quantile(significance, n)
    shortfall = 1 - math.sqrt(threshold / chi2_quantile(DETECTION, n))
    status, p_value = Status.PASS, chi2_below(statistic, n)
    if p_value < significance:
        status = Status.FAIL
    elif shortfall > BLIND_SHORTFALL:
        status = Status.INCONCLUSIVE
    return CheckResult(
        id=check,
        status=status,
        statistic=statistic,
        threshold=threshold,
        p_value=p_value,
        detail=_scale_detail(statistic, n, noise_multiplier, significance, blind=status == Status.INCONCLUSIVE),
        minimum_detectable=shortfall,
        refuted=refuted if status == Status.FAIL else None,
        significance=significance,
        n=n,
    )


def _scale_detail(statistic: float, n: int, noise_multiplier: float, significance: float, *, blind: bool) -> str:
    ratio = math.sqrt(statistic / n)
    upper = noise_multiplier * math.sqrt(statistic / chi2_quantile(significance, n))
    text = f"standard deviation {ratio:.4g} of what was promised ({n} values); "
    text += f"with confidence {1 - significance:.4g} the noise multiplier is at most {upper:.4g}; "
    text += "minimum_detectable is a relative shortfall of the standard deviation."
    if chi2_above(statistic, n) < significance:
        text += " There is more noise than promised: that costs accuracy, not privacy."
    if blind:
        text = f"too few values to see even half the noise missing: {text}"
    return text


def check_noise_shape(residuals: ArrayLike, *, noise_multiplier: float, significance: float = 0.01) -> CheckResult:
    """Test that the noise is Gaussian, whatever its scale: counts beyond 2.5 to 4 sigma, and Kolmogorov-Smirnov.

    Values are divided by their own root mean square, so that a wrong scale is left to `check_noise_scale`. The
    counts are compared with the binomial law (two-sided) and the distribution function by the bound of Massart
    1990, P[D > d] <= 2 exp(-2 n d^2). A scale estimated from the same values makes all five conservative (the
    squares of a vector of known length are negatively associated). Holm's first step: five times the smallest p.

    Returns:
        `statistic` is the smallest p-value, `minimum_detectable` the Kolmogorov distance found with probability 0.99.
    """
    check, refuted = "noise.shape", f"Gaussian noise of multiplier {noise_multiplier:.4g}"
    check_level(significance)
    _validate.positive(noise_multiplier=noise_multiplier)
    values = vector("residuals", residuals)
    n = values.size
    if n == 0:
        return inconclusive(check, "no observation of the noise: nothing was tested.", significance=significance)
    failed = not_finite(check, "noise", values, significance=significance, refuted=refuted)
    if failed is not None:
        return failed
    scale = math.sqrt(float(np.mean(values**2)))
    if scale == 0:
        return CheckResult(
            id=check, status=Status.FAIL, detail=f"all {n} values are exactly 0: there is no noise.",
            refuted=refuted, significance=significance, n=n,
        )  # fmt: skip
    p_values = {**_tail_p_values(values / scale), "distribution": _ks_p_value(values / scale)}
    worst = min(p_values, key=lambda key: p_values[key])
    share = significance / len(p_values)
    adjusted = min(1.0, len(p_values) * p_values[worst])
    distance = math.sqrt(math.log(2 / share) / (2 * n)) + Z_DETECTION / (2 * math.sqrt(n))
    status = Status.FAIL if adjusted < significance else Status.PASS
    if status == Status.PASS and distance > BLIND_DISTANCE:
        status = Status.INCONCLUSIVE
    return CheckResult(
        id=check,
        status=status,
        statistic=p_values[worst],
        threshold=share,
        p_value=adjusted,
        detail=f"{n} values; most unlike a Gaussian in the {worst} (p = {p_values[worst]:.3g} before correction for "
        f"{len(p_values)} tests); minimum_detectable is a Kolmogorov distance.",
        minimum_detectable=min(1.0, distance),
        refuted=refuted if status == Status.FAIL else None,
        significance=significance,
        n=n,
    )


def _tail_p_values(standard: Floats) -> dict[str, float]:
    """Return two-sided binomial p-values of the counts beyond each tail point."""
    size, n = np.abs(standard), standard.size
    result = {}
    for point in TAILS:
        count, p = int(np.count_nonzero(size > point)), 2 * float(ndtr(-point))
        at_least = float(bdtrc(count - 1, n, p)) if count else 1.0
        result[f"tail beyond {point:g} sigma"] = min(1.0, 2 * min(float(bdtr(count, n, p)), at_least))
    return result


def _ks_p_value(standard: Floats) -> float:
    """Return Massart's bound on the p-value of the two-sided Kolmogorov-Smirnov statistic."""
    n = standard.size
    cdf = ndtr(np.sort(standard))
    above = float(np.max(np.arange(1, n + 1) / n - cdf))
    below = float(np.max(cdf - np.arange(n) / n))
    return min(1.0, 2 * math.exp(-2 * n * max(above, below) ** 2))


def check_noise_reuse(noise: ArrayLike, *, significance: float = 0.01) -> CheckResult:
    """Test that no two rounds share noise: exact duplicates, and the correlation of every pair of rounds.

    For independent Gaussian rounds of k coordinates the squared cosine of a pair follows Beta(1/2, (k-1)/2)
    exactly, whatever the scales; the level is shared by all pairs (Bonferroni). A positive correlation is re-used
    noise; a negative one cancels noise between rounds: both break the accounting of independent noise.

    Args:
        noise: noise values by round, shape (rounds, coordinates).
        significance: false-alarm probability of this check.

    Returns:
        `statistic` is the largest |cosine|, `minimum_detectable` the correlation found with probability 0.99.

    Raises:
        DataError: not a two-dimensional array of numbers.
    """
    check, refuted = "noise.reuse", "fresh noise in every round"
    check_level(significance)
    rows = np.asarray(noise)
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.number):
        raise DataError(f"noise must be numbers of shape (rounds, coordinates); got {rows.dtype} {rows.shape}.")
    rounds, k = rows.shape
    if rounds < 2 or k < 3:
        reason = f"needs at least 2 rounds of 3 coordinates; got {rounds} of {k}."
        return inconclusive(check, reason, significance=significance, n=rounds)
    failed = not_finite(check, "noise", rows.reshape(-1), significance=significance, refuted=refuted)
    failed = failed or _duplicates(rows, significance, refuted)
    if failed is not None:
        return failed
    pairs = rounds * (rounds - 1) // 2
    largest, pair = _largest_cosine(rows)
    limit = math.sqrt(float(betaincinv(0.5, (k - 1) / 2, 1 - significance / pairs)))
    p_value = min(1.0, pairs * float(betainc((k - 1) / 2, 0.5, 1 - min(1.0, largest**2))))
    detectable = math.tanh(math.atanh(min(limit, 1 - 1e-12)) + Z_DETECTION / math.sqrt(max(k - 3, 1)))
    status = Status.FAIL if p_value < significance else Status.PASS
    if status == Status.PASS and detectable > BLIND_CORRELATION:
        status = Status.INCONCLUSIVE
    return CheckResult(
        id=check,
        status=status,
        statistic=largest,
        threshold=limit,
        p_value=p_value,
        detail=f"{pairs} pairs of rounds, {k} coordinates; the most alike are rounds {pair[0]} and {pair[1]}; "
        "minimum_detectable is a correlation between two rounds.",
        minimum_detectable=detectable,
        refuted=refuted if status == Status.FAIL else None,
        significance=significance,
        n=rounds,
    )


def _duplicates(rows: NDArray[np.number], significance: float, refuted: str) -> CheckResult | None:
    """Return a FAIL for rounds without noise or with bit-identical noise."""
    silent = np.flatnonzero(~rows.any(axis=1))
    seen: dict[bytes, int] = {}
    detail = f"round {silent[0]} has no noise at all ({len(silent)} such rounds)." if len(silent) else None
    for number, row in enumerate(rows):
        digest = hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest()
        if detail is None and digest in seen:
            detail = f"rounds {seen[digest]} and {number} have bit-identical noise."
        seen.setdefault(digest, number)
    if detail is None:
        return None
    return CheckResult(
        id="noise.reuse", status=Status.FAIL, statistic=1.0, detail=detail, refuted=refuted,
        significance=significance, n=len(rows),
    )  # fmt: skip


def _largest_cosine(rows: NDArray[np.number]) -> tuple[float, tuple[int, int]]:
    """Return the largest |cosine| between two rows and the pair, in blocks of rows to bound memory."""
    wide = rows.astype(np.float64)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    largest, pair, block = -1.0, (0, 1), 512
    for start in range(0, len(unit), block):
        cosines = np.abs(unit[start : start + block] @ unit[start:].T)
        cosines[np.tril_indices_from(cosines)] = -1.0
        at = int(np.argmax(cosines))
        first, second = divmod(at, cosines.shape[1])
        if cosines.flat[at] > largest:
            largest, pair = float(cosines.flat[at]), (start + first, start + second)
    return min(1.0, largest), pair
