"""Server aggregators: one protocol, and ours (clip, sum, Gaussian noise on the sum)."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng, _validate
from dpaudit.config import Aggregator as AggregatorName
from dpaudit.events import Event, Gaussian
from dpaudit.federated.clipping import clipped_sum

Matrix = NDArray[np.float32]
Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Noised:
    """A noised sum and the event of releasing it, sampling not included."""

    vector: Vector
    event: Event


class Aggregator(Protocol):
    """Clips and sums contributions, then adds noise; the only code that sees single contributions."""

    @property
    def name(self) -> str:
        """The name in the configuration."""

    @property
    def noise_source(self) -> str:
        """The generator behind the noise, for the ledger."""

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise that this aggregator promises, per coordinate of the sum."""

    def clipped_sum(self, rows: Matrix) -> Vector:
        """Return the sum of the rows (n, width), each bounded to the clip norm."""

    def noised(self, total: Vector, *, root: int, number: int, attempt: int) -> Noised:
        """Add the noise of (round, attempt) to a sum; the same arguments give the same noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianSum:
    """Gaussian noise of standard deviation `noise_multiplier * clip_norm` on the sum, one draw per round.

    `noise_factor` is the planted fault of demonstrations: it scales the noise that is really added, and nothing else.
    """

    clip_norm: float
    noise_multiplier: float
    noise_factor: float = 1.0

    def __post_init__(self) -> None:
        _validate.positive(clip_norm=self.clip_norm, noise_factor=self.noise_factor)
        _validate.non_negative(noise_multiplier=self.noise_multiplier)

    @property
    def name(self) -> str:
        """The name in the configuration."""
        return "gaussian"

    @property
    def noise_source(self) -> str:
        """The generator behind the noise, for the ledger."""
        return "numpy Philox4x64, keyed by SHA-256 of (root, 'noise', round, attempt)"

    @property
    def noise_stddev(self) -> float:
        """Promised standard deviation per coordinate of the sum."""
        return self.noise_multiplier * self.clip_norm

    def clipped_sum(self, rows: Matrix) -> Vector:
        """Return the sum of rows clipped to the clip norm."""
        return clipped_sum(rows, clip_norm=self.clip_norm)

    def noised(self, total: Vector, *, root: int, number: int, attempt: int) -> Noised:
        """Add one vector of noise over all coordinates, those of the canaries included."""
        noise = _rng.stream(root, "noise", number, attempt).standard_normal(total.size)
        vector = total + noise * (self.noise_stddev * self.noise_factor)
        return Noised(vector=vector, event=Gaussian(noise_multiplier=self.noise_multiplier))


def make_aggregator(
    name: AggregatorName, *, clip_norm: float, noise_multiplier: float, noise_factor: float = 1.0
) -> Aggregator:
    """Return the configured aggregator.

    Raises: MissingDependency when `tfp-gaussian` is asked for and tensorflow-privacy is not installed.
    """
    if name == "gaussian":
        return GaussianSum(clip_norm=clip_norm, noise_multiplier=noise_multiplier, noise_factor=noise_factor)
    from dpaudit.federated.tfp import gaussian_sum_query

    return gaussian_sum_query(clip_norm=clip_norm, noise_multiplier=noise_multiplier, noise_factor=noise_factor)
