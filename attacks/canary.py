"""White-box scores of gradient canaries from what the server released in each round.

Canary i adds a vector of clipped norm 1 in its own direction whenever it takes part; the auditor sees the noisy sum
along that direction, in units of the clip norm: N(0, z^2) without the canary, N(1, z^2) with it. Where the canary
could take part, it does so by a secret coin of probability q, so one round is worth
log(1 - q + q exp((x - 1/2) / z^2)), and rounds add up (the exact log-likelihood ratio of included to left out).

Along the directions of other families of canaries (random, chosen, data) real units and other canaries contribute, too.
`background_scores` takes what all canaries of a round have in common off, and counts the rest as more noise.
"""

import math

import numpy as np
from numpy.typing import NDArray

from dpaudit import _validate
from dpaudit.errors import DataError

Floats = NDArray[np.float64]

_BLOCK = 1 << 20  # values in float64 at a time: observations may be a memory map of a whole run
_LARGEST_EXPONENT = 500.0  # beyond, log(1 - q + q exp(u)) = log(q exp(500)) + (u - 500) to the last bit


def _step(observations: NDArray[np.floating], noise_multiplier: float, q: float) -> Floats:
    """Return log(1 - q + q exp((x - 1/2) / z^2)) without overflow."""
    return _log_ratio((observations.astype(np.float64) - 0.5) / noise_multiplier**2, q)


def _log_ratio(u: Floats, q: float) -> Floats:
    """Return log(1 - q + q exp(u)) without overflow; `u` is overwritten."""
    if q == 1:
        return np.asarray(u)
    excess = np.maximum(u - _LARGEST_EXPONENT, 0.0)
    np.exp(np.minimum(u, _LARGEST_EXPONENT, out=u), out=u)
    u *= q
    u += 1 - q
    np.log(u, out=u)
    return np.asarray(u + excess)


def _check(observations: NDArray[np.floating], eligible: NDArray[np.bool_], noise_multiplier: float, q: float) -> None:
    _validate.positive(noise_multiplier=noise_multiplier)
    _validate.sampling_rate(secret_sampling_rate=q)
    if q < 1 and math.log(q) < -600:
        raise DataError(f"secret_sampling_rate {q!r} is too small to score with.")
    if observations.ndim != 2 or observations.shape != eligible.shape:
        raise DataError(
            "observations and eligible must both have shape (rounds, canaries); "
            f"got {observations.shape} and {eligible.shape}."
        )


def per_step_scores(
    observations: NDArray[np.floating],
    eligible: NDArray[np.bool_],
    *,
    noise_multiplier: float,
    secret_sampling_rate: float,
) -> Floats:
    """Return the log-likelihood ratio of every round and canary, shape (rounds, canaries), 0 where not eligible.

    Arguments and errors as `llr_scores`. The result is as large as the observations, in float64.
    """
    _check(observations, eligible, noise_multiplier, secret_sampling_rate)
    scores = np.where(
        eligible, _step(np.where(eligible, observations, 0.0), noise_multiplier, secret_sampling_rate), 0.0
    )
    return _finite(scores)


def llr_scores(
    observations: NDArray[np.floating],
    eligible: NDArray[np.bool_],
    *,
    noise_multiplier: float,
    secret_sampling_rate: float,
) -> Floats:
    """Return the log-likelihood ratio of each canary over all its eligible rounds, shape (canaries,).

    Args:
        observations: noisy sums along the canaries' directions, in clip norms, shape (rounds, canaries); may be a
            memory map, which is read in blocks of rounds.
        eligible: rounds in which the canary could take part (its client was there), shape (rounds, canaries).
        noise_multiplier: standard deviation of the noise in clip norms, as claimed.
        secret_sampling_rate: probability q that an eligible canary takes part, unknown to the attacker.

    Raises:
        UsageError: noise_multiplier <= 0 or the rate outside (0, 1].
        DataError: shapes differ, or an eligible observation is NaN or infinite.
    """
    _check(observations, eligible, noise_multiplier, secret_sampling_rate)
    rounds, canaries = observations.shape
    total = np.zeros(canaries)
    step = max(1, _BLOCK // max(1, canaries))
    for start in range(0, rounds, step):
        allowed = np.asarray(eligible[start : start + step])
        seen = np.where(allowed, observations[start : start + step], 0.0)
        total += np.einsum("tm,tm->m", _step(seen, noise_multiplier, secret_sampling_rate), allowed)
    return _finite(total)


def background_scores(
    observations: NDArray[np.floating],
    sizes: NDArray[np.floating],
    eligible: NDArray[np.bool_],
    *,
    noise_multiplier: float,
    secret_sampling_rate: float,
) -> Floats:
    """Return one score per canary of a family along whose directions others contribute, too, shape (canaries,).

    The log-likelihood ratio of `llr_scores` for a canary that adds `sizes` in each round, with two things estimated
    from the round itself: what all canaries have in common (its mean, less what coins and sampling put there) and the
    noise, which counts what is left of others (never less than `noise_multiplier`). Where others' contributions are
    not Gaussian this is no exact ratio, only a score: read it with methods that assume nothing about scores.

    Args:
        observations: as for `llr_scores`, along the direction of each canary in that round.
        sizes: what the canary adds there when it takes part, in clip norms, the same shape; 0: it has no direction.
        eligible: as for `llr_scores`.
        noise_multiplier: as for `llr_scores`.
        secret_sampling_rate: as for `llr_scores`.

    Raises: as `llr_scores`; DataError also for sizes of another shape.
    """
    _check(observations, eligible, noise_multiplier, secret_sampling_rate)
    if sizes.shape != observations.shape:
        raise DataError(f"sizes must have the shape of observations, {observations.shape}; got {sizes.shape}.")
    rounds, canaries = observations.shape
    total = np.zeros(canaries)
    step = max(1, _BLOCK // max(1, canaries))
    for start in range(0, rounds, step):
        allowed = np.asarray(eligible[start : start + step]) & (np.asarray(sizes[start : start + step]) > 0)
        seen = np.where(allowed, observations[start : start + step], 0.0).astype(np.float64)
        size = np.where(allowed, sizes[start : start + step], 0.0).astype(np.float64)
        centre, variance = _background(seen, size, allowed, noise_multiplier, secret_sampling_rate)
        ratio = _log_ratio(size * (seen - centre - size / 2) / variance, secret_sampling_rate)
        total += np.einsum("tm,tm->m", ratio, allowed)
    return _finite(total)


_ENOUGH = 20  # canaries in a round, below which their mean and spread say little


def _background(seen: Floats, size: Floats, allowed: NDArray[np.bool_], z: float, q: float) -> tuple[Floats, Floats]:
    """Return (rounds, 1) each: what the canaries of a round have in common, and the variance of one about it.

    A canary is there with probability q / 2: its coin, then sampling.
    """
    there, count = q / 2, np.maximum(allowed.sum(axis=1, keepdims=True), 1)
    rest = np.where(allowed, seen - there * size, 0.0)
    centre = rest.sum(axis=1, keepdims=True) / count
    spread = np.where(allowed, np.square(rest - centre), 0.0).sum(axis=1, keepdims=True) / count
    spread -= there * (1 - there) * np.square(size).sum(axis=1, keepdims=True) / count
    enough = count >= _ENOUGH
    return np.where(enough, centre, 0.0), np.where(enough, np.maximum(spread, z * z), z * z)


def _finite(scores: Floats) -> Floats:
    bad = int(np.count_nonzero(~np.isfinite(scores)))
    if bad:
        raise DataError(f"{bad} canary scores are not finite: an observation of a round is NaN or infinite.")
    return scores
