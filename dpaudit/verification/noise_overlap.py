"""Does the noise of one round return in another, moved along?

Streams that overlap at an offset look fresh to `check_noise_reuse`, which compares rounds coordinate by coordinate.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincinv

from dpaudit.errors import DataError
from dpaudit.records import CheckResult, Status
from dpaudit.verification._results import Z_DETECTION, check_level, inconclusive, not_finite

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_FEWEST = 16
"""Coordinates that two rounds must share at an offset, for their cosine to be looked at."""
_MOST_WORK = 4e7
"""Pairs of rounds times coordinates; nearest rounds come first."""
_SUSPICIOUS = 4.0
"""Standard errors above which the exact p-value is computed."""


class _Worst(NamedTuple):
    p_value: float
    cosine: float
    rounds: tuple[int, int]
    offset: int


def check_noise_overlap(
    noise: ArrayLike, *, used: NDArray[np.bool_] | None = None, significance: float = 0.01
) -> CheckResult:
    """Test that no two rounds share noise at an offset: the cosine of each pair of rounds at every shift.

    For independent Gaussian rounds the squared cosine over k shared coordinates follows Beta(1/2, (k-1)/2) exactly;
    the level is shared by all pairs and shifts (Bonferroni). All shifts of a pair come from one Fourier transform.

    Args:
        noise: noise values by round, shape (rounds, coordinates), in the order of the noise vector.
        used: coordinates that hold nothing but noise, bool of shape (coordinates,), or one row for each round,
            (rounds, coordinates); None: all.
        significance: false-alarm probability of this check.

    Returns:
        `statistic` is the smallest p-value, `minimum_detectable` the correlation over half of the coordinates that is
        found with probability 0.99. Rounds far apart are left out of long runs, as `detail` says.

    Raises:
        DataError: not a two-dimensional array of numbers, or `used` of another length.
    """
    check, refuted = "noise.overlap", "fresh noise in every round"
    check_level(significance)
    rows = np.asarray(noise)
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.number):
        raise DataError(f"noise must be numbers of shape (rounds, coordinates); got {rows.dtype} {rows.shape}.")
    mask = np.ones(rows.shape[1], dtype=np.bool_) if used is None else np.asarray(used, dtype=np.bool_)
    if mask.shape not in ((rows.shape[1],), rows.shape):
        raise DataError(f"used must have one value per coordinate, {rows.shape[1]}; got shape {mask.shape}.")
    rounds, k = rows.shape[0], int(np.median(mask.sum(axis=-1)))
    if rounds < 2 or k < 4 * _FEWEST:
        reason = f"needs at least 2 rounds of {4 * _FEWEST} coordinates; got {rounds} of {k}."
        return inconclusive(check, reason, significance=significance, n=rounds)
    looked_at = rows[np.broadcast_to(mask, rows.shape)]
    failed = not_finite(check, "noise", looked_at, significance=significance, refuted=refuted)
    if failed is not None:
        return failed
    pairs = _pairs(rounds, rows.shape[1])
    worst, tests = _most_alike(rows, mask, pairs)
    return _result(worst, tests, pairs, rounds, k, significance)


def _pairs(rounds: int, coordinates: int) -> list[tuple[int, int]]:
    """Return pairs of rounds, the nearest first, as many as the work allows."""
    most = max(rounds - 1, int(_MOST_WORK / coordinates))
    found: list[tuple[int, int]] = []
    for gap in range(1, rounds):
        if len(found) + rounds - gap > most:
            break
        found += [(first, first + gap) for first in range(rounds - gap)]
    return found


def _most_alike(rows: NDArray[np.number], mask: NDArray[np.bool_], pairs: list[tuple[int, int]]) -> tuple[_Worst, int]:
    """Return the pair of rounds and shift with the smallest p-value, and how many shifts were looked at in all."""
    width = rows.shape[1]
    size = 1 << (2 * width - 1).bit_length()
    values = np.where(mask, rows, 0).astype(np.float64)
    values /= np.linalg.norm(values, axis=1, keepdims=True).clip(1e-300)
    spectra, energy = np.fft.rfft(values, size), np.fft.rfft(values**2, size)
    here = np.fft.rfft(mask.astype(np.float64), size)
    one_mask = mask.ndim == 1

    def correlate(a: NDArray[np.complex128], b: NDArray[np.complex128]) -> Floats:
        """sum_i a_i b_(i + shift), for shifts 0..size-1 modulo size."""
        return np.asarray(np.fft.irfft(np.conj(a) * b, size))

    def overlap(one: NDArray[np.complex128], other: NDArray[np.complex128]) -> tuple[NDArray[np.int64], Bools]:
        """Return how many coordinates two rounds share at each shift, and which shifts are looked at."""
        shared = np.rint(correlate(one, other)).astype(np.int64)
        looked = shared >= _FEWEST
        looked[0] = False  # no shift at all is `check_noise_reuse`
        return shared, looked

    if one_mask:
        shared, looked = overlap(here, here)
        before = np.stack([correlate(one, here) for one in energy]).clip(1e-150)  # of the shared part, first round
        after = np.stack([correlate(here, one) for one in energy]).clip(1e-150)
    worst, tests = _Worst(2.0, 0.0, (0, 1), 0), 0
    for first, second in pairs:
        if one_mask:
            sizes = before[first] * after[second]
        else:
            shared, looked = overlap(here[first], here[second])
            sizes = correlate(energy[first], here[second]).clip(1e-150)
            sizes *= correlate(here[first], energy[second]).clip(1e-150)
        tests += int(looked.sum())
        cosine = correlate(spectra[first], spectra[second]) / np.sqrt(sizes)
        for shift in np.flatnonzero(looked & (np.abs(cosine) * np.sqrt(shared.clip(1)) > _SUSPICIOUS)):
            alike = min(1.0, abs(float(cosine[shift])))
            p_value = float(betainc((shared[shift] - 1) / 2, 0.5, 1 - alike**2))
            if p_value < worst.p_value:
                worst = _Worst(p_value, alike, (first, second), int(shift if shift < size / 2 else shift - size))
    return worst, tests


def _result(
    worst: _Worst, tests: int, pairs: list[tuple[int, int]], rounds: int, coordinates: int, significance: float
) -> CheckResult:
    p_value = min(1.0, tests * worst.p_value)
    half = coordinates // 2
    limit = math.sqrt(float(betaincinv(0.5, (half - 1) / 2, 1 - significance / tests)))
    far = pairs[-1][1] - pairs[-1][0]
    scope = "" if far == rounds - 1 else f" Rounds more than {far} apart were not compared."
    alike = "none are more alike than four standard errors"
    if worst.p_value <= 1:
        alike = f"the most alike are rounds {worst.rounds[0]} and {worst.rounds[1]}, {worst.offset} coordinates apart"
        alike += f" (cosine {worst.cosine:.3g})"
    status = Status.FAIL if p_value < significance else Status.PASS
    return CheckResult(
        id="noise.overlap",
        status=status,
        statistic=min(1.0, worst.p_value),
        threshold=significance / tests,
        p_value=p_value,
        detail=f"{len(pairs)} pairs of rounds at {tests // len(pairs)} offsets each; {alike}; minimum_detectable is a "
        f"correlation over half of the coordinates.{scope}",
        minimum_detectable=math.tanh(math.atanh(min(limit, 1 - 1e-12)) + Z_DETECTION / math.sqrt(max(half - 3, 1))),
        refuted="fresh noise in every round" if status == Status.FAIL else None,
        significance=significance,
        n=rounds,
    )
