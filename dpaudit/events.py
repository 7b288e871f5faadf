"""Privacy events: what a mechanism did, in our own vocabulary, so that a ledger can be read without dp-accounting.

Laws (after the laws of dp-accounting's `dp_event.py`): an event states everything an accountant needs; meanings
never change, fields are only added with a default; an event that is not understood is refused, never skipped.
`noise_multiplier` is the standard deviation (Gaussian) or scale (Laplace) of the noise divided by the L2 (L1)
norm that one unit can contribute.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

from dpaudit import _validate
from dpaudit.errors import DataError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class NoOp:
    """Nothing that depends on the data happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NonPrivate:
    """Data left without protection; epsilon is infinite."""

    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaussian:
    """Gaussian mechanism on a sum in which one unit contributes a vector of L2 norm at most 1."""

    noise_multiplier: float

    def __post_init__(self) -> None:
        _validate.non_negative(noise_multiplier=self.noise_multiplier)


@dataclass(frozen=True, slots=True, kw_only=True)
class Laplace:
    """Laplace mechanism on a sum in which one unit contributes a vector of L1 norm at most 1."""

    noise_multiplier: float

    def __post_init__(self) -> None:
        _validate.non_negative(noise_multiplier=self.noise_multiplier)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedDiscreteGaussian:
    """Sum of integer vectors under the noise of `shares` independent discrete Gaussians on every coordinate.

    Each share has the parameter `share_variance` (sigma^2 of N_Z(0, sigma^2)). One unit contributes an integer vector
    of `dimension` coordinates, of L2 norm at most `l2_norm` and L1 norm at most `l1_norm`. How many shares there are
    does not depend on the data: a unit that is removed leaves its place empty, which still brings its share.
    """

    shares: int
    share_variance: float
    l2_norm: float
    l1_norm: float
    dimension: int

    def __post_init__(self) -> None:
        _validate.positive_integer(shares=self.shares, dimension=self.dimension)
        _validate.non_negative(share_variance=self.share_variance)
        _validate.positive(l2_norm=self.l2_norm, l1_norm=self.l1_norm)

    @property
    def noise_multiplier(self) -> float:
        """Root of the sum of the shares' parameters over the L2 norm."""
        return math.sqrt(self.shares * self.share_variance) / self.l2_norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Skellam:
    """Sum of integer vectors under Skellam noise of the given `variance` on every coordinate, in however many shares.

    One unit contributes an integer vector of L2 norm at most `l2_norm` and L1 norm at most `l1_norm`; a unit that is
    removed leaves its place empty, which still brings its share.
    """

    variance: float
    l2_norm: float
    l1_norm: float

    def __post_init__(self) -> None:
        _validate.non_negative(variance=self.variance)
        _validate.positive(l2_norm=self.l2_norm, l1_norm=self.l1_norm)

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise over the L2 norm."""
        return math.sqrt(self.variance) / self.l2_norm


@dataclass(frozen=True, slots=True, kw_only=True)
class PoissonSampled:
    """`event` on a sample in which each unit is present independently with probability `sampling_rate`, in secret."""

    sampling_rate: float
    event: "Event"

    def __post_init__(self) -> None:
        _validate.probability(sampling_rate=self.sampling_rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class PubliclySampled:
    """`event` happens to a unit with probability `sampling_rate`, and everybody may know when.

    A client that takes part in a round with all its examples: whoever knows the other examples of that client
    can tell the rounds, so there is no amplification, only fewer rounds (a mixture, not a sub-sampling).
    """

    sampling_rate: float
    event: "Event"

    def __post_init__(self) -> None:
        _validate.probability(sampling_rate=self.sampling_rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncatedPoissonGaussian:
    """Poisson-sampled Gaussian whose batch is cut at random to `max_batch_size` (arXiv:2508.15089)."""

    dataset_size: int
    sampling_rate: float
    max_batch_size: int
    noise_multiplier: float

    def __post_init__(self) -> None:
        _validate.positive_integer(dataset_size=self.dataset_size, max_batch_size=self.max_batch_size)
        _validate.probability(sampling_rate=self.sampling_rate)
        _validate.non_negative(noise_multiplier=self.noise_multiplier)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledWithoutReplacement:
    """`event` on `sample_size` units drawn without replacement from `population`."""

    population: int
    sample_size: int
    event: "Event"

    def __post_init__(self) -> None:
        _validate.positive_integer(population=self.population, sample_size=self.sample_size)
        if self.sample_size > self.population:
            raise UsageError(
                f"sample_size must be at most population; got {self.sample_size} of {self.population}. "
                "Sampling with replacement has no event here."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffledBatches:
    """One pass over shuffled fixed batches; each unit is in exactly one batch, `event` is what a batch runs."""

    event: "Event"
    batches: int

    def __post_init__(self) -> None:
        _validate.positive_integer(batches=self.batches)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeAggregation:
    """Tree aggregation (DP-FTRL) with restarts: one entry of `steps` per tree, a unit takes part once per tree."""

    noise_multiplier: float
    steps: tuple[int, ...]

    def __post_init__(self) -> None:
        _validate.non_negative(noise_multiplier=self.noise_multiplier)
        for step in self.steps:
            _validate.positive_integer(steps=step)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureOfGaussians:
    """Gaussian noise on a sum in which the unit's contribution has L2 norm sensitivities[i] with probabilities[i].

    Which of them it was is secret. This is what a group of units does to a Poisson sample (arXiv:2401.10294).
    """

    noise_multiplier: float
    sensitivities: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        _validate.non_negative(noise_multiplier=self.noise_multiplier)
        if len(self.sensitivities) != len(self.probabilities) or not self.sensitivities:
            raise UsageError("sensitivities and probabilities must have the same length, at least 1.")
        for sensitivity, probability in zip(self.sensitivities, self.probabilities, strict=True):
            _validate.non_negative(sensitivities=sensitivity)
            _validate.probability(probabilities=probability)
        if abs(math.fsum(self.probabilities) - 1) > 1e-9:
            raise UsageError(f"probabilities must sum to 1; got {math.fsum(self.probabilities)!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroConcentratedDp:
    """A black-box mechanism with Renyi divergence at most xi + rho * order at every order (arXiv:1605.02065)."""

    rho: float
    xi: float = 0.0

    def __post_init__(self) -> None:
        _validate.non_negative(rho=self.rho, xi=self.xi)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproximateDp:
    """A black-box mechanism that is (epsilon, delta)-differentially private."""

    epsilon: float
    delta: float = 0.0

    def __post_init__(self) -> None:
        _validate.non_negative(epsilon=self.epsilon)
        _validate.probability(delta=self.delta)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatAndSelect:
    """Best of a random number of runs of `event` (Papernot and Steinke 2022): truncated negative binomial.

    `shape` 1 is the geometric, 0 the logarithmic, infinity the Poisson distribution; `mean` is of the number of runs.
    """

    event: "Event"
    mean: float
    shape: float

    def __post_init__(self) -> None:
        _validate.positive(mean=self.mean)
        if not self.shape >= 0 or self.mean < 1:
            raise UsageError(f"shape must be at least 0 and mean at least 1; got {self.shape!r} and {self.mean!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfComposed:
    """`event` repeated `count` times, adaptively."""

    event: "Event"
    count: int

    def __post_init__(self) -> None:
        _validate.non_negative(count=self.count)
        if isinstance(self.count, bool) or int(self.count) != self.count:
            raise UsageError(f"count must be a whole number; got {self.count!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """Several events, one after the other, adaptively."""

    events: "tuple[Event, ...]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported:
    """An event from elsewhere that has no counterpart here; every accountant refuses it."""

    description: str


Event = (
    NoOp | NonPrivate | Gaussian | Laplace | PoissonSampled | PubliclySampled | TruncatedPoissonGaussian
    | SampledWithoutReplacement | ShuffledBatches | TreeAggregation | ApproximateDp | RepeatAndSelect
    | SelfComposed | Composed | Unsupported | MixtureOfGaussians | ZeroConcentratedDp
    | DistributedDiscreteGaussian | Skellam
)  # fmt: skip

_TUPLES = frozenset({"steps", "sensitivities", "probabilities"})
_WHOLE = frozenset(
    {"count", "batches", "dataset_size", "max_batch_size", "population", "sample_size", "shares", "dimension"}
)
KINDS: dict[str, type] = {kind.__name__: kind for kind in get_args(Event)}


def to_json(event: Event) -> dict[str, Any]:
    """Return the wire form: the fields of the event and its kind."""
    body: dict[str, Any] = {"kind": type(event).__name__}
    for field in fields(event):
        value = getattr(event, field.name)
        if field.name == "event":
            value = to_json(value)
        elif field.name == "events":
            value = [to_json(item) for item in value]
        elif value == math.inf:
            value = "infinity"  # the Poisson shape of RepeatAndSelect: JSON has no number for it
        body[field.name] = value
    return body


def _whole(value: Any) -> Any:
    """Turn 5.0 into 5, as another JSON writer may have written a count; leave anything else to be refused."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def from_json(body: Mapping[str, Any]) -> Event:
    """Build an event from its wire form; raise DataError for an unknown kind, field or value."""
    kind = body.get("kind") if isinstance(body, Mapping) else body
    if not isinstance(body, Mapping) or not isinstance(kind, str) or kind not in KINDS:
        raise DataError(f"unknown privacy event {kind!r}; known: {', '.join(KINDS)}.")
    arguments = {key: value for key, value in body.items() if key != "kind"}
    try:
        if "event" in arguments:
            arguments["event"] = from_json(arguments["event"])
        if "events" in arguments:
            arguments["events"] = tuple(from_json(item) for item in arguments["events"])
        for name in _TUPLES & arguments.keys():
            arguments[name] = tuple(map(_whole, arguments[name]) if name == "steps" else arguments[name])
        for name in _WHOLE & arguments.keys():
            arguments[name] = _whole(arguments[name])
        if arguments.get("shape") == "infinity":
            arguments["shape"] = math.inf
        event: Event = KINDS[kind](**arguments)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"privacy event {kind} has wrong fields: {error}") from error
    return event
