"""A small DP server step in NumPy, and its broken twins: each class below plants one real bug of the field.

They show what `check_step` finds, serve as fire drills (`dpaudit check step
dpaudit.verification.subject_server:HalfNoise.step --noise-multiplier 1`), and are the mutants of the tests. The
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


def _split(vector: Floats) -> list[Floats]:
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(vector, ends), SHAPES, strict=True)]


def _flat(batch: Batch) -> Floats:
    return np.concatenate(
        [array.reshape(len(array), int(np.prod(array.shape[1:]))).astype(np.float64) for array in batch], axis=1
    )


def _norms(rows: Floats) -> Floats:
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
            next_clip=(lambda rows, seed: cls().next_clip(_flat(rows))) if cls.adaptive else None,  # noqa: ARG005
        )

    def run(self, batch: Batch, seed: int, stream: int = 0) -> list[Any]:
        """Release once."""
        weights = batch[-1].astype(np.float64) if self.weighted else None
        rows = _flat(batch[: len(SHAPES)])
        kept = self.accept(rows)
        rows = rows[kept]
        total = self.total(self.clip(rows), None if weights is None else weights[kept])
        noisy = total + self.noise(self.generator(seed, stream), len(rows))
        return self.release(_split(noisy / self.denominator(len(rows))))

    def accept(self, rows: Floats) -> NDArray[np.bool_]:
        """Return which rows are used: the finite ones."""
        with np.errstate(over="ignore"):
            return np.asarray(np.isfinite(rows).all(axis=1) & np.isfinite(np.square(rows).sum(axis=1)))

    def clip(self, rows: Floats) -> Floats:
        """Return the rows, each of norm at most the clip norm."""
        return rows * np.minimum(1.0, self.clip_norm / np.maximum(_norms(rows), 1e-30))

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
        below = float(np.mean(_norms(rows) <= self.clip_norm))
        return float(self.clip_norm * np.exp(-0.2 * (below - 0.5)))


class AdaptiveServer(Server):
    """Honest, with adaptive clipping."""

    adaptive = True


class WeightedServer(Server):
    """Honest, in a framework that sends weights along: it ignores them."""

    weighted = True


# Clipping


class ClipAverage(Server):
    """The average is clipped, not each unit, and noised as if (Tramèr et al., arXiv:2202.12219)."""

    def total(self, rows: Floats, weights: Floats | None) -> Floats:
        """Clip the mean, then sum."""
        del weights
        mean = rows.mean(axis=0, keepdims=True) if len(rows) else np.zeros((1, rows.shape[1]))
        return np.asarray(len(rows) * super().clip(mean)[0])

    def clip(self, rows: Floats) -> Floats:
        """Do nothing."""
        return rows


class ClipAggregate(ClipAverage):
    """The server clips the sum, not the clients (catalogue 44); batches differ by everything."""

    def total(self, rows: Floats, weights: Floats | None) -> Floats:
        """Clip the sum to the clip norm times the number of units."""
        del weights
        limit = self.clip_norm * len(rows)
        total = rows.sum(axis=0)
        return np.asarray(total * min(1.0, limit / max(float(np.linalg.norm(total)), 1e-30)))


class NoClip(Server):
    """`max_grad_norm` is ignored (Opacus PR 664)."""

    def clip(self, rows: Floats) -> Floats:
        """Do nothing."""
        return rows


class ClipPerTensor(Server):
    """Each tensor is clipped to the whole clip norm: sensitivity sqrt(tensors) (Fed-BioMed 1443, Flower)."""

    def clip(self, rows: Floats) -> Floats:
        """Clip each tensor by itself."""
        ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES])[:-1]
        return np.concatenate([super(ClipPerTensor, self).clip(part) for part in np.split(rows, ends, axis=1)], axis=1)


class ClipMaximum(Server):
    """Each coordinate is clipped by value, not the norm (APPFL 151)."""

    def clip(self, rows: Floats) -> Floats:
        """Clip coordinates."""
        return np.clip(rows, -self.clip_norm, self.clip_norm)


class ClipThenUseRaw(Server):
    """Clipped copies are made, and the raw rows summed (SmartNoise 622)."""

    def clip(self, rows: Floats) -> Floats:
        """Clip, and forget it."""
        super().clip(rows)
        return rows


class BiasUnclipped(Server):
    """The last tensor is left out of the norm and of the clip (layers without per-example gradients)."""

    def clip(self, rows: Floats) -> Floats:
        """Clip all but the last tensor."""
        last = int(np.prod(SHAPES[-1]))
        return np.concatenate([super().clip(rows[:, :-last]), rows[:, -last:]], axis=1)


class NormOfFirstTensor(Server):
    """The clip factor is computed from the first tensor alone."""

    def clip(self, rows: Floats) -> Floats:
        """Scale the whole row by the norm of its first tensor."""
        first = int(np.prod(SHAPES[0]))
        return rows * np.minimum(1.0, self.clip_norm / np.maximum(_norms(rows[:, :first]), 1e-30))


class ClipAfterNoise(Server):
    """The clip norm of the noise is an older, smaller one (Flower 1.41: noise and clip from different rounds)."""

    def noise(self, rng: np.random.Generator, units: int) -> Floats:
        """Use the clip norm that adaptive clipping has just lowered."""
        return super().noise(rng, units) * float(np.exp(-0.2 * 0.5))


class MicrobatchMean(Server):
    """Means of four units are clipped: one unit can turn its microbatch around, so the sensitivity is 2 C."""

    def clip(self, rows: Floats) -> Floats:
        """Clip the means of groups of four."""
        groups = [rows[i : i + 4].mean(axis=0) for i in range(0, len(rows), 4)]
        return super().clip(np.asarray(groups)) if groups else rows


class AugmentationsSummed(Server):
    """Eight augmentations of a unit are clipped one by one and summed: sensitivity 8 C."""

    def clip(self, rows: Floats) -> Floats:
        """Count every unit eight times."""
        return 8 * super().clip(rows)


class NormaliseByBatch(Server):
    """Contributions are centred on the batch first: one unit moves everybody else's (batch normalisation)."""

    def clip(self, rows: Floats) -> Floats:
        """Centre, then clip."""
        return super().clip(rows - rows.mean(axis=0)) if len(rows) else rows


class HeavyWeights(WeightedServer):
    """Weighted averaging by what clients say they hold: one client decides (Flower 1.41, unequal weights)."""

    def total(self, rows: Floats, weights: Floats | None) -> Floats:
        """Weight each row by its share."""
        return (
            np.asarray(rows.T @ (weights / np.mean(weights)))
            if weights is not None and len(weights)
            else rows.sum(axis=0)
        )


class TripleWeight(WeightedServer):
    """Weights are capped, but at three times the usual one."""

    def total(self, rows: Floats, weights: Floats | None) -> Floats:
        """Weight each row by at most 3."""
        return np.asarray(rows.sum(axis=0) if weights is None else rows.T @ np.minimum(weights / 20.0, 3.0))


class LeftOver(Server):
    """Contributions are not reset between steps: those of the last batch are summed again (Opacus PR 203)."""

    def __init__(self) -> None:
        self._left: Floats | float = 0.0

    def total(self, rows: Floats, weights: Floats | None) -> Floats:
        """Add what is left over."""
        total = super().total(rows, weights)
        carried, self._left = total + self._left, total
        return np.asarray(carried)


# Noise


class HalfNoise(Server):
    """Half the noise."""

    def noise(self, rng: np.random.Generator, units: int) -> Floats:
        """Halve it."""
        return super().noise(rng, units) / 2


class FivePercentLess(Server):
    """Five percent too little noise."""

    def noise(self, rng: np.random.Generator, units: int) -> Floats:
        """Scale it down."""
        return super().noise(rng, units) * 0.95


class NoNoise(Server):
    """A differential privacy that forgot the noise."""

    def noise(self, rng: np.random.Generator, units: int) -> Floats:
        """Return zeros."""
        return 0 * super().noise(rng, units)


class NoiseDividedTwice(Server):
    """Noise for the mean is added to the sum: too small by the batch size."""

    def noise(self, rng: np.random.Generator, units: int) -> Floats:
        """Divide."""
        return super().noise(rng, units) / EXPECTED


class NoiseBySqrtBatch(Server):
    """Noise divided by the square root of the expected batch."""

    def noise(self, rng: np.random.Generator, units: int) -> Floats:
        """Divide."""
        return np.asarray(super().noise(rng, units) / np.sqrt(EXPECTED))


class VarianceForDeviation(Server):
    """The variance is used as the standard deviation: (z C)^2 instead of z C (smartnoise-core 316)."""

    def noise(self, rng: np.random.Generator, units: int) -> Floats:
        """Square the scale."""
        return super().noise(rng, units) * (self.noise_multiplier * self.clip_norm)


class NoisePerMicroStep(Server):
    """Four micro-steps each add a quarter of the noise: half of it in the end."""

    def noise(self, rng: np.random.Generator, units: int) -> Floats:
        """Add four quarters."""
        return np.asarray(sum(super(NoisePerMicroStep, self).noise(rng, units) / 4 for _ in range(4)))


class OneKeyForAll(Server):
    """Every tensor starts the same generator (the DP example of JAX until PR 3646)."""

    def generator(self, seed: int, stream: int) -> np.random.Generator:
        """Remember the seed; `noise` starts it again for each tensor."""
        self._key = (seed, stream)
        return super().generator(seed, stream)

    def noise(self, rng: np.random.Generator, units: int) -> Floats:
        """Draw each tensor from the start."""
        del rng, units
        draws = [Server.generator(self, *self._key).standard_normal(int(np.prod(shape))) for shape in SHAPES]
        return np.concatenate(draws) * self.noise_multiplier * self.clip_norm


class RowsRepeat(Server):
    """Noise is drawn for half of each tensor and repeated."""

    def noise(self, rng: np.random.Generator, units: int) -> Floats:
        """Repeat."""
        parts = _split(super().noise(rng, units))
        return np.concatenate([np.tile(p.ravel()[: p.size // 2], 2)[: p.size] for p in parts])


class FixedSeed(Server):
    """The generator is started with a constant in every step: the noise is always the same."""

    def generator(self, seed: int, stream: int) -> np.random.Generator:
        """Ignore the seed."""
        del seed, stream
        return np.random.default_rng(0)


class SameNoiseEveryStep(Server):
    """One seed for the run, but every step starts from it."""

    def generator(self, seed: int, stream: int) -> np.random.Generator:
        """Ignore the step."""
        del stream
        return super().generator(seed, 0)


class RestoreReplaysNoise(Server):
    """After a restore the generator starts again."""

    def generator(self, seed: int, stream: int) -> np.random.Generator:
        """Give step 1 after a restore the noise of step 1."""
        return super().generator(seed, 0 if stream == 2 else stream)


class WorkersShareSeed(Server):
    """Every worker draws the same noise."""

    def generator(self, seed: int, stream: int) -> np.random.Generator:
        """Give worker 2 the noise of worker 1."""
        return super().generator(seed, 0 if stream == 3 else stream)


class BiasUnnoised(Server):
    """The last tensor carries no noise (NVFlare 343)."""

    def noise(self, rng: np.random.Generator, units: int) -> Floats:
        """Leave the last tensor alone."""
        noise = super().noise(rng, units)
        noise[-int(np.prod(SHAPES[-1])) :] = 0
        return noise


class SparseNoise(Server):
    """Only the coordinates that are not zero in the sum get noise."""

    def run(self, batch: Batch, seed: int, stream: int = 0) -> list[Any]:
        """Leave zero coordinates at zero."""
        signal = _flat(batch).sum(axis=0)
        parts = super().run(batch, seed, stream)
        return [part * (keep != 0) for part, keep in zip(parts, _split(signal), strict=True)]


class IntegerTensor(Server):
    """A tensor of counters is summed as it is, and its noise is rounded to whole numbers first: to 0 (Flower 1.41)."""

    def run(self, batch: Batch, seed: int, stream: int = 0) -> list[Any]:
        """Replace the last tensor by the sum of whole numbers."""
        *rest, last = super().run(batch, seed, stream)
        with np.errstate(all="ignore"):
            counters = np.nan_to_num(np.rint(batch[-1]), posinf=0, neginf=0)
            return [
                *rest,
                np.clip(counters, -1e6, 1e6).astype(np.int64).sum(axis=0) + np.rint(0 * last).astype(np.int64),
            ]


class LaplaceNoise(Server):
    """Laplace noise of the same variance, accounted for as Gaussian."""

    def noise(self, rng: np.random.Generator, units: int) -> Floats:
        """Draw from another law."""
        size = super().noise(rng, units).size
        return np.asarray(rng.laplace(size=size) / np.sqrt(2) * self.noise_multiplier * self.clip_norm)


class UniformNoise(Server):
    """Uniform noise of the same variance."""

    def noise(self, rng: np.random.Generator, units: int) -> Floats:
        """Draw from another law."""
        size = super().noise(rng, units).size
        return np.asarray(rng.uniform(-np.sqrt(3), np.sqrt(3), size) * self.noise_multiplier * self.clip_norm)


class TruncatedNoise(Server):
    """Noise cut off at 2.5 standard deviations."""

    def noise(self, rng: np.random.Generator, units: int) -> Floats:
        """Cut it, and restore its variance."""
        scale = self.noise_multiplier * self.clip_norm
        cut = np.clip(super().noise(rng, units), -2.5 * scale, 2.5 * scale)
        return np.asarray(cut * scale / np.sqrt(np.mean(cut**2)))


# How many came


class ActualBatch(Server):
    """Divides by how many came (arXiv:2605.15648)."""

    def denominator(self, units: int) -> float:
        """Return the realised number."""
        return float(max(units, 1))


class NoiseForThoseWhoCame(Server):
    """Noise is set for the clients that replied: with few of them there is too little (Flower 1.41)."""

    def noise(self, rng: np.random.Generator, units: int) -> Floats:
        """Scale with the number of clients."""
        return super().noise(rng, units) * units / UNITS


class NoEmptyBatch(Server):
    """An empty Poisson batch crashes the step (Opacus 161)."""

    def total(self, rows: Floats, weights: Floats | None) -> Floats:
        """Need at least one row."""
        if not len(rows):
            raise ValueError("need at least one array to concatenate")
        return super().total(rows, weights)


class EmptyBatchSkipped(Server):
    """An empty batch releases nothing, and so says that it was empty."""

    def run(self, batch: Batch, seed: int, stream: int = 0) -> list[Any]:
        """Return zeros for nobody."""
        released = super().run(batch, seed, stream)
        return released if len(batch[0]) else [0 * part for part in released]


# Poison


class NanComesThrough(Server):
    """`min(1, C / norm)` lets NaN through (Flower 1.41, dp-recorder)."""

    def accept(self, rows: Floats) -> NDArray[np.bool_]:
        """Accept everything."""
        return np.ones(len(rows), dtype=np.bool_)

    def clip(self, rows: Floats) -> Floats:
        """Clip what can be clipped."""
        with np.errstate(all="ignore"):
            return super().clip(rows)


class ZeroCrashes(Server):
    """A zero update is divided by its norm (Flower PR 7631)."""

    def clip(self, rows: Floats) -> Floats:
        """Refuse zero norms."""
        if (_norms(rows) == 0).any():
            raise ZeroDivisionError("float division by zero")
        return super().clip(rows)


class AlwaysUnitNorm(Server):
    """Honest in privacy: every row is scaled to the clip norm, small ones up (it passes)."""

    def clip(self, rows: Floats) -> Floats:
        """Normalise."""
        return rows * self.clip_norm / np.maximum(_norms(rows), 1e-30)


class AdaptiveInverted(AdaptiveServer):
    """Adaptive clipping with the sign turned around: it shrinks when everything is clipped (Flower 1.41)."""

    def next_clip(self, rows: Floats) -> float:
        """Count the clipped ones instead."""
        above = float(np.mean(_norms(rows) > self.clip_norm))
        return float(self.clip_norm * np.exp(-0.2 * (above - 0.5)))


# Steps that cannot be tested as they are


class NotSeeded(Server):
    """Draws from the operating system, whatever the seed."""

    def generator(self, seed: int, stream: int) -> np.random.Generator:
        """Ignore everything."""
        del seed, stream
        return np.random.default_rng()


class SharedGenerator(Server):
    """Draws something per unit from the generator of the noise first: the noise depends on the batch."""

    def noise(self, rng: np.random.Generator, units: int) -> Floats:
        """Waste a draw for each unit."""
        rng.random(units)
        return super().noise(rng, units)


class Crashes(Server):
    """Cannot be run at all."""

    def run(self, batch: Batch, seed: int, stream: int = 0) -> list[Any]:
        """Fail."""
        raise RuntimeError(f"no accelerator for {len(batch)} tensors, seed {seed}, stream {stream}")


class ReleasesNan(Server):
    """Training has diverged."""

    def release(self, tensors: list[Floats]) -> list[Any]:
        """Return NaN."""
        return [tensor * np.nan for tensor in tensors]
