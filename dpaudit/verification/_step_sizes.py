"""How many came: neither the noise nor the weight of one unit may depend on it (arXiv:2605.15648)."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dpaudit.records import CheckResult, Status
from dpaudit.verification import _step_canaries as canary
from dpaudit.verification._step_checks import exact, seeded
from dpaudit.verification._step_runs import SAME_SIZE, Runs, difference, execute, norm_of
from dpaudit.verification._step_types import Batch

SAME_WEIGHT = 0.1
"""Relative change of one unit's weight that is let pass: local training may depend a little on a unit's place."""


def denominator(runs: Runs) -> list[CheckResult]:
    """Compare the noise, and the weight of one unit, between batches of different size.

    The divisor is fixed and public. Where the mean is over those who came, but the noise is set for those who were
    expected, a unit counts for more when others stay away, and its noise does not grow with it.
    """
    check, refuted = "step.denominator", "noise and weights that do not depend on the realised batch"
    if runs.step.fixed_size:
        return []
    if not runs.aligned or seeded(runs).status != Status.PASS:
        return [exact(check, Status.INCONCLUSIVE, "the noise is not reproducible; see above.")]
    problems, ratios = [], []
    for name, batch in _sizes(runs):
        try:
            ratios.append((name, _noise_norm(runs, batch) / runs.noise.norm))
        except Exception as error:
            problems.append(f"{name} crashed: {type(error).__name__}: {error}")
    problems += [f"{name} releases NaN or infinity" for name, ratio in ratios if not math.isfinite(ratio)]
    finite = [(name, ratio) for name, ratio in ratios if math.isfinite(ratio)]
    name, ratio = max(finite, key=lambda item: abs(math.log(item[1])) if item[1] > 0 else math.inf, default=("", 1.0))
    if abs(ratio - 1) > SAME_SIZE:
        problems.append(f"the noise is {ratio:.4g} times as large with {name}")
    weight = _weight_of_one(runs)
    if weight is not None and abs(weight - 1) > SAME_WEIGHT:
        problems.append(f"one unit counts {weight:.4g} times as much in half the batch, the noise being what it is")
    detail = "; ".join(problems)
    if not problems:
        text = ", ".join(f"{value:.4g} with {which}" for which, value in finite)
        detail = f"noise relative to the batch's: {text}; minimum_detectable is a relative change"
        detail += "." if weight is not None else "; the weight of one unit could not be compared."
    status = Status.FAIL if problems else Status.PASS
    return [replace(exact(check, status, detail, refuted, detectable=SAME_SIZE), statistic=ratio, threshold=1.0)]


def _sizes(runs: Runs) -> Iterator[tuple[str, Batch]]:
    yield "twice the batch", canary.repeated(runs.step.batch, 2)
    yield "half the batch", _half(runs)
    wanted = runs.step.test_empty
    if wanted or (wanted is None and runs.step.kind == "updates"):
        yield "an empty batch", tuple(array[:0] for array in runs.step.batch)


def _half(runs: Runs) -> Batch:
    return tuple(array[: len(array) // 2] for array in runs.step.batch)


def _noise_norm(runs: Runs, batch: Batch) -> float:
    apart = difference(execute(runs.step, batch, runs.seed), execute(runs.step, batch, runs.seed + 1))
    return norm_of(apart) / math.sqrt(2)


def _weight_of_one(runs: Runs) -> float | None:
    """Return how much more one canary moves the release of half the batch than that of the batch.

    The canary is compared with an ordinary unit, so that the two batches have one size. None where that cannot be seen.
    """
    step = runs.step
    _, strong = next(canary.canaries(step))
    norms = []
    try:
        for batch in (step.batch, _half(runs)):
            with np.errstate(all="ignore"):
                releases = [
                    execute(step, canary.added(batch, row), runs.seed) for row in (strong, canary.one_row(step))
                ]
            norms.append(norm_of(difference(*releases)))
    except Exception:  # a crash is reported by step.robust
        return None
    if not all(math.isfinite(norm) for norm in norms) or norms[0] < SAME_SIZE * runs.noise.norm:
        return None
    return norms[1] / norms[0]
