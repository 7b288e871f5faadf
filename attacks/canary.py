"""White-box scores of gradient canaries from what the server released in each round.

Canary i adds a vector of clipped norm 1 in its own direction whenever it takes part; the auditor sees the noisy sum
along that direction, in units of the clip norm: N(0, z^2) without the canary, N(1, z^2) with it. Where the canary
could take part, it does so by a secret coin of probability q, so one round is worth
log(1 - q + q exp((x - 1/2) / z^2)), and rounds add up (the exact log-likelihood ratio of included to left out).
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
    u = (observations.astype(np.float64) - 0.5) / noise_multiplier**2
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


def _finite(scores: Floats) -> Floats:
    bad = int(np.count_nonzero(~np.isfinite(scores)))
    if bad:
        raise DataError(f"{bad} canary scores are not finite: an observation of a round is NaN or infinite.")
    return scores
