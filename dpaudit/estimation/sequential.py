"""Anytime-valid tests: look after every observation, stop when refuted, and the error stays what was promised.

A pair is one outcome x in [0, 1] of an event under "in" and one outcome y under "out"; the event (or any score in
[0, 1]) is fixed before the pair is seen. Under (epsilon, delta)-DP, E[x] <= e^epsilon E[y] + delta, so the wealth of
a bet on x - e^epsilon y - delta cannot be expected to grow. By Ville's inequality it ever reaches 1/alpha with
probability at most alpha. (Waudby-Smith and Ramdas 2023 for betting; Ramdas et al. 2023 for e-processes.)
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, xlog1py, xlogy

from dpaudit import _validate
from dpaudit.errors import DataError, UsageError

_STAKES = 16
Floats = NDArray[np.float64]


def _unit(**values: ArrayLike) -> Floats:
    ((name, value),) = values.items()
    array = _validate.finite_vector(**{name: np.atleast_1d(value)})
    if np.any((array < 0) | (array > 1)):
        raise DataError(f"{name} must lie in [0, 1]; found {array.min():g} to {array.max():g}.")
    return array


@dataclass(slots=True)
class PairTest:
    """E-process of "the mechanism is (epsilon, delta)-DP", for one direction ("in" more likely than allowed).

    The wealth is the average over a fixed grid of stakes, so that nothing has to be tuned. `update` may be called as
    often as wanted, with any number of pairs.
    """

    epsilon: float
    delta: float
    pairs: int = 0
    _log_wealth: Floats = field(default_factory=lambda: np.zeros(_STAKES), repr=False)
    _largest: float = 0.0

    def __post_init__(self) -> None:
        _validate.non_negative(epsilon=self.epsilon)
        _validate.probability(delta=self.delta)
        if self.epsilon > 700:
            raise UsageError(f"epsilon must be at most 700; got {self.epsilon}.")

    def update(self, x: ArrayLike, y: ArrayLike) -> float:
        """Add pairs and return the e-value now.

        Raises: DataError for values outside [0, 1] or vectors of different length.
        """
        first, second = _unit(x=x), _unit(y=y)
        if first.size != second.size:
            raise DataError(f"pairs need as many x as y; got {first.size} and {second.size}.")
        if not first.size:
            return self.e_value
        grow = math.exp(self.epsilon)
        # Stakes up to the largest that cannot go broke, geometric: small ones for weak evidence, large for strong.
        stakes = np.geomspace(0.002, 0.999, _STAKES) / (grow + self.delta)
        paths = np.cumsum(np.log1p(np.outer(stakes, first - grow * second - self.delta)), axis=1)
        paths += self._log_wealth[:, None]
        self._log_wealth = paths[:, -1]
        self._largest = max(self._largest, float(np.max(np.logaddexp.reduce(paths, axis=0))) - math.log(_STAKES))
        self.pairs += int(first.size)
        return self.e_value

    @property
    def log_e_value(self) -> float:
        """Logarithm of the wealth now."""
        return float(np.logaddexp.reduce(self._log_wealth)) - math.log(_STAKES)

    @property
    def e_value(self) -> float:
        """Wealth now: its expectation is at most 1 when the claim holds."""
        return math.exp(min(self.log_e_value, 700.0))

    def refuted(self, error: float) -> bool:
        """Return whether the wealth has ever reached 1 / error."""
        _validate.open_unit_interval(error=error)
        return self._largest >= -math.log(error)


@dataclass(slots=True)
class ClaimTest:
    """E-process of a claim: one (epsilon, delta) point, or a whole claimed profile, both directions.

    `points[0]` is the claimed point and keeps half of the wealth; the other points of the claimed profile share the
    rest. The average of e-processes is one, so nothing is corrected. When only the profile is violated, the
    configuration that was claimed is refuted, not necessarily the claimed point: see `refuted_points`.
    """

    points: Sequence[tuple[float, float]]
    _forward: list[PairTest] = field(init=False, repr=False)
    _backward: list[PairTest] = field(init=False, repr=False)
    _largest: float = 0.0

    def __post_init__(self) -> None:
        if not self.points:
            raise UsageError("a claim needs at least one (epsilon, delta) point.")
        self._forward = [PairTest(epsilon=e, delta=d) for e, d in self.points]
        self._backward = [PairTest(epsilon=e, delta=d) for e, d in self.points]

    def update(self, x: ArrayLike, y: ArrayLike) -> float:
        """Add pairs and return the e-value of the claim now.

        The events may be chosen anew before each call, in sight of everything before it.

        Raises: DataError as PairTest.update.
        """
        for test in self._forward:
            test.update(x, y)
        for test in self._backward:
            test.update(y, x)
        self._largest = max(self._largest, self.log_e_value)
        return math.exp(min(self.log_e_value, 700.0))

    @property
    def log_e_value(self) -> float:
        """Logarithm of the mixed wealth now."""
        count = len(self.points)
        shares = [1.0] if count == 1 else [0.5] + [0.5 / (count - 1)] * (count - 1)
        terms = [
            math.log(share / 2) + test.log_e_value
            for tests in (self._forward, self._backward)
            for share, test in zip(shares, tests, strict=True)
        ]
        return float(np.logaddexp.reduce(terms))

    def refuted(self, error: float) -> bool:
        """Return whether the wealth had reached 1 / error after some call of `update`."""
        _validate.open_unit_interval(error=error)
        return self._largest >= -math.log(error)

    def refuted_points(self, error: float) -> list[tuple[float, float]]:
        """Return the points that are refuted on their own, each at its share of the error."""
        count = 2 * len(self.points)
        pairs = zip(self.points, self._forward, self._backward, strict=True)
        return [point for point, up, down in pairs if up.refuted(error / count) or down.refuted(error / count)]


def confidence_sequence(successes: int, trials: int, error: float) -> tuple[float, float]:
    """Return an interval for a proportion that holds at all sample sizes together with probability 1 - error.

    {p : B(k + 1, n - k + 1) < p^k (1 - p)^(n - k) / error}: the uniform mixture of likelihood ratios is a
    martingale (Robbins 1970; Darling and Robbins 1967).

    Raises: UsageError for impossible counts or an error outside (0, 1).
    """
    _validate.open_unit_interval(error=error)
    if not 0 <= successes <= trials:
        raise UsageError(f"successes must lie between 0 and trials; got {successes} of {trials}.")
    if trials == 0:
        return 0.0, 1.0
    k, n = successes, trials
    evidence = float(betaln(k + 1, n - k + 1)) + math.log(error)

    def outside(p: float) -> bool:
        return bool(xlogy(k, p) + xlog1py(n - k, -p) <= evidence)

    return _edge(outside, 0.0, k / n), _edge(outside, 1.0, k / n)


def _edge(outside: Callable[[float], bool], far: float, centre: float) -> float:
    """Return the last point from `far` towards the centre that is outside, or `far` when it is inside."""
    if far == centre or not outside(far):
        return far
    near = centre
    for _ in range(100):
        middle = (far + near) / 2
        far, near = (middle, near) if outside(middle) else (far, middle)
    return far


def anytime_epsilon(
    *, x_successes: int, y_successes: int, x_trials: int, y_trials: int, delta: float, error: float = 0.05
) -> float:
    """Return a lower bound on epsilon at `delta` that may be read after every observation; 0 when none.

    Confidence sequences for both proportions (half of the error each), both directions. The largest value seen so far
    is also a bound.

    Raises: UsageError for impossible counts.
    """
    x_low, x_high = confidence_sequence(x_successes, x_trials, error / 2)
    y_low, y_high = confidence_sequence(y_successes, y_trials, error / 2)
    # The event and its complement, in both directions: only rates of one event are needed for all four.
    ratios = [(x_low, y_high), (y_low, x_high), (1 - x_high, 1 - y_low), (1 - y_high, 1 - x_low)]
    logs = [math.log((top - delta) / bottom) for top, bottom in ratios if top > delta and bottom > 0]
    return max([0.0, *logs])


def spend(error: float, release: int) -> float:
    """Return the share of `error` for the release-th audit (1, 2, ...): 6 error / (pi^2 k^2), which sums to `error`.

    Raises: UsageError for an error outside (0, 1) or release < 1.
    """
    _validate.open_unit_interval(error=error)
    _validate.positive_integer(release=release)
    return 6 * error / (math.pi * release) ** 2


def combine_e_values(values: Iterable[float], *, independent: bool) -> float:
    """Return the e-value of several audits of one claim: product if independent, average whatever their dependence.

    Raises: UsageError for negative or missing values.
    """
    found = [float(v) for v in values]
    if not found or not all(v >= 0 and math.isfinite(v) for v in found):
        raise UsageError(f"e-values must be finite and at least 0, one or more; got {found!r}.")
    return math.prod(found) if independent else sum(found) / len(found)


@dataclass(slots=True)
class GuessTest:
    """E-process of "the mechanism is epsilon-DP" (delta = 0) from guesses about canaries, revealed one after another.

    Given the output and the coins already revealed, a guess is right with probability at most q = e^eps / (1 + e^eps);
    the next canary and its guess may depend on all that. Likelihood ratios of accuracies above q against q,
    averaged over a grid. With delta > 0 the conditional accuracy has no such bound: use one-run there.
    """

    epsilon: float
    guesses: int = 0
    correct: int = 0
    _largest: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 30:
            raise UsageError(f"epsilon must lie in [0, 30]; got {self.epsilon!r}.")

    def _log_at(self, correct: Floats, wrong: Floats) -> Floats:
        q = 1 / (1 + math.exp(-self.epsilon))
        rates = 1 - (1 - q) * np.geomspace(0.01, 0.95, _STAKES)
        paths = np.outer(np.log(rates / q), correct) + np.outer(np.log1p(-rates) - math.log1p(-q), wrong)
        return np.asarray(np.logaddexp.reduce(paths, axis=0) - math.log(_STAKES))

    def update(self, right: ArrayLike) -> float:
        """Add guesses in the order made (true: right) and return the e-value now."""
        outcomes = np.atleast_1d(np.asarray(right)).astype(bool)
        if outcomes.size:
            correct = self.correct + np.cumsum(outcomes)
            wrong = self.guesses - self.correct + np.cumsum(~outcomes)
            path = self._log_at(correct.astype(np.float64), wrong.astype(np.float64))
            self._largest = max(self._largest, float(path.max()))
            self.guesses += int(outcomes.size)
            self.correct = int(correct[-1])
        return self.e_value

    @property
    def e_value(self) -> float:
        """Wealth now."""
        counts = np.array([float(self.correct)]), np.array([float(self.guesses - self.correct)])
        return math.exp(min(float(self._log_at(*counts)[0]), 700.0))

    def refuted(self, error: float) -> bool:
        """Return whether the wealth has ever reached 1 / error."""
        _validate.open_unit_interval(error=error)
        return self._largest >= -math.log(error)
