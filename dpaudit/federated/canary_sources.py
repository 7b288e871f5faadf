"""What canaries add to a round, and what is seen of them: directions of the model, single coordinates, examples.

What is seen of a canary is the inner product of the noised sum with a unit direction of its own, in clip norms; its
*size* is how much it would add along it after the clip, also in clip norms. Neither depends on a coin.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.federated.clipping import Block, ClippedSum, Rejected, clip_factors
from dpaudit.federated.sampling import Cohort

Indices = NDArray[np.int64]
Matrix = NDArray[np.float32]
Vector = NDArray[np.float64]
Contribution = Block | ClippedSum | Rejected
_BLOCK_BYTES = 32 * 2**20
_KEPT_BYTES = 256 * 2**20
_OUTSTANDING = 3.0
"""Standard deviations of the noise beyond which a parameter's sum is taken for what real units added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A round as canaries meet it: its number, the weights (parameters,) at its start, and its clip norm."""

    number: int
    weights: Vector
    clip_norm: float


class Source(Protocol):
    """The canaries 0..m-1 of one family as contributions."""

    def contributions(self, wanted: Indices, at: Moment) -> Iterator[Contribution]:
        """Yield what the canaries at `wanted` send, before the server's screen and clip; units are their numbers."""

    def observe(self, released: Vector, at: Moment) -> tuple[Vector, Vector]:
        """Return (seen, sizes), (m,) each, of the model's part (parameters,) of a noised sum.

        A canary without a direction in this round (a gradient that is zero or not finite) has both 0.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinates:
    """One coordinate of the model for each canary: `places` (m,)."""

    places: Indices
    parameters: int
    norm_factor: float

    def contributions(self, wanted: Indices, at: Moment) -> Iterator[Contribution]:
        """Yield rows of length `norm_factor` clip norms."""
        for units in _blocks(wanted, self.parameters):
            rows = np.zeros((units.size, self.parameters), np.float32)
            rows[np.arange(units.size), self.places[units]] = self.norm_factor * at.clip_norm
            yield Block(units=units, rows=rows)

    def observe(self, released: Vector, at: Moment) -> tuple[Vector, Vector]:
        """Read the coordinates."""
        return released[self.places] / at.clip_norm, np.full(self.places.size, min(1.0, self.norm_factor))


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomDirections:
    """A random unit direction of the model for each canary, drawn when it is needed and kept if memory allows."""

    count: int
    parameters: int
    norm_factor: float
    root: int
    name: str
    _kept: list[Matrix] = field(default_factory=list, compare=False, repr=False)

    def contributions(self, wanted: Indices, at: Moment) -> Iterator[Contribution]:
        """Yield rows of length `norm_factor` clip norms."""
        for units in _blocks(wanted, self.parameters):
            yield Block(units=units, rows=self._directions(units) * np.float32(self.norm_factor * at.clip_norm))

    def observe(self, released: Vector, at: Moment) -> tuple[Vector, Vector]:
        """Return the inner products."""
        everyone = np.arange(self.count)
        seen = np.zeros(self.count)
        for units in _blocks(everyone, self.parameters):
            seen[units] = np.einsum("ij,j->i", self._directions(units), released)  # no BLAS: the same bits on a resume
        return seen / at.clip_norm, np.full(self.count, min(1.0, self.norm_factor))

    def _directions(self, units: Indices) -> Matrix:
        if 4 * self.count * self.parameters > _KEPT_BYTES:
            return self._drawn(units)
        if not self._kept:
            self._kept.append(self._drawn(np.arange(self.count)))
        return self._kept[0][units]

    def _drawn(self, units: Indices) -> Matrix:
        rows = np.zeros((units.size, self.parameters), np.float32)
        for row, unit in zip(rows, units.tolist(), strict=True):
            drawn = _rng.stream(self.root, f"canary-direction/{self.name}", unit).standard_normal(self.parameters)
            row[:] = drawn / np.linalg.norm(drawn)
        return rows


class Engine(Protocol):
    """What of `dpaudit.federated.engine.Engine` is needed."""

    def run_cohort(self, weights: Vector, cohort: Cohort) -> Iterator[Contribution]:
        """Yield the contributions of `cohort.units`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Examples (or clients that hold them) that are trained on: `sender` runs them as the run's engine runs others.

    `observer` gives single rows, where `sender` may clip and sum by itself. `noise_multiplier` is the promised one.
    """

    count: int
    sender: Engine
    observer: Engine
    noise_multiplier: float

    def contributions(self, wanted: Indices, at: Moment) -> Iterator[Contribution]:
        """Yield what the engine makes of the canaries' examples."""
        if wanted.size:
            yield from self.sender.run_cohort(at.weights, _cohort(at.number, wanted))

    def observe(self, released: Vector, at: Moment) -> tuple[Vector, Vector]:
        """Run the examples of all canaries, in or out, for the directions of their gradients or updates.

        What others add to a parameter, too (the bias of the last layer, say), tells little of any one canary. So the
        direction is the matched filter for a variance per parameter: that of the noise, what the family may add, and
        what stands out of the noise in the released sum itself, which real units must have added.
        """
        seen, sizes = np.zeros(self.count), np.zeros(self.count)
        kept = list(self._clipped(at)) if 8 * self.count * released.size <= _KEPT_BYTES else None
        stands_out = np.square(released / at.clip_norm) - np.square(_OUTSTANDING * self.noise_multiplier)
        spread = self.noise_multiplier**2 + np.maximum(stands_out, 0.0)
        for _, rows in self._clipped(at) if kept is None else kept:
            spread += np.einsum("ij,ij->j", rows, rows)
        for units, rows in self._clipped(at) if kept is None else kept:  # along rows / spread, to unit length
            norms = np.sqrt(np.einsum("ij,ij,j->i", rows, rows, spread**-2.0))
            fit = norms > 0
            seen[units[fit]] = np.einsum("ij,j->i", rows[fit], released / spread) / norms[fit] / at.clip_norm
            sizes[units[fit]] = np.einsum("ij,ij,j->i", rows[fit], rows[fit], 1 / spread) / norms[fit]
        return seen, sizes

    def _clipped(self, at: Moment) -> Iterator[tuple[Indices, Vector]]:
        """Yield units and what each would add to the sum, in clip norms; 0 for what is not finite."""
        for block in self.observer.run_cohort(at.weights, _cohort(at.number, np.arange(self.count))):
            if not isinstance(block, Block):
                raise TypeError("the observer of data canaries must be an engine that yields rows")
            rows = np.asarray(block.rows, dtype=np.float64)
            rows[~np.isfinite(rows).all(axis=1)] = 0.0
            yield block.units, rows * (clip_factors(rows, clip_norm=at.clip_norm) / at.clip_norm)[:, None]


def _cohort(number: int, units: Indices) -> Cohort:
    nobody = np.zeros(0, np.bool_)
    return Cohort(number=number, sampled=nobody, answered=nobody, units=units)


def _blocks(units: Indices, parameters: int) -> Iterator[Indices]:
    size = max(1, _BLOCK_BYTES // (4 * parameters))
    for start in range(0, units.size, size):
        yield units[start : start + size]
