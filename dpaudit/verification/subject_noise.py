"""Broken twins of `subject_server.Server`: noise that is too small, reused, missing or of another shape."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.verification._step_types import Batch
from dpaudit.verification.subject_server import EXPECTED, SHAPES, Server, flat, split

Floats = NDArray[np.float64]


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
        parts = split(super().noise(rng, units))
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
        signal = flat(batch).sum(axis=0)
        parts = super().run(batch, seed, stream)
        return [part * (keep != 0) for part, keep in zip(parts, split(signal), strict=True)]


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
