"""A small DP server step in NumPy, honest; its broken twins lie in subject_clipping, subject_noise, subject_cohort.

Each twin plants one real bug of the field. They show what `check_step` finds, serve as fire drills (`dpaudit check
step dpaudit.verification.subject_noise:HalfNoise.step --noise-multiplier 1`), and are the mutants of the tests. The
honest `Server` clips whole updates, sums, adds N(0, (z C)^2) once and divides by the expected number of units.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.verification._step_types import Batch, Step

Floats = NDArray[np.float64]

SHAPES = ((60, 100), (100,), (100, 20), (20,))
UNITS, EXPECTED = 48, 50.0


def split(vector: Floats) -> list[Floats]:
    """Return a flat vector as the tensors of the model."""
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(vector, ends), SHAPES, strict=True)]


def flat(batch: Batch) -> Floats:
    """Return the rows of a batch, all tensors side by side."""
    return np.concatenate(
        [array.reshape(len(array), int(np.prod(array.shape[1:]))).astype(np.float64) for array in batch], axis=1
    )


def norms(rows: Floats) -> Floats:
    """Return the norm of each row, as a column."""
    return np.asarray(np.linalg.norm(rows, axis=1, keepdims=True))


class Server:
    """The honest step: noise multiplier 1, clip norm 0.5."""

    noise_multiplier: float = 1.0
    clip_norm: float = 0.5
    weighted: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False

    @classmethod
    def step(cls) -> Step:
        """Return the step under test."""
        rng = np.random.default_rng(0)
        batch = tuple(rng.normal(0.02, 0.05, (UNITS, *shape)).astype(np.float32) for shape in SHAPES)
        if cls.weighted:
            batch = (*batch, np.full(UNITS, 20.0, dtype=np.float32))
        return Step(
            run=lambda rows, seed: cls().run(rows, seed),
            batch=batch,
            clip_norm=cls.clip_norm,
            weighted=cls.weighted,
            replays=lambda rows, seed: cls().replays(rows, seed),
            second=lambda first, second, seed: cls().second(first, second, seed),
            next_clip=(lambda rows, seed: cls().next_clip(flat(rows))) if cls.adaptive else None,  # noqa: ARG005
        )

    def run(self, batch: Batch, seed: int, stream: int = 0) -> list[Any]:
        """Release once."""
        weights = batch[-1].astype(np.float64) if self.weighted else None
        rows = flat(batch[: len(SHAPES)])
        kept = self.accept(rows)
        rows = rows[kept]
        total = self.total(self.clip(rows), None if weights is None else weights[kept])
        noisy = total + self.noise(self.generator(seed, stream), len(rows))
        return self.release(split(noisy / self.denominator(len(rows))))

    def accept(self, rows: Floats) -> NDArray[np.bool_]:
        """Return which rows are used: the finite ones."""
        with np.errstate(over="ignore"):
            return np.asarray(np.isfinite(rows).all(axis=1) & np.isfinite(np.square(rows).sum(axis=1)))

    def clip(self, rows: Floats) -> Floats:
        """Return the rows, each of norm at most the clip norm."""
        return rows * np.minimum(1.0, self.clip_norm / np.maximum(norms(rows), 1e-30))

    def total(self, rows: Floats, weights: Floats | None) -> Floats:
        """Return the sum; weights are public, and ignored."""
        del weights
        return np.asarray(rows.sum(axis=0))

    def generator(self, seed: int, stream: int) -> np.random.Generator:
        """Return the generator of one draw of noise."""
        return _rng.stream(seed, "subject-noise", stream)

    def noise(self, rng: np.random.Generator, units: int) -> Floats:
        """Return the noise of a sum."""
        del units
        return (
            rng.standard_normal(sum(int(np.prod(shape)) for shape in SHAPES)) * self.noise_multiplier * self.clip_norm
        )

    def denominator(self, units: int) -> float:
        """Return the divisor: the expected number of units."""
        del units
        return EXPECTED

    def release(self, tensors: list[Floats]) -> list[Any]:
        """Return what leaves the server."""
        return [tensor.astype(np.float32) for tensor in tensors]

    def replays(self, batch: Batch, seed: int) -> Mapping[str, list[Any]]:
        """Release with the generators of two steps, of a restored run, and of another worker."""
        return {
            name: self.run(batch, seed, stream)
            for stream, name in enumerate(("step 1", "step 2", "step 2 after restore", "worker 2"))
        }

    def second(self, first: Batch, second: Batch, seed: int) -> list[Any]:
        """Run two steps; nothing is kept of the first."""
        self.run(first, seed)
        return self.run(second, seed, 1)

    def next_clip(self, rows: Floats) -> float:
        """Return the next clip norm of adaptive clipping (Andrew et al., arXiv:1905.03871), without its noise."""
        below = float(np.mean(norms(rows) <= self.clip_norm))
        return float(self.clip_norm * np.exp(-0.2 * (below - 0.5)))


class AdaptiveServer(Server):
    """Honest, with adaptive clipping."""

    adaptive = True


class WeightedServer(Server):
    """Honest, in a framework that sends weights along: it ignores them."""

    weighted = True
