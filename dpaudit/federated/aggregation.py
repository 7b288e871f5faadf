"""Server aggregators: one protocol, and ours (clip, sum, Gaussian noise on the sum)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng, _validate
from dpaudit.config import DISTRIBUTED_NOISE, TrainingSection
from dpaudit.config import Aggregator as AggregatorName
from dpaudit.events import Event, Gaussian
from dpaudit.federated.clipping import clipped_sum

Matrix = NDArray[np.float32]
Vector = NDArray[np.float64]
State = Mapping[str, NDArray[Any]]
"""What an aggregator remembers from round to round, as arrays that a checkpoint can hold."""
NO_STATE: State = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Noised:
    """A noised sum and the event of releasing it, sampling not included.

    `noise_stddev` is what the aggregator promises per coordinate of this sum (of a node, for trees; None: it does not
    say), `state` what it remembers if this release is the one that is used. `covered_by` is the earlier round whose
    event pays for this one too, whose own event is then a NoOp; `facts` go into the ledger's line.
    """

    vector: Vector
    event: Event
    noise_stddev: float | None
    state: State
    covered_by: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Aggregator(Protocol):
    """Clips and sums contributions, then adds noise; the only code that sees single contributions.

    It keeps nothing itself: the server holds the state, hands it in, and adopts that of the release it uses. A round
    that is replayed after a kill starts from the state that it started from before.
    """

    @property
    def name(self) -> str:
        """The name in the configuration."""

    @property
    def noise_source(self) -> str:
        """The generator behind the noise, for the ledger."""

    @property
    def noise_stddev(self) -> float | None:
        """Standard deviation of the noise in the first round, per coordinate of the sum; None: it does not say."""

    def start(self, *, width: int, root: int) -> State:
        """Return the state before the first round of a run whose sums have `width` coordinates."""

    def clip_norm_of(self, state: State) -> float:
        """Return what contributions are clipped to in the coming round."""

    def clipped_sum(self, rows: Matrix, *, width: int, state: State) -> Vector:
        """Return the sum of the rows (n, at most width), each bounded to the clip norm, and filled up with zeros.

        What else the aggregator counts (how many rows were not clipped, say) follows after the `width` coordinates.
        """

    def noised(self, total: Vector, *, state: State, root: int, number: int, attempt: int) -> Noised:
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

    def start(self, *, width: int, root: int) -> State:
        """Return an empty state: every round is as the first."""
        del width, root
        return NO_STATE

    def clip_norm_of(self, state: State) -> float:
        """Return the fixed clip norm."""
        del state
        return self.clip_norm

    def clipped_sum(self, rows: Matrix, *, width: int, state: State = NO_STATE) -> Vector:
        """Return the sum of rows clipped to the clip norm."""
        del state
        total = np.zeros(width)
        if len(rows):
            total[: rows.shape[1]] = clipped_sum(rows, clip_norm=self.clip_norm)
        return total

    def noised(self, total: Vector, *, state: State = NO_STATE, root: int, number: int, attempt: int) -> Noised:
        """Add one vector of noise over all coordinates, those of the canaries included."""
        noise = _rng.stream(root, "noise", number, attempt).standard_normal(total.size)
        return Noised(
            vector=total + noise * (self.noise_stddev * self.noise_factor),
            event=Gaussian(noise_multiplier=self.noise_multiplier),
            noise_stddev=self.noise_stddev,
            state=state,
        )


def make_aggregator(
    name: AggregatorName,
    *,
    clip_norm: float,
    noise_multiplier: float,
    noise_factor: float = 1.0,
    expected: float = 1.0,
    minimum: int | None = None,
    secure: bool = False,
) -> Aggregator:
    """Return the configured aggregator.

    Args:
        name: `gaussian`, `tfp-gaussian`, `tfp-adaptive-clip`, `discrete-gaussian`, `skellam`, or
            `module:function` that returns a DPQuery.
        clip_norm: what contributions are clipped to; at first, where the clip adapts.
        noise_multiplier: of the whole round: what is calibrated.
        noise_factor: planted fault of demonstrations.
        expected: contributions expected in a round.
        minimum: least number of shares that carry the noise, for distributed noise.
        secure: whether sums come from secure aggregation, with their noise.

    Raises: MissingDependency when tensorflow-privacy is needed and not installed; UsageError when a function of the
        user's fails, or its query is not fit for a server.
    """
    if name == "gaussian":
        return GaussianSum(clip_norm=clip_norm, noise_multiplier=noise_multiplier, noise_factor=noise_factor)
    if name in DISTRIBUTED_NOISE:
        from dpaudit.federated.distributed_noise import integer_sum

        return integer_sum(
            name, clip_norm=clip_norm, noise_multiplier=noise_multiplier, noise_factor=noise_factor,
            expected=expected, minimum=minimum, secure=secure,
        )  # fmt: skip
    from dpaudit.federated.tfp import QueryRequest
    from dpaudit.federated.tfp_queries import query_from

    request = QueryRequest(clip_norm=clip_norm, noise_multiplier=noise_multiplier, expected=expected)
    return query_from(name, request, noise_factor=noise_factor)


def aggregator_of(
    training: TrainingSection, *, noise_multiplier: float, noise_factor: float = 1.0, expected: float = 1.0
) -> Aggregator:
    """Return the aggregator of a configured training: `make_aggregator`, or a tree for dp-ftrl; errors as there."""
    if training.local_steps:
        from dpaudit.federated.local_task import DeviceGaussian

        return DeviceGaussian(
            clip_norm=training.clip_norm, noise_multiplier=noise_multiplier, noise_factor=noise_factor
        )
    if training.algorithm != "dp-ftrl":
        return make_aggregator(
            training.aggregator,
            clip_norm=training.clip_norm,
            noise_multiplier=noise_multiplier,
            noise_factor=noise_factor,
            expected=expected,
            minimum=training.minimum_contributions,
            secure=training.secure_aggregation,
        )
    if training.aggregator == "gaussian":
        from dpaudit.federated.trees import TreeSum

        return TreeSum(
            clip_norm=training.clip_norm,
            noise_multiplier=noise_multiplier,
            period=training.batches_per_pass,
            rounds=training.rounds,
            noise_factor=noise_factor,
        )
    from dpaudit.federated.tfp import QueryRequest
    from dpaudit.federated.tfp_tree import tree_aggregator

    request = QueryRequest(clip_norm=training.clip_norm, noise_multiplier=noise_multiplier, expected=expected)
    return tree_aggregator(request, period=training.batches_per_pass, rounds=training.rounds, noise_factor=noise_factor)
