"""Executions of a step under test: collected once, compared by the checks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpaudit.records import CheckResult, Status
from dpaudit.verification import _step_canaries as canary
from dpaudit.verification._step_types import Batch, Step

Tensors = tuple[NDArray[Any], ...]

_WANTED_FREEDOM = 20_000
_MOST_RUNS = 40
SAME_SIZE = 1e-3
"""Relative change of the noise with the batch size that counts as rounding."""
SAME_NOISE = 0.99
"""Cosine of two noise vectors above which they count as the same draw."""


class StepFailed(Exception):
    """The step could not be executed at all; carries what to report."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail

    def result(self, significance: float) -> CheckResult:
        """Return the failure as a check result."""
        refuted = "the step releases finite numbers" if self.status == Status.FAIL else None
        return CheckResult(
            id="step.runs", status=self.status, detail=self.detail, refuted=refuted, significance=significance
        )


def execute(step: Step, batch: Batch, seed: int) -> Tensors:
    """Run the step once; whatever it raises goes through."""
    return as_tensors(step.run(batch, seed))


def as_tensors(released: Sequence[ArrayLike]) -> Tensors:
    """Return released tensors as arrays."""
    return tuple(np.asarray(tensor) for tensor in released)


def difference(a: Tensors, b: Tensors) -> list[NDArray[np.float64]]:
    """Return a - b in float64, flat, per tensor."""
    return [np.subtract(x, y, dtype=np.float64).ravel() for x, y in zip(a, b, strict=True)]


def norm_of(parts: Sequence[NDArray[np.float64]]) -> float:
    """Return the norm of a vector that comes in parts."""
    return float(np.sqrt(sum(float(v @ v) for v in parts)))


def rounding(a: Tensors) -> list[float]:
    """Return, per tensor, the norm that rounding of the released numbers alone may give to a difference."""
    return [
        2 * float(np.finfo(x.dtype).eps) * float(np.linalg.norm(x.ravel().astype(np.float64)))
        if x.dtype.kind == "f"
        else 0.0
        for x in a
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """The noise of a step, from executions on one batch that differ in the seed.

    `squares` and `freedom` are chi-square per tensor up to the unknown scale; `values` is one draw (difference of
    two executions over sqrt 2) and `noised` says which coordinates ever changed.
    """

    squares: list[float]
    freedom: list[int]
    values: list[NDArray[np.float64]]
    noised: list[NDArray[np.bool_]]

    @property
    def present(self) -> bool:
        """Whether anything changes with the seed."""
        return sum(self.squares) > 0

    @property
    def norm(self) -> float:
        """Norm of one draw."""
        return norm_of(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What one canary did: the norm of the change per tensor, or why there is none."""

    name: str
    norms: list[float] = field(default_factory=list)
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Everything that was executed.

    `same_draw` is the cosine between the noise of the batch and that of a batch with one more unit: 1 when the noise
    does not depend on the data. `growth` is the ratio of their norms: 1 when the noise does not depend on how many
    units came; else it has been divided out of the effects of canaries.
    """

    step: Step
    seed: int
    base: Tensors
    repeatable: float
    noise: Noise
    same_draw: float
    growth: float
    effects: tuple[Effect, ...]
    poison: tuple[Effect, ...]
    moved: list[NDArray[np.bool_]]

    @property
    def rescaled(self) -> bool:
        """Whether the noise of a larger batch had to be brought to the size of the batch's."""
        return abs(self.growth - 1) > SAME_SIZE

    @property
    def aligned(self) -> bool:
        """Whether two executions with one seed share their noise, whatever the batch."""
        return self.same_draw >= SAME_NOISE


def prepare(step: Step, *, seed: int) -> Runs:
    """Execute the step on the batch, on the batch with each canary, and with several seeds; raise StepFailed."""
    base = _first(step, seed)
    again, noise = _repeated(step, base, seed)
    moved = [np.zeros(tensor.size, dtype=np.bool_) for tensor in base]
    same_draw, growth = _of_one_more(step, noise, seed)
    compare = _Comparison(step, seed, base, moved, growth if same_draw >= SAME_NOISE else 1.0)
    return Runs(
        step=step,
        seed=seed,
        base=base,
        repeatable=norm_of(difference(again, base)),
        noise=noise,
        effects=tuple(compare.effect(pair) for pair in canary.pairs(step)),
        poison=tuple(compare.effect(pair) for pair in canary.poisoned(step)),
        same_draw=same_draw,
        growth=growth,
        moved=moved,
    )


def _first(step: Step, seed: int) -> Tensors:
    try:
        base = execute(step, step.batch, seed)
    except Exception as error:
        detail = f"the step cannot be run on its own batch: {type(error).__name__}: {error}"
        raise StepFailed(Status.INCONCLUSIVE, detail) from error
    if not base or not sum(tensor.size for tensor in base):
        raise StepFailed(Status.INCONCLUSIVE, "the step releases nothing.")
    if any(tensor.dtype.kind not in "fiub" for tensor in base):
        raise StepFailed(Status.INCONCLUSIVE, "the step releases something else than numbers.")
    if not all(np.isfinite(tensor).all() for tensor in base):
        raise StepFailed(Status.FAIL, "the step releases NaN or infinity on an ordinary batch.")
    return base


def _repeated(step: Step, base: Tensors, seed: int) -> tuple[Tensors, Noise]:
    """Run the batch again, with the same seed and with others; what works once must work again."""
    try:
        again, noise = execute(step, step.batch, seed), _noise(step, base, seed)
        same_shape = [t.shape for t in again] == [t.shape for t in base]
    except Exception as error:
        detail = f"the step ran once and then failed on the same batch: {type(error).__name__}: {error}"
        raise StepFailed(Status.INCONCLUSIVE, detail) from error
    if not same_shape:
        raise StepFailed(Status.INCONCLUSIVE, "the step releases other shapes the second time.")
    finite = all(np.isfinite(tensor).all() for tensor in again) and bool(np.isfinite(noise.squares).all())
    if not finite:
        raise StepFailed(Status.FAIL, "the step releases NaN or infinity for some seed on an ordinary batch.")
    return again, noise


def _noise(step: Step, base: Tensors, seed: int) -> Noise:
    """Estimate the noise; small steps are run with more seeds, so that the estimate is worth something."""
    dimension = sum(tensor.size for tensor in base)
    more = int(np.clip(-(-_WANTED_FREEDOM // dimension), 1, _MOST_RUNS))
    mean = [tensor.astype(np.float64).ravel() for tensor in base]
    squares = [np.zeros(tensor.size) for tensor in base]
    values: list[NDArray[np.float64]] = []
    for run in range(1, more + 1):
        other = execute(step, step.batch, seed + run)
        if run == 1:
            values = [part / np.sqrt(2) for part in difference(base, other)]
        for i, tensor in enumerate(other):  # Welford's update: sums of squared deviations from the running mean
            gap = tensor.astype(np.float64).ravel() - mean[i]
            mean[i] += gap / (run + 1)
            squares[i] += gap * (tensor.astype(np.float64).ravel() - mean[i])
    noised = [part > 0 for part in squares]
    return Noise(
        squares=[float(part.sum()) for part in squares],
        freedom=[more * int(np.count_nonzero(part)) for part in noised],
        values=values,
        noised=noised,
    )


class _Comparison:
    """Runs pairs of batches with one seed, and notes which released numbers any canary moved."""

    def __init__(self, step: Step, seed: int, base: Tensors, moved: list[NDArray[np.bool_]], growth: float) -> None:
        self._step, self._seed, self._base, self._moved, self._growth = step, seed, base, moved, growth
        self._other: tuple[Batch, Tensors] | None = None

    def _without(self, batch: Batch) -> Tensors:
        """Return the release without the canary; the last one is kept, for pairs come in groups."""
        if batch is self._step.batch:
            return self._base
        if self._other is None or self._other[0] is not batch:
            self._other = (batch, execute(self._step, batch, self._seed))
        return self._other[1]

    def effect(self, pair: canary.Pair) -> Effect:
        """Return how far the canary moved each tensor beyond rounding."""
        try:
            with np.errstate(all="ignore"):
                without, released = self._without(pair.without), execute(self._step, pair.canary, self._seed)
        except Exception as error:
            return Effect(name=pair.name, problem=f"crashed: {type(error).__name__}: {error}")
        if [t.shape for t in released] != [t.shape for t in without]:
            return Effect(name=pair.name, problem="changed the shape of the release")
        if not all(np.isfinite(tensor).all() for tensor in released):
            return Effect(name=pair.name, problem="came through as NaN or infinity")
        if len(pair.canary[0]) != len(pair.without[0]) and abs(self._growth - 1) > SAME_SIZE:
            released = tuple(tensor / self._growth for tensor in released)
        change = difference(released, without)
        for i, (part, tensor) in enumerate(zip(change, without, strict=True)):
            eps = float(np.finfo(tensor.dtype).eps) if tensor.dtype.kind == "f" else 0.0
            self._moved[i] |= np.abs(part) > 4 * eps * np.abs(tensor.astype(np.float64).ravel())
        floor = rounding(without)
        norms = [pair.share * max(0.0, float(np.linalg.norm(v)) - low) for v, low in zip(change, floor, strict=True)]
        return Effect(name=pair.name, norms=norms)


def _of_one_more(step: Step, noise: Noise, seed: int) -> tuple[float, float]:
    """Return cosine and ratio of norms of the noise with one more unit (a duplicate) and the noise of the batch."""
    if not noise.present:
        return 1.0, 1.0
    grow = canary.replaced if step.fixed_size else canary.added
    larger = grow(step.batch, canary.one_row(step))
    try:
        other = difference(execute(step, larger, seed), execute(step, larger, seed + 1))
    except Exception:  # the crash is reported with the canaries
        return 0.0, 1.0
    dot = sum(float(a @ b) for a, b in zip(other, noise.values, strict=True))
    size = norm_of(other)
    if not (size > 0 and np.isfinite(size)):
        return 0.0, 1.0
    return dot / (size * noise.norm), size / (np.sqrt(2) * noise.norm)
