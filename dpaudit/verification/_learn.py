"""Learning events that tell two distributions apart, from samples that are not used again.

A scorer maps samples to numbers (`_scorers`); an event is "score above a threshold".
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import DataError
from dpaudit.verification._scorers import Floats, Scorer, fitted_scorers, plain_scorers

_THRESHOLDS = 40
STAKES = np.geomspace(0.002, 0.95, 24)
"""Bets to choose from, as shares of the largest that cannot go broke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The set of outputs whose score is above a threshold; `p` and `q` are its rates as seen in learning.

    `stake` is the best bet at those rates, as a share of the largest that cannot go broke; `growth` what it promises
    per pair of outputs.
    """

    scorer: Scorer
    threshold: float
    p: float
    q: float
    stake: float
    growth: float

    def __call__(self, samples: Floats) -> NDArray[np.bool_]:
        """Return which samples lie in the event."""
        return np.asarray(self.scorer.score(samples) > self.threshold)

    def __str__(self) -> str:
        return f"{self.scorer.name} > {self.threshold:.6g}"


def as_samples(values: Any, n: int) -> Floats:
    """Return outputs as a float64 matrix (n, k); NaN becomes a column of its own.

    Raises: DataError when there are not n outputs, or they cannot be compared.
    """
    array = np.asarray(values)
    if array.ndim < 1 or len(array) != n:
        raise DataError(f"the mechanism must return {n} samples; got shape {array.shape}.")
    if array.dtype.kind not in "fiub":
        raise DataError(f"the mechanism must return numbers (encode categories as integers); got {array.dtype}.")
    matrix = array.reshape(n, -1).astype(np.float64)
    missing = np.isnan(matrix)
    return np.concatenate([np.where(missing, 0.0, matrix), missing.any(axis=1, keepdims=True)], axis=1)


def candidates(x: Floats, y: Floats, *, seed: int, float_bits: bool) -> "Candidates":
    """Return the events worth trying, with their rates, from samples of both sides.

    What is fitted to samples is fitted to one half and counted on the other, or it would promise too much.
    """
    plain = plain_scorers(np.concatenate([x, y]), float_bits=float_bits)
    half = len(x) // 2
    fitted = fitted_scorers(x[half:], y[half:], seed=seed, float_bits=float_bits)
    return Candidates.of([(plain, x, y), (fitted, x[:half], y[:half])])


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Every (scorer, threshold) with its rates on both sides and how many samples they rest on; see `best`."""

    scorers: Sequence[Scorer]
    which: NDArray[np.int64]
    thresholds: Floats
    p: Floats
    q: Floats
    n: NDArray[np.int64]

    @classmethod
    def of(cls, groups: Sequence[tuple[Sequence[Scorer], Floats, Floats]]) -> "Candidates":
        """Count, for each group of scorers, the samples above thresholds at quantiles of both sides."""
        scorers: list[Scorer] = []
        columns = []
        for group, x, y in groups:
            for scorer in group:
                high, low = np.sort(scorer.score(x)), np.sort(scorer.score(y))
                points = _thresholds(np.unique(np.concatenate([high, low])))
                p = (len(high) - np.searchsorted(high, points, "right")) / len(high)
                q = (len(low) - np.searchsorted(low, points, "right")) / len(low)
                columns.append((np.full(len(points), len(scorers)), points, p, q, np.full(len(points), len(x))))
                scorers.append(scorer)
        which, thresholds, p, q, n = (np.concatenate(column) for column in zip(*columns, strict=True))
        return cls(scorers=scorers, which=which, thresholds=thresholds, p=p, q=q, n=n)

    def best(self, epsilon: float, delta: float, *, reverse: bool) -> Event | None:
        """Return the event with the fastest expected growth of a bet on P(S) > e^epsilon Q(S) + delta.

        Rates are moved against the bet by one count and half a standard error, so that small samples do not choose
        by luck. None when both sides always gave the same output.
        """
        if not len(self.thresholds):
            return None
        p, q, p_safe, q_safe = self._rates(0.5, reverse=reverse)
        growth = _growth(p_safe, q_safe, epsilon, delta)
        stake, at = np.unravel_index(int(np.argmax(growth)), growth.shape)
        promised = float(growth[stake, at])
        if promised <= 0:  # nothing promising: the event that comes nearest
            at = np.argmax(p - math.exp(epsilon) * q - delta)
        best = float(STAKES[stake]) if promised > 0 else 0.0
        return self._event(int(at), p, q, stake=best, growth=max(0.0, promised))

    def best_for(self, target: Callable[[Floats, Floats], Floats], *, reverse: bool) -> tuple[float, Event] | None:
        """Return the largest value of a function of safe rates (p, q), and its event; None when there is none."""
        if not len(self.thresholds):
            return None
        p, q, p_safe, q_safe = self._rates(2.0, reverse=reverse)
        values = target(p_safe, q_safe)
        at = int(np.argmax(values))
        return float(values[at]), self._event(at, p, q, stake=0.0, growth=0.0)

    def _rates(self, errors: float, *, reverse: bool) -> tuple[Floats, Floats, Floats, Floats]:
        """Return the rates, and the rates moved together by a number of standard errors and a count."""
        p, q = (self.q, self.p) if reverse else (self.p, self.q)
        p_safe = np.clip(p - errors * np.sqrt(p * (1 - p) / self.n) - errors / self.n, 0, 1)
        q_safe = np.clip(q + errors * np.sqrt(q * (1 - q) / self.n) + 2 * errors / self.n, 0, 1)
        return p, q, p_safe, q_safe

    def _event(self, at: int, p: Floats, q: Floats, *, stake: float, growth: float) -> Event:
        return Event(
            scorer=self.scorers[int(self.which[at])],
            threshold=float(self.thresholds[at]),
            p=float(p[at]),
            q=float(q[at]),
            stake=stake,
            growth=growth,
        )


def _thresholds(values: Floats) -> Floats:
    """Return points between neighbouring values, at quantiles."""
    if len(values) < 2:
        return np.zeros(0)
    at = np.unique(np.linspace(0, len(values) - 2, _THRESHOLDS).astype(int))
    return np.asarray((values[at] + values[at + 1]) / 2)


def _growth(p: Floats, q: Floats, epsilon: float, delta: float) -> Floats:
    """Return the expected logarithm of the wealth per pair, for each stake and each event."""
    grow = math.exp(epsilon)
    stakes = (STAKES / (grow + delta))[:, None]
    win, draw = np.log1p(stakes * (1 - delta)), np.log1p(stakes * (1 - grow - delta))
    lose, none = np.log1p(-stakes * (grow + delta)), np.log1p(-stakes * delta)
    return np.asarray(p * (1 - q) * win + p * q * draw + (1 - p) * q * lose + (1 - p) * (1 - q) * none)
