"""Sums of integers under distributed noise: tensorflow-privacy's discrete Gaussian and Skellam queries for a server.

`DistributedDiscreteGaussianSumQuery` and `DistributedSkellamSumQuery` add a share of the noise to every record, and
none to the sum. So does this aggregator: contributions are quantised, every place in the cohort brings one share, and
the promise counts on the least number of shares. With fewer, nothing is released.

The queries themselves cannot run here: tensorflow-privacy 0.9.0 draws the Skellam share from the clock and the
discrete Gaussian one in floating point, from integer scales, out of TensorFlow's one generator; a replay after a kill
must give the same noise. What they check and what they add is computed here from the run's own streams; the tests hold
both against the queries.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng, _validate, events
from dpaudit.errors import UsageError
from dpaudit.federated import integer_noise
from dpaudit.federated.aggregation import Matrix, Noised, State, Vector
from dpaudit.federated.quantisation import INFLATION, LEAST_LEVELS, Quantiser, fits_field, wrapped

Kind = Literal["discrete-gaussian", "skellam"]
_LEAST_STDDEV = 100.0
"""Steps of the grid: below, noise on the sum is not near enough to a Gaussian for the checks of a run."""
_SAMPLERS = {"discrete-gaussian": integer_noise.discrete_gaussian, "skellam": integer_noise.skellam}


@runtime_checkable
class SharesNoise(Protocol):
    """An aggregator whose noise comes in shares: one for every place in a cohort that answered."""

    def with_shares(self, total: Vector, shares: int) -> Vector:
        """Return a sum that says by how many shares its noise is carried."""

    def too_few(self, total: Vector) -> str | None:
        """Return why nothing may be released, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerSum:
    """Sum of quantised contributions under `minimum` or more shares of integer noise.

    When they are `minimum`, the shares have a standard deviation of `noise_multiplier` clip norms together, or a little
    more: a share's variance is a whole number. Sums are scaled back to floats, and followed by the number of shares.
    `noise_factor` is the planted fault of demonstrations: it scales the noise that is really added. With `secure` sums
    come with their noise from the devices, through secure aggregation, and none is added here.
    """

    kind: Kind
    clip_norm: float
    noise_multiplier: float
    minimum: int
    noise_factor: float = 1.0
    secure: bool = False

    def __post_init__(self) -> None:
        _validate.positive(
            clip_norm=self.clip_norm, noise_multiplier=self.noise_multiplier, noise_factor=self.noise_factor
        )
        _validate.positive_integer(minimum=self.minimum)

    @property
    def name(self) -> str:
        """The name in the configuration."""
        return self.kind

    @property
    def noise_source(self) -> str:
        """The generator behind the noise, for the ledger."""
        if self.secure:
            return "devices: each its own share, before masking (in process: numpy Philox4x64 from the root seed)"
        how = "exact rejection" if self.kind == "discrete-gaussian" else "differences of Poisson draws"
        return f"{how} by numpy Philox4x64, keyed by SHA-256 of (root, 'noise', round, attempt, share)"

    @property
    def noise_stddev(self) -> float:
        """Promised standard deviation per coordinate of the sum, with the least number of shares."""
        return self.noise_multiplier * self.clip_norm

    def _quantiser(self, width: int) -> Quantiser:
        return Quantiser(clip_norm=self.clip_norm, width=width)

    def _promised_variance(self, width: int) -> float:
        """Return the variance of a share in squared steps that is promised; what is drawn is the next whole number."""
        return (self.noise_multiplier * self._quantiser(width).levels) ** 2 / self.minimum

    def _share_variance(self, width: int) -> int:
        return max(1, math.ceil(self._promised_variance(width) * self.noise_factor**2))

    def event(self, width: int) -> events.Event:
        """Return what a sum under the least number of shares costs; more noise than promised costs no more."""
        grid = self._quantiser(width)
        return integer_event(
            self.kind,
            shares=self.minimum,
            share_variance=self._promised_variance(width),
            l2_norm=grid.l2_norm,
            l1_norm=grid.l1_norm,
            dimension=width,
        )

    def start(self, *, width: int, root: int) -> State:
        """Return the state: the width, and the key of the coins that round contributions.

        Raises: UsageError when there is too little noise for the grid, or too much for the sampler.
        """
        levels = self._quantiser(width).levels
        if self.noise_multiplier * levels < _LEAST_STDDEV:
            raise UsageError(
                f"{self.name} needs a noise multiplier of at least {_LEAST_STDDEV / levels:.2g};"
                f" got {self.noise_multiplier:g}. Add more noise, or use aggregator = 'gaussian'."
            )
        self.share(np.random.default_rng(0), width, size=1)
        key = np.frombuffer(_rng.stream(root, "rounding").bytes(16), dtype=np.uint8).copy()
        return {"width": np.asarray(width, dtype=np.int64), "rounding_key": key}

    def clip_norm_of(self, state: State) -> float:
        """Return the fixed clip norm."""
        del state
        return self.clip_norm

    def clipped_sum(self, rows: Matrix, *, width: int, state: State) -> Vector:
        """Return the sum of the quantised rows as floats, and behind it how many rows there were."""
        grid = self._quantiser(width)
        integers = grid.quantised(rows, key=state["rounding_key"].tobytes())
        return np.append(grid.floats(integers.sum(axis=0)), float(len(rows)))

    def with_shares(self, total: Vector, shares: int) -> Vector:
        """Return the sum with the number of shares behind it."""
        return np.append(total[:-1], float(shares))

    def too_few(self, total: Vector) -> str | None:
        """Return why nothing may be released: the shares that came do not carry the promised noise."""
        shares = int(total[-1])
        if shares >= self.minimum:
            return None
        return f"{shares} shares of the noise came, of the {self.minimum} that carry what was promised"

    def share(self, rng: np.random.Generator, width: int, *, size: int | None = None) -> NDArray[np.int64]:
        """Return the share of the noise that one contribution of `width` coordinates brings, in steps."""
        return _SAMPLERS[self.kind](rng, self._share_variance(width), width if size is None else size)

    def noised(self, total: Vector, *, state: State, root: int, number: int, attempt: int) -> Noised:
        """Add a share of noise for every place, in the integers of the field; none where devices added theirs.

        Raises: UsageError for fewer shares than the minimum, and for so many that their sum could leave the field.
        """
        width, shares = int(state["width"]), int(total[-1])
        if (short := self.too_few(total)) is not None:
            raise UsageError(f"round {number} must not be released: {short}.")
        grid = self._quantiser(width)
        stddev = math.sqrt(shares * math.ceil(self._promised_variance(width)))
        if not fits_field(shares, l2_norm=grid.l2_norm, noise_stddev=stddev):
            raise UsageError(f"a sum of {shares} contributions does not fit 32 bits. Use smaller cohorts.")
        summed = grid.steps(total[:-1])
        for share in range(0 if self.secure else shares):
            summed += self.share(_rng.stream(root, "noise", number, attempt, share), width)
        return Noised(
            vector=grid.floats(wrapped(summed)),
            event=self.event(width),
            noise_stddev=self.noise_stddev,
            state=state,
            facts={"shares": shares, "noise_stddev_expected": stddev * grid.granularity},
        )


def integer_sum(
    name: str,
    *,
    clip_norm: float,
    noise_multiplier: float,
    noise_factor: float,
    expected: float,
    minimum: int | None,
    secure: bool = False,
) -> IntegerSum:
    """Return the aggregator of a configured name.

    Raises: UsageError without a minimum, or with one that no cohort reaches.
    """
    if minimum is None or minimum > math.ceil(expected):
        raise UsageError(
            f"aggregator = {name!r} needs training.minimum_contributions, how many contributions carry the whole "
            f"noise: at least 1 and at most the {expected:g} that are expected in a round; got {minimum}."
        )
    return IntegerSum(
        kind="skellam" if name == "skellam" else "discrete-gaussian",
        clip_norm=clip_norm,
        noise_multiplier=noise_multiplier,
        minimum=minimum,
        noise_factor=noise_factor,
        secure=secure,
    )


def integer_event(
    kind: str, *, shares: int, share_variance: float, l2_norm: float, l1_norm: float, dimension: int
) -> events.Event:
    """Return the event of one sum; all sizes in steps of the grid."""
    if kind == "skellam":
        return events.Skellam(variance=shares * share_variance, l2_norm=l2_norm, l1_norm=l1_norm)
    return events.DistributedDiscreteGaussian(
        shares=shares, share_variance=share_variance, l2_norm=l2_norm, l1_norm=l1_norm, dimension=dimension
    )


def planned_event(kind: str, noise_multiplier: float, *, minimum: int) -> events.Event:
    """Return the event of a sum before the width of the model is known: never less than what any width costs.

    The coarsest grid, with as many coordinates as it serves. On a finer one the noise has more steps, and what the
    bounds add to that of a Gaussian falls with the steps.
    """
    width = LEAST_LEVELS**2 // 256
    l2_norm = LEAST_LEVELS * INFLATION
    return integer_event(
        kind,
        shares=minimum,
        share_variance=(noise_multiplier * LEAST_LEVELS) ** 2 / minimum,
        l2_norm=l2_norm,
        l1_norm=math.sqrt(width) * l2_norm,
        dimension=width,
    )
