"""Do releases share noise, where each of them shows only some of the coordinates?

`check_noise_reuse` compares full rows. With devices that add the noise themselves a release has the coordinates of
those who were there, so that two releases are compared over what both of them show.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincinv

from dpaudit.errors import DataError
from dpaudit.records import CheckResult, Status
from dpaudit.verification._results import Z_DETECTION, check_level, inconclusive, not_finite

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_FEWEST = 3
_BLOCK = 256
_SUSPECTS = 64
_MOST_WORK = 2e11
"""Pairs of releases times coordinates; of longer records, releases far apart are not compared."""


def check_noise_shared(
    noise: ArrayLike,
    shown: Bools,
    *,
    significance: float = 0.01,
    check: str = "noise.reuse",
    rows: str = "releases",
) -> CheckResult:
    """Test that no two releases share noise: the correlation of each pair over the coordinates that both show.

    For independent Gaussian noise the squared cosine of a pair over k shared coordinates follows Beta(1/2, (k-1)/2)
    exactly, whatever the scales, if what is shown does not depend on the noise; the level is shared by all pairs
    (Bonferroni). A positive correlation is re-used noise, a negative one cancels.

    Args:
        noise: noise values, shape (releases, coordinates).
        shown: which of them were released, the same shape; the others are not looked at.
        significance: false-alarm probability of this check.
        check: id of the result.
        rows: what the rows are, in words.

    Returns:
        `statistic` is the |cosine| of the pair with the smallest p-value; `minimum_detectable` the correlation found
        with probability 0.99 in a pair with the median number of shared coordinates. INCONCLUSIVE when most pairs of
        neighbours share too little to see a correlation of 0.9.

    Raises: DataError when the shapes differ or are not two-dimensional.
    """
    refuted = f"fresh noise in all {rows}"
    check_level(significance)
    values, mask = np.asarray(noise, dtype=np.float64), np.asarray(shown, dtype=np.bool_)
    if values.ndim != 2 or mask.shape != values.shape:
        raise DataError(
            f"noise and shown must have one shape (releases, coordinates); got {values.shape}, {mask.shape}."
        )
    failed = not_finite(check, "noise", values[mask], significance=significance, refuted=refuted)
    if failed is not None:
        return failed
    used = mask.any(axis=1)
    values, names = np.where(mask, values, 0.0)[used], np.flatnonzero(used)
    silent = np.flatnonzero(~values.any(axis=1))
    if silent.size:
        detail = f"{rows}: number {names[silent[0]]} has no noise at all ({silent.size} such)."
        return CheckResult(
            id=check, status=Status.FAIL, statistic=1.0, detail=detail, refuted=refuted, significance=significance,
            n=len(values),
        )  # fmt: skip
    found = _compare(values, mask[used].astype(np.float64))
    if found is None:
        reason = f"no two {rows} show {_FEWEST} coordinates in common."
        return inconclusive(check, reason, significance=significance, n=len(values))
    return _result(found, names, check=check, rows=rows, refuted=refuted, significance=significance)


class _Found:
    """The pair with the smallest p-value among `pairs`, and how many coordinates pairs share in the median."""

    def __init__(self) -> None:
        self.p_value, self.cosine, self.pair, self.pairs, self.apart = 2.0, 0.0, (0, 0), 0, 0
        self.shared: list[float] = []


def _compare(values: Floats, mask: Floats) -> _Found | None:
    count, width = values.shape
    if count < 2:
        return None
    reach = max(1, min(count - 1, int(_MOST_WORK / (4 * count * width))))
    found, squares = _Found(), values**2
    found.apart = reach
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        last = min(count, stop + reach)
        here, there = slice(start, stop), slice(start, last)
        shared = mask[here] @ mask[there].T
        first, second = np.arange(start, stop)[:, None], np.arange(start, last)[None]
        looked = (second > first) & (second - first <= reach) & (shared >= _FEWEST)
        if not looked.any():
            continue
        scale = (squares[here] @ mask[there].T) * (mask[here] @ squares[there].T)
        cosine = np.abs(values[here] @ values[there].T) / np.sqrt(scale.clip(1e-300))
        found.pairs += int(looked.sum())
        found.shared.append(float(np.median(shared[looked])))
        # P[cosine > c] falls as (1 - c^2)^((k - 1) / 2): pairs in that order, and exact values for the first of them
        strength = np.where(looked, (1 - shared) * np.log1p(-np.minimum(cosine**2, 1 - 1e-15)), -1.0).ravel()
        for at in (
            np.argpartition(strength, -_SUSPECTS)[-_SUSPECTS:] if strength.size > _SUSPECTS else range(strength.size)
        ):
            row, column = divmod(int(at), shared.shape[1])
            if not looked[row, column]:
                continue
            alike, k = min(1.0, float(cosine[row, column])), float(shared[row, column])
            p_value = float(betainc((k - 1) / 2, 0.5, 1 - alike**2))
            if p_value < found.p_value:
                found.p_value, found.cosine, found.pair = p_value, alike, (start + row, start + column)
    return found if found.pairs else None


def _result(
    found: _Found, names: NDArray[np.int64], *, check: str, rows: str, refuted: str, significance: float
) -> CheckResult:
    k = float(np.median(found.shared))
    limit = math.sqrt(float(betaincinv(0.5, (k - 1) / 2, 1 - significance / found.pairs)))
    detectable = math.tanh(math.atanh(min(limit, 1 - 1e-12)) + Z_DETECTION / math.sqrt(max(k - 3, 1)))
    p_value = min(1.0, found.pairs * found.p_value)
    status = Status.FAIL if p_value < significance else Status.PASS
    if status == Status.PASS and detectable > 0.9:
        status = Status.INCONCLUSIVE
    one, other = (int(names[i]) for i in found.pair)
    far = "" if found.apart >= len(names) - 1 else f" Those more than {found.apart} apart were not compared."
    return CheckResult(
        id=check,
        status=status,
        statistic=found.cosine,
        threshold=limit,
        p_value=p_value,
        detail=f"{found.pairs} pairs of {rows}, {k:.0f} coordinates in common in the median; the most alike are "
        f"numbers {one} and {other}; minimum_detectable is a correlation between two of them.{far}",
        minimum_detectable=detectable,
        refuted=refuted if status == Status.FAIL else None,
        significance=significance,
        n=len(names),
    )
