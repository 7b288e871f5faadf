"""Learning events that tell two distributions apart, from samples that are not used again.

A scorer maps samples to numbers; an event is "score above a threshold". Scorers are plain features (values, sizes,
order, granularity of floating-point numbers), likelihood ratios of categories and bins, and gradient boosting.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import DataError

Floats = NDArray[np.float64]
Score = Callable[[Floats], Floats]

_MOST_COLUMNS = 12
_THRESHOLDS = 40
_CATEGORIES = 200
_ENOUGH_FOR_BOOSTING = 300
_MOST_FOR_BOOSTING = 4000
STAKES = np.geomspace(0.002, 0.95, 24)
"""Bets to choose from, as shares of the largest that cannot go broke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """A named score of samples."""

    name: str
    score: Score


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
    """Return outputs as a float64 matrix (n, k); NaN becomes a column of its own, text and tuples categories.

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


# Scorers


def granularity(values: Floats) -> Floats:
    """Return the exponent of the last bit of each number: x = odd * 2^e gives e.

    Noise of a textbook sampler in floating point has holes that show in it (Mironov 2012).
    """
    mantissa, exponent = np.frexp(values)
    whole = np.ldexp(np.where(np.isfinite(mantissa), mantissa, 0.0), 53).astype(np.int64)
    lowest = (whole & -whole).astype(np.float64)
    return np.where(whole == 0, 2000.0, exponent - 53 + np.log2(np.maximum(lowest, 1.0)))


def _columns(width: int) -> list[Scorer]:
    used = range(width) if width <= _MOST_COLUMNS else np.linspace(0, width - 1, _MOST_COLUMNS).astype(int)
    found = []
    for column in used:
        name = "missing" if column == width - 1 else "output" if width == 2 else f"output {column}"
        found.append(Scorer(name=name, score=lambda s, c=column: s[:, c]))  # type: ignore[misc]
        found.append(Scorer(name=f"-{name}", score=lambda s, c=column: -s[:, c]))  # type: ignore[misc]
    return found


def _shapes(samples: Floats) -> list[Scorer]:
    """Return scorers of distance from the middle and of several outputs together."""
    width = samples.shape[1] - 1
    centre = np.median(samples, axis=0)

    def distance(s: Floats) -> Floats:
        return np.asarray(np.linalg.norm((s - centre)[:, :width], axis=1))

    found = [Scorer(name="distance from the median", score=distance)]
    found.append(Scorer(name="closeness to the median", score=lambda s: -distance(s)))
    if width > 1:
        found.append(Scorer(name="sum of the outputs", score=lambda s: s[:, :width].sum(axis=1)))
        found.append(Scorer(name="minus the sum", score=lambda s: -s[:, :width].sum(axis=1)))
    return found


def _keys(samples: Floats) -> NDArray[np.void]:
    """Return one comparable key per row."""
    rows = np.ascontiguousarray(samples + 0.0)  # -0.0 and 0.0 are one output
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()


def _categories(x: Floats, y: Floats) -> list[Scorer]:
    """Return the smoothed log-likelihood ratio of whole outputs, both ways, where there are few different ones."""
    pooled = _keys(np.concatenate([x, y]))
    known, codes = np.unique(pooled, return_inverse=True)
    if len(known) > min(_CATEGORIES, max(2, len(pooled) // 4)):
        return []
    counts = [np.bincount(part, minlength=len(known)) for part in (codes[: len(x)], codes[len(x) :])]
    ratio = np.log((counts[0] + 0.5) / (counts[1] + 0.5))

    def score(samples: Floats) -> Floats:
        keys = _keys(samples)
        at = np.clip(np.searchsorted(known, keys), 0, len(known) - 1)
        return np.where(known[at] == keys, ratio[at], 0.0)

    return _both_ways("likelihood ratio of the output", score)


def _bins(x: Floats, y: Floats) -> list[Scorer]:
    """Return the smoothed log-likelihood ratio over quantile bins of a single output, both ways."""
    if x.shape[1] != 2:
        return []
    pooled = np.concatenate([x[:, 0], y[:, 0]])
    edges = np.unique(np.quantile(pooled, np.linspace(0, 1, 2 + int(math.sqrt(len(pooled)) / 2))[1:-1]))
    counts = [np.bincount(np.searchsorted(edges, part[:, 0]), minlength=len(edges) + 1) for part in (x, y)]
    ratio = np.log((counts[0] + 1.0) / (counts[1] + 1.0))
    return _both_ways("likelihood ratio of bins", lambda s: ratio[np.searchsorted(edges, s[:, 0])])


def _both_ways(name: str, score: Score) -> list[Scorer]:
    return [Scorer(name=name, score=score), Scorer(name=f"inverse {name}", score=lambda s: -score(s))]


def _boosted(x: Floats, y: Floats, seed: int) -> list[Scorer]:
    """Return gradient boosting on the outputs and on what is made of them; nothing without scikit-learn."""
    if x.shape[1] == 2 or len(x) < _ENOUGH_FOR_BOOSTING:
        return []
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ImportError:
        return []
    x, y = x[-_MOST_FOR_BOOSTING:], y[-_MOST_FOR_BOOSTING:]
    model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=12, early_stopping=False, random_state=seed)
    model.fit(np.concatenate([x, y]), np.arange(len(x) + len(y)) < len(x))

    def score(samples: Floats) -> Floats:
        return np.asarray(model.decision_function(samples))

    return _both_ways("gradient boosting", score)


def _float_bits(width: int) -> list[Scorer]:
    return [
        Scorer(name="fineness of the last bit", score=lambda s: -granularity(s[:, : width - 1]).min(axis=1)),
        Scorer(name="coarseness of the last bit", score=lambda s: granularity(s[:, : width - 1]).min(axis=1)),
    ]


def candidates(x: Floats, y: Floats, *, seed: int, float_bits: bool) -> "Candidates":
    """Return the events worth trying, with their rates, from samples of both sides.

    What is fitted to samples is fitted to one half and counted on the other, or it would promise too much.
    """
    pooled, width = np.concatenate([x, y]), x.shape[1]
    plain = [*(_float_bits(width) if float_bits else ()), *_columns(width), *_shapes(pooled)]
    half = len(x) // 2
    fit_x, fit_y = x[half:], y[half:]
    fitted = [*_categories(fit_x, fit_y), *_bins(fit_x, fit_y), *_boosted(fit_x, fit_y, seed)]
    return Candidates.of([(plain, x, y), (fitted, x[:half], y[:half])])


# Events


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
        p, q = (self.q, self.p) if reverse else (self.p, self.q)
        p_safe = np.clip(p - 0.5 * np.sqrt(p * (1 - p) / self.n) - 0.5 / self.n, 0, 1)
        q_safe = np.clip(q + 0.5 * np.sqrt(q * (1 - q) / self.n) + 1 / self.n, 0, 1)
        growth = _growth(p_safe, q_safe, epsilon, delta)
        stake, at = np.unravel_index(int(np.argmax(growth)), growth.shape)
        promised = float(growth[stake, at])
        if promised <= 0:  # nothing promising: the event that comes nearest
            at = np.argmax(p - math.exp(epsilon) * q - delta)
        return Event(
            scorer=self.scorers[int(self.which[at])],
            threshold=float(self.thresholds[at]),
            p=float(p[at]),
            q=float(q[at]),
            stake=float(STAKES[stake]) if promised > 0 else 0.0,
            growth=max(0.0, promised),
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
