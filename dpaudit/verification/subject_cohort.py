"""Broken twins of `subject_server.Server`: how many came, poisoned contributions, and steps that cannot be tested."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.verification._step_types import Batch
from dpaudit.verification.subject_server import UNITS, AdaptiveServer, Server, norms

Floats = NDArray[np.float64]


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


class MeanOfThoseWhoCame(Server):
    """The mean is over those who came, its noise for those expected: with few of them there is too little (Flower)."""

    def total(self, rows: Floats, weights: Floats | None) -> Floats:
        """Scale the sum as if all had come."""
        return super().total(rows, weights) * UNITS / max(len(rows), 1)


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
        if (norms(rows) == 0).any():
            raise ZeroDivisionError("float division by zero")
        return super().clip(rows)


class AlwaysUnitNorm(Server):
    """Honest in privacy: every row is scaled to the clip norm, small ones up (it passes)."""

    def clip(self, rows: Floats) -> Floats:
        """Normalise."""
        return rows * self.clip_norm / np.maximum(norms(rows), 1e-30)


class AdaptiveInverted(AdaptiveServer):
    """Adaptive clipping with the sign turned around: it shrinks when everything is clipped (Flower 1.41)."""

    def next_clip(self, rows: Floats) -> float:
        """Count the clipped ones instead."""
        above = float(np.mean(norms(rows) > self.clip_norm))
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
