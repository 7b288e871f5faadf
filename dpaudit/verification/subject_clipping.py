"""Broken twins of `subject_server.Server`: clipping, weights, and what is left over between steps."""

import numpy as np
from numpy.typing import NDArray

from dpaudit.verification.subject_server import SHAPES, Server, WeightedServer, norms

Floats = NDArray[np.float64]


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
        return rows * np.minimum(1.0, self.clip_norm / np.maximum(norms(rows[:, :first]), 1e-30))


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
