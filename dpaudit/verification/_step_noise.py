"""The checks of a training step's noise: everywhere, Gaussian, never twice."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv

from dpaudit.records import CheckResult, Status
from dpaudit.verification import _step_canaries as canary
from dpaudit.verification._results import Z_DETECTION
from dpaudit.verification._step_checks import exact
from dpaudit.verification._step_runs import Runs, as_tensors, difference, execute
from dpaudit.verification.noise import check_noise_shape

Floats = NDArray[np.float64]
Named = list[tuple[str, Floats]]

NO_REPLAYS = " Steps, workers and restores were not compared: the step offers no `replays`."
_MOST_VALUES = 1_000_000
_FEWEST_VALUES = 16


def noise_everywhere(runs: Runs) -> CheckResult:
    """Every coordinate that data can move must carry noise."""
    check, refuted = "step.noise", "noise on everything that is released"
    if not runs.noise.present:
        detail = "the release does not change with the seed: there is no noise, or always the same."
        return exact(check, Status.FAIL, detail, refuted)
    bare = [moved & ~noised for moved, noised in zip(runs.moved, runs.noise.noised, strict=True)]
    try:
        for extra in range(1, 4):  # rounding can hide the noise of a coordinate in one pair of executions, not in four
            if any(part.any() for part in bare):
                other = execute(runs.step, runs.step.batch, runs.seed + 100 + extra)
                bare = [b & (part == 0) for b, part in zip(bare, difference(other, runs.base), strict=True)]
    except Exception as error:
        return exact(check, Status.INCONCLUSIVE, f"the step failed for another seed: {type(error).__name__}: {error}")
    counts = [int(np.count_nonzero(part)) for part in bare]
    if not sum(counts):
        moved = sum(int(np.count_nonzero(part)) for part in runs.moved)
        detail = (
            f"each of {moved} released numbers that a canary moved carries noise; minimum_detectable is one number."
        )
        return exact(check, Status.PASS, detail, detectable=1.0)
    first = next(i for i, count in enumerate(counts) if count)
    detail = f"{sum(counts)} released numbers follow the data without noise, the first in tensor {first}."
    return exact(check, Status.FAIL, detail, refuted)


def _pure_noise(runs: Runs) -> list[Floats] | None:
    """Return one draw of bare noise per tensor: the release of a batch whose contributions are zero.

    None where that is not bare noise: examples cannot be zero, and a release of whole weights keeps an offset, which
    shows as a correlation between two such releases with different seeds.
    """
    if runs.step.kind != "updates":
        return None
    quiet = canary.silent(runs.step, runs.step.batch)
    first, second = (execute(runs.step, quiet, runs.seed + i) for i in range(2))
    draws = [tensor.astype(np.float64).ravel() for tensor in first]
    for a, b in zip(draws, (tensor.astype(np.float64).ravel() for tensor in second), strict=True):
        size = float(np.linalg.norm(a) * np.linalg.norm(b))
        if not np.isfinite(size) or (size > 0 and abs(float(a @ b)) / size > 4 / math.sqrt(a.size)):
            return None
    return draws


def _noise_vectors(runs: Runs) -> tuple[list[Floats], str]:
    try:
        bare = _pure_noise(runs)
    except Exception:  # a step that cannot take zeros is told so by step.robust
        bare = None
    if bare is None:
        return runs.noise.values, "difference of two executions, which hides a cut of the tails"
    return bare, "noise of a batch without contributions"


def noise_shape(runs: Runs, share: float) -> CheckResult:
    """Test the noise of all tensors together, each divided by its own scale, against a Gaussian."""
    tensors, source = _noise_vectors(runs)
    pieces = []
    for values in tensors:
        size = math.sqrt(float(np.mean(values**2))) if values.size else 0.0
        if size > 0 and values.size >= _FEWEST_VALUES:
            pieces.append(
                values[: max(_FEWEST_VALUES, _MOST_VALUES * values.size // sum(t.size for t in tensors))] / size
            )
    pooled = np.concatenate(pieces) if pieces else np.zeros(0)
    result = check_noise_shape(pooled, noise_multiplier=1.0, significance=share)
    refuted = None if result.refuted is None else "Gaussian noise"
    return replace(result, id="step.noise-shape", detail=f"{source}: {result.detail}", refuted=refuted)


def _tensor_noise(runs: Runs) -> Named:
    """Return the noise of each tensor, and of its second half where that is long enough."""
    named = []
    for number, values in enumerate(_noise_vectors(runs)[0]):
        half = values.size // 2
        named.append((f"tensor {number}", values[:_MOST_VALUES]))
        named.append((f"tensor {number}, second half", values[values.size - half :][:_MOST_VALUES]))
    return [(name, values) for name, values in named if values.size >= _FEWEST_VALUES and values.any()]


def _replayed_noise(runs: Runs) -> Named:
    """Return the noise of each replay, as a difference between two seeds."""
    step = runs.step
    if step.replays is None:
        return []
    batch = canary.silent(step, step.batch) if step.kind == "updates" else step.batch
    first, second = step.replays(batch, runs.seed), step.replays(batch, runs.seed + 1)
    return [
        (name, np.concatenate(difference(as_tensors(first[name]), as_tensors(second[name])))[:_MOST_VALUES])
        for name in first
    ]


def noise_reuse(runs: Runs, share: float) -> CheckResult:
    """Test that the noise of tensors, of their halves, and of the step's replays are independent (cosine of each pair).

    Vectors of different length are compared over the shorter: generators with one seed agree from the start.
    """
    check, refuted = "step.noise-reuse", "fresh, independent noise"
    try:
        replayed = _replayed_noise(runs)
    except Exception as error:
        detail = f"the replays of the step failed: {type(error).__name__}: {error}"
        return CheckResult(id=check, status=Status.INCONCLUSIVE, detail=detail, significance=share)
    still = [name for name, values in replayed if not values.any()]
    if still:
        return exact(check, Status.FAIL, f"{still[0]!r} has no noise that changes with the seed.", refuted)
    pairs = [*combinations(_tensor_noise(runs), 2), *combinations(replayed, 2)]
    if not pairs:
        detail = "one small tensor and no replays: there is nothing to compare."
        return CheckResult(id=check, status=Status.INCONCLUSIVE, detail=detail, significance=share)
    return _most_alike(check, pairs, share, refuted, scope="" if replayed else NO_REPLAYS)


def _most_alike(
    check: str, pairs: Sequence[tuple[tuple[str, Floats], ...]], share: float, refuted: str, *, scope: str
) -> CheckResult:
    worst, smallest, cosine, size = ("", ""), 2.0, 0.0, 0
    for (name, a), (other, b) in pairs:
        k = min(a.size, b.size)
        dot = float(a[:k] @ b[:k]) / max(float(np.linalg.norm(a[:k]) * np.linalg.norm(b[:k])), 1e-300)
        p_value = float(betainc((k - 1) / 2, 0.5, 1 - min(1.0, dot**2)))
        if p_value < smallest:
            worst, smallest, cosine, size = (name, other), p_value, abs(dot), k
    adjusted = min(1.0, len(pairs) * smallest)
    limit = math.sqrt(float(betaincinv(0.5, (size - 1) / 2, 1 - share / len(pairs))))
    status = Status.FAIL if adjusted < share else Status.PASS
    return CheckResult(
        id=check,
        status=status,
        statistic=cosine,
        threshold=limit,
        p_value=adjusted,
        detail=f"{len(pairs)} pairs; the most alike are {worst[0]} and {worst[1]}; minimum_detectable is a correlation "
        f"of that pair.{scope}",
        minimum_detectable=math.tanh(math.atanh(min(limit, 1 - 1e-12)) + Z_DETECTION / math.sqrt(max(size - 3, 1))),
        refuted=refuted if status == Status.FAIL else None,
        significance=share,
        n=size,
    )
