"""Did anybody contribute more than the clip allows? From noisy observations of canaries that really took part."""

import math

from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from dpaudit import _validate
from dpaudit.records import CheckResult, Status
from dpaudit.verification._results import Z_DETECTION, check_level, inconclusive, not_finite, vector

BLIND_EXCESS = 1.0
"""A check that could not have seen contributions of twice the clip norm is inconclusive."""
DEAD_CANARY = 0.5
"""Canaries that contribute surely less than this do not put the clip under test."""


def check_contribution(x: ArrayLike, *, noise_multiplier: float, significance: float = 0.01) -> CheckResult:
    """Test that no contribution exceeds the clip norm: z-test of the mean, and of the largest, with known noise.

    Each x is a contribution of at most 1 plus N(0, z^2). The mean exceeds 1 + z q / sqrt(n) with probability
    1 - Phi(q) at most; the largest of n exceeds 1 + z q with probability n (1 - Phi(q)) at most. Each gets half of
    the significance.

    Args:
        x: observations along the canaries' directions in rounds where they took part, in clip norms, any shape.
        noise_multiplier: standard deviation z of the noise in clip norms.
        significance: false-alarm probability of this check.

    Returns:
        `statistic` is the mean; `minimum_detectable` is the excess of the mean over 1 found with probability 0.99.
        INCONCLUSIVE when twice the clip norm would not be seen, or when the canaries contribute so little that the
        clip was not under test.
    """
    check, refuted = "clip.contribution", "contributions clipped to the clip norm"
    check_level(significance)
    _validate.positive(noise_multiplier=noise_multiplier)
    values = vector("x", x)
    n = values.size
    if n == 0:
        return inconclusive(
            check, "no canary took part in any round: the clip was not tested.", significance=significance
        )
    failed = not_finite(check, "release", values, significance=significance, refuted=refuted)
    if failed is not None:
        return failed
    half = significance / 2
    mean, largest, spread = float(values.mean()), float(values.max()), noise_multiplier / math.sqrt(n)
    p_mean = float(ndtr((1 - mean) / spread))
    p_largest = min(1.0, n * float(ndtr((1 - largest) / noise_multiplier)))
    p_value = min(1.0, 2 * min(p_mean, p_largest))
    excess = (float(-ndtri(half)) + Z_DETECTION) * spread
    status = Status.FAIL if p_value < significance else Status.PASS
    note = ""
    if status == Status.PASS and excess > BLIND_EXCESS:
        status, note = Status.INCONCLUSIVE, "too few observations to see twice the clip norm: "
    elif status == Status.PASS and mean + float(-ndtri(half)) * spread < DEAD_CANARY:
        status, note = (
            Status.INCONCLUSIVE,
            "the canaries contribute far less than the clip norm, so it was not tested: ",
        )
    return CheckResult(
        id=check,
        status=status,
        statistic=mean,
        threshold=1 + float(-ndtri(half)) * spread,
        p_value=p_value,
        detail=f"{note}mean contribution {mean:.4g} clip norms over {n} observations, the largest {largest:.4g} "
        "with noise; minimum_detectable is an excess of the mean over 1.",
        minimum_detectable=excess,
        refuted=refuted if status == Status.FAIL else None,
        significance=significance,
        n=n,
    )
