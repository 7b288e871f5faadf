"""Scores that may tell two distributions of outputs apart: plain features, and what is fitted to samples.

Plain: values, distance from the median, sums, fineness of floating-point numbers. Fitted: likelihood ratios of
categories and of histogram bins, logistic regression and gradient boosting, on the values and on their 64 bits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]
Score = Callable[[Floats], Floats]

_MOST_COLUMNS = 12
_MOST_COLUMNS_OF_BITS = 4
_CATEGORIES = 200
_ENOUGH_FOR_FITTING = 300
_MOST_FOR_FITTING = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """A named score of samples: a matrix (n, k + 1), the last column of which says where something was NaN."""

    name: str
    score: Score


def plain_scorers(samples: Floats, *, float_bits: bool) -> list[Scorer]:
    """Return the scorers that need no fitting."""
    width = samples.shape[1]
    return [*(_fineness(width) if float_bits else ()), *_columns(width), *_shapes(samples)]


def fitted_scorers(x: Floats, y: Floats, *, seed: int, float_bits: bool) -> list[Scorer]:
    """Return the scorers fitted to samples of both sides."""
    found = [*_categories(x, y), *_bins(x, y)]
    if len(x) < _ENOUGH_FOR_FITTING:
        return found
    x, y = x[-_MOST_FOR_FITTING:], y[-_MOST_FOR_FITTING:]
    views: list[tuple[str, Score]] = [("of the bits", bits)] if float_bits else []
    if x.shape[1] > 2:  # of a single output, bins and thresholds say it all
        views.append(("of the values", lambda s: s[:, :_MOST_COLUMNS]))
    for name, view in views:
        found += [*_logistic(name, view, x, y), *_boosted(name, view, x, y, seed)]
    return found


def granularity(values: Floats) -> Floats:
    """Return the exponent of the last bit of each number: x = odd * 2^e gives e.

    Noise of a textbook sampler in floating point has holes that show in it (Mironov 2012).
    """
    mantissa, exponent = np.frexp(values)
    whole = np.ldexp(np.where(np.isfinite(mantissa), mantissa, 0.0), 53).astype(np.int64)
    lowest = (whole & -whole).astype(np.float64)
    return np.where(whole == 0, 2000.0, exponent - 53 + np.log2(np.maximum(lowest, 1.0)))


def bits(samples: Floats) -> Floats:
    """Return the 64 bits of each of the first outputs, most significant first, shape (n, 64 k)."""
    values = np.ascontiguousarray(samples[:, : min(samples.shape[1] - 1, _MOST_COLUMNS_OF_BITS)])
    raw = values.astype(">f8").view(np.uint8).reshape(len(samples), -1)
    return np.unpackbits(raw, axis=1).astype(np.float64)


def _both_ways(name: str, score: Score) -> list[Scorer]:
    return [Scorer(name=name, score=score), Scorer(name=f"inverse {name}", score=lambda s: -score(s))]


def _fineness(width: int) -> list[Scorer]:
    return [
        Scorer(name="fineness of the last bit", score=lambda s: -granularity(s[:, : width - 1]).min(axis=1)),
        Scorer(name="coarseness of the last bit", score=lambda s: granularity(s[:, : width - 1]).min(axis=1)),
    ]


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
    first, second = (np.bincount(part, minlength=len(known)) for part in (codes[: len(x)], codes[len(x) :]))
    ratio = np.log((first + 0.5) / (second + 0.5))

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
    first, second = (np.bincount(np.searchsorted(edges, part[:, 0]), minlength=len(edges) + 1) for part in (x, y))
    ratio = np.log((first + 1.0) / (second + 1.0))
    return _both_ways("likelihood ratio of bins", lambda s: ratio[np.searchsorted(edges, s[:, 0])])


def _labels(x: Floats, y: Floats) -> NDArray[np.bool_]:
    return np.arange(len(x) + len(y)) < len(x)


def _logistic(name: str, view: Score, x: Floats, y: Floats) -> list[Scorer]:
    """Return logistic regression on standardised features, with a ridge; Newton's method."""
    features = view(np.concatenate([x, y]))
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where((scale > 0) & np.isfinite(scale), scale, np.inf)

    def design(s: Floats) -> Floats:
        standard = np.nan_to_num(np.clip((view(s) - centre) / scale, -5, 5))
        return np.concatenate([standard, np.ones((len(s), 1))], axis=1)

    rows, labels = design(np.concatenate([x, y])), _labels(x, y)
    weights = np.zeros(rows.shape[1])
    for _ in range(8):
        p = expit(rows @ weights)
        gradient = rows.T @ (p - labels) + weights
        curvature = (rows.T * (p * (1 - p))) @ rows + np.eye(len(weights))
        weights -= np.linalg.solve(curvature, gradient)
    return _both_ways(f"logistic regression {name}", lambda s: design(s) @ weights)


def _boosted(name: str, view: Score, x: Floats, y: Floats, seed: int) -> list[Scorer]:
    """Return gradient boosting; nothing without scikit-learn."""
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ImportError:
        return []
    model: Any = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=12, early_stopping=False, random_state=seed)
    model.fit(view(np.concatenate([x, y])), _labels(x, y))
    return _both_ways(f"gradient boosting {name}", lambda s: np.asarray(model.decision_function(view(s))))
