"""The sensitivity of a step whose noise cannot be repeated: weaker, and good only for gross faults."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpaudit.records import CheckResult, Status
from dpaudit.verification import _step_canaries as canary
from dpaudit.verification._results import DETECTION, chi2_quantile
from dpaudit.verification._step_runs import Runs, difference, execute
from dpaudit.verification._step_types import Batch, StepClaim

_REPEATS = 4
_FIRST_SEED = 1_000


def repeated_sensitivity(runs: Runs, claim: StepClaim, share: float) -> CheckResult:
    """Test the largest effect of a canary over the noise without common random numbers, by means of repetitions.

    The difference D of two means over R executions each is the effect plus noise of variance 2 tau^2 / R in each of d
    coordinates, so |effect| >= |D| - tau sqrt(2 chi2_{d; 1-e} / R), and tau is at most the root of the sum of squares
    over chi2_{K; e}. Each of the two limits gets half of the error, shared by all canaries. FAIL or INCONCLUSIVE:
    what is seen this way is many times the clip norm, so the step cannot pass.
    """
    check, limit = "step.sensitivity", 1 / claim.noise_multiplier
    pairs = list(canary.pairs(runs.step))
    error, freedom = share / len(pairs), sum(runs.noise.freedom)
    dimension = sum(part.size for part in runs.base)
    if not freedom:
        detail = "the step has no noise to compare with."
        return CheckResult(id=check, status=Status.INCONCLUSIVE, detail=detail, significance=share)
    tau = math.sqrt(sum(runs.noise.squares) / chi2_quantile(error / 2, freedom))
    noise = math.sqrt(2 / _REPEATS * chi2_quantile(1 - error / 2, dimension))
    found = {}
    for number, pair in enumerate(pairs):
        distance = _distance(runs, pair, number)
        if distance is not None:
            found[pair.name] = pair.share * max(0.0, distance / tau - noise)
    name = max(found, key=lambda key: found[key], default="")
    mu = found.get(name, 0.0)
    least = math.sqrt((limit + noise) ** 2 - 2 / _REPEATS * chi2_quantile(1 - DETECTION, dimension))
    detail = "contributions cannot be told from noise, because the noise is not reproducible; see above. "
    detail += f"{_REPEATS} repetitions of each of {len(found)} canaries show only gross faults"
    if mu > limit:
        detail += f": {name!r} moves the release so much that the noise multiplier is at most {1 / mu:.4g}"
    return CheckResult(
        id=check,
        status=Status.FAIL if mu > limit else Status.INCONCLUSIVE,
        statistic=mu,
        threshold=limit,
        detail=f"{detail}; minimum_detectable is a relative shortfall of the noise multiplier.",
        minimum_detectable=1 - limit / least,
        refuted=f"noise multiplier {claim.noise_multiplier:.6g}" if mu > limit else None,
        significance=share,
        n=freedom,
    )


def _distance(runs: Runs, pair: canary.Pair, number: int) -> float | None:
    """Return the distance of the mean releases without and with the canary; None when it crashes or is not finite."""
    seeds = _FIRST_SEED + runs.seed + 2 * _REPEATS * number + np.arange(2 * _REPEATS)
    try:
        with np.errstate(all="ignore"):
            without = _mean(runs, pair.without, seeds[:_REPEATS].tolist())
            gap = _mean(runs, pair.canary, seeds[_REPEATS:].tolist()) - without
            distance = float(np.linalg.norm(gap))
    except Exception:  # a crash is reported by step.robust
        return None
    return distance if math.isfinite(distance) else None


def _mean(runs: Runs, batch: Batch, seeds: Sequence[int]) -> NDArray[np.float64]:
    zero = tuple(np.zeros(part.shape) for part in runs.base)
    total = [np.concatenate(difference(execute(runs.step, batch, seed), zero)) for seed in seeds]
    return np.asarray(np.mean(total, axis=0))
