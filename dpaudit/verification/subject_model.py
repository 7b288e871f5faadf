"""A small DP-SGD step on examples in NumPy (two dense layers, cross entropy), and its broken twins.

As in `subject_server`, each class plants one bug; here the units are examples and gradients come from a model.
"""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.verification._step_types import Batch, Step

Floats = NDArray[np.float64]

FEATURES, HIDDEN, CLASSES = 20, 32, 5
EXAMPLES, EXPECTED = 60, 64.0


class Model:
    """The honest step: per-example gradients clipped to 1, noise multiplier 1, divided by the expected batch."""

    noise_multiplier: ClassVar[float] = 1.0
    clip_norm: ClassVar[float] = 1.0
    fixed_size: ClassVar[bool] = False

    @classmethod
    def step(cls) -> Step:
        """Return the step under test."""
        rng = np.random.default_rng(1)
        x = rng.normal(size=(EXAMPLES, FEATURES)).astype(np.float32)
        y = rng.integers(0, CLASSES, EXAMPLES)
        return Step(
            run=lambda batch, seed: cls().run(batch, seed),
            batch=(x, y),
            kind="examples",
            clip_norm=cls.clip_norm,
            fixed_size=cls.fixed_size,
            test_empty=not cls.fixed_size,
        )

    def __init__(self) -> None:
        rng = np.random.default_rng(2)
        self.first = rng.normal(0, 0.3, (FEATURES, HIDDEN))
        self.last = rng.normal(0, 0.3, (HIDDEN, CLASSES))

    def run(self, batch: Batch, seed: int) -> list[Any]:
        """Release the noised mean gradient of both layers and the bias."""
        x, y = batch[0].astype(np.float64), batch[1]
        usable = np.isfinite(x).all(axis=1)
        rows = self.clip(self.gradients(x[usable], y[usable]))
        size = FEATURES * HIDDEN + HIDDEN * CLASSES + CLASSES
        total = rows.sum(axis=0) if len(rows) else np.zeros(size)
        noise = _rng.stream(seed, "subject-noise").standard_normal(size) * self.noise_multiplier * self.clip_norm
        mean = (total + noise) / self.denominator(len(x))
        return [part.astype(np.float32) for part in np.split(mean, [FEATURES * HIDDEN, size - CLASSES])]

    def features(self, x: Floats) -> Floats:
        """Return the model's inputs: the examples, one by one, cut to a sane range."""
        return np.clip(x, -1e6, 1e6)

    def gradients(self, x: Floats, y: NDArray[Any]) -> Floats:
        """Return per-example gradients, shape (examples, parameters)."""
        inputs = self.features(x)
        hidden = np.tanh(inputs @ self.first)
        scores = hidden @ self.last
        scores -= scores.max(axis=1, keepdims=True) if len(scores) else 0
        probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        error = probabilities - np.eye(CLASSES)[y]
        back = (error @ self.last.T) * (1 - hidden**2)
        parts = [np.einsum("ni,nj->nij", inputs, back), np.einsum("ni,nj->nij", hidden, error)]
        sizes = (FEATURES * HIDDEN, HIDDEN * CLASSES)
        flat = [part.reshape(len(x), size) for part, size in zip(parts, sizes, strict=True)]
        return np.concatenate([*flat, error], axis=1)

    def clip(self, rows: Floats) -> Floats:
        """Return the rows, each of norm at most the clip norm."""
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows * np.minimum(1.0, self.clip_norm / np.maximum(norms, 1e-30)))

    def denominator(self, examples: int) -> float:
        """Return the divisor: the expected batch size."""
        del examples
        return EXPECTED


class FixedSizeModel(Model):
    """Honest, but takes batches of one size only."""

    fixed_size = True

    def run(self, batch: Batch, seed: int) -> list[Any]:
        """Refuse any other size."""
        if len(batch[0]) != EXAMPLES:
            raise ValueError(f"a batch must hold {EXAMPLES} examples")
        return super().run(batch, seed)


class BatchNormalised(Model):
    """Inputs are normalised over the batch: one example moves the gradients of all."""

    def features(self, x: Floats) -> Floats:
        """Normalise each feature over the batch."""
        inputs = super().features(x)
        return (inputs - inputs.mean(axis=0)) / (inputs.std(axis=0) + 1e-3) if len(inputs) else inputs


class BatchClipped(Model):
    """One microbatch: the mean gradient of the batch is clipped, and counted as if each was (TFP issues 46, 153)."""

    def clip(self, rows: Floats) -> Floats:
        """Clip the mean and return it for every example."""
        if not len(rows):
            return rows
        mean = super().clip(rows.mean(axis=0, keepdims=True))
        return np.repeat(mean, len(rows), axis=0)


class LastLayerUnclipped(Model):
    """Only the first layer's gradients are clipped."""

    def clip(self, rows: Floats) -> Floats:
        """Leave the last layer alone."""
        first = FEATURES * HIDDEN
        return np.concatenate([super().clip(rows[:, :first]), rows[:, first:]], axis=1)


class NoClip(Model):
    """No clipping."""

    def clip(self, rows: Floats) -> Floats:
        """Do nothing."""
        return rows


class ClipPerTensor(Model):
    """Each tensor is clipped by itself, to the whole clip norm."""

    def clip(self, rows: Floats) -> Floats:
        """Clip three parts one by one."""
        ends = [FEATURES * HIDDEN, FEATURES * HIDDEN + HIDDEN * CLASSES]
        return np.concatenate([super(ClipPerTensor, self).clip(part) for part in np.split(rows, ends, axis=1)], axis=1)


class ActualBatch(Model):
    """Divides by the number of examples that came."""

    def denominator(self, examples: int) -> float:
        """Return the realised batch size."""
        return float(max(examples, 1))


class NanComesThrough(Model):
    """Examples are not checked: one NaN ends in the release."""

    def run(self, batch: Batch, seed: int) -> list[Any]:
        """Add what was not finite to the release."""
        released = super().run(batch, seed)
        poison = np.float32(0.0 * float(batch[0].astype(np.float64).sum())) if len(batch[0]) else np.float32(0)
        return [part + poison for part in released]


class FixedSizeNoClip(FixedSizeModel):
    """Batches of one size, and no clipping."""

    def clip(self, rows: Floats) -> Floats:
        """Do nothing."""
        return rows
