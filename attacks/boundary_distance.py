"""Label only: members lie farther from the decision boundary (Choquette-Choo et al., arXiv:2007.14321, section 3).

The distance is measured by HopSkipJump (Chen, Jordan, Wainwright, arXiv:1904.02144, algorithm 2, L2), for all records
at once: find a record of another predicted class, walk to the boundary, estimate from random probes the direction in
which it recedes, step, and walk back. Features are measured in their standard deviations over the records.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpaudit.attacks.base import LABEL_QUERIES, RECORDS, Floats, Observed
from dpaudit.attacks.oracle import Oracle

Matrix = NDArray[np.float32]
_PROBES = 1 << 21  # numbers held in probes at a time
_CANDIDATES = 16
_BISECTIONS = 10
_HALVINGS = 6


class _Walk:
    """HopSkipJump on many records: `x` (n, d) in units of `scale`, and `y` (n,), are fixed; `z` lie beyond it."""

    def __init__(self, oracle: Oracle, y: NDArray[np.integer], seed: int) -> None:
        self._oracle, self._y, self._shape = oracle, y, oracle.x.shape[1:]
        flat = oracle.x.reshape(len(oracle.x), -1)
        spread = flat.std(axis=0)
        self._scale: Matrix = np.where(spread > 0, spread, 1).astype(np.float32)
        self.x: Matrix = (flat / self._scale).astype(np.float32)
        self._rng = np.random.default_rng(seed)
        self._low, self._high = self.x.min(axis=0), self.x.max(axis=0)

    def beyond(self, points: Matrix, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return whether each point is labelled unlike its record."""
        inside = (np.clip(points, self._low, self._high) * self._scale).astype(np.float32)
        return np.asarray(self._oracle.ask(inside.reshape(-1, *self._shape)) != self._y[rows])

    def starts(self, predicted: NDArray[np.int64], rows: NDArray[np.intp]) -> Matrix:
        """Return the nearest of a few random records of another predicted class; the record itself where none is."""
        z = self.x[rows].copy()
        best = np.full(rows.size, np.inf)
        for _ in range(_CANDIDATES):
            pick = self._rng.integers(len(self.x), size=rows.size)
            away = np.linalg.norm(self.x[pick] - self.x[rows], axis=1)
            better = (predicted[pick] != self._y[rows]) & (away < best)
            z[better], best[better] = self.x[pick[better]], away[better]
        return z

    def to_boundary(self, z: Matrix, rows: NDArray[np.intp]) -> Matrix:
        """Bisect between record and point; return the point just beyond the boundary."""
        low, high = np.zeros((rows.size, 1), np.float32), np.ones((rows.size, 1), np.float32)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            crossed = self.beyond(self.x[rows] + middle * (z - self.x[rows]), rows)[:, None]
            low, high = np.where(crossed, low, middle), np.where(crossed, middle, high)
        return np.asarray(self.x[rows] + high * (z - self.x[rows]), dtype=np.float32)

    def direction(self, z: Matrix, rows: NDArray[np.intp], *, probes: int) -> Matrix:
        """Return unit vectors that point away from the boundary, estimated from probes around z (equation 16)."""
        d = z.shape[1]
        reach = np.maximum(np.linalg.norm(z - self.x[rows], axis=1), 1e-6) / np.sqrt(d)
        found = np.empty_like(z)
        step = max(1, _PROBES // (probes * d))
        for start in range(0, rows.size, step):
            part = slice(start, start + step)
            u = self._rng.standard_normal((len(z[part]), probes, d), dtype=np.float32)
            u /= np.linalg.norm(u, axis=2, keepdims=True)
            points = z[part, None] + reach[part, None, None].astype(np.float32) * u
            sign = np.where(self.beyond(points.reshape(-1, d), np.repeat(rows[part], probes)), 1.0, -1.0)
            sign = sign.reshape(-1, probes)
            centred = sign - sign.mean(axis=1, keepdims=True)
            centred[np.all(centred == 0, axis=1)] = 1.0
            found[part] = np.einsum("nb,nbd->nd", centred.astype(np.float32), u)
        return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12))

    def hop(self, z: Matrix, rows: NDArray[np.intp], away: Matrix, *, iteration: int) -> Matrix:
        """Step from z by distance / sqrt(iteration), halved until the point is beyond the boundary; else stay."""
        size = np.linalg.norm(z - self.x[rows], axis=1) / np.sqrt(iteration)
        ends, open_ = z.copy(), np.ones(rows.size, dtype=np.bool_)
        for _ in range(_HALVINGS):
            at = np.flatnonzero(open_)
            if at.size == 0:
                break
            tried = np.clip(z[at] + size[at, None] * away[at], self._low, self._high).astype(np.float32)
            fits = self.beyond(tried, rows[at])
            ends[at[fits]], open_[at[fits]] = tried[fits], False
            size[at] /= 2
        return ends


def boundary_distances(
    oracle: Oracle, labels: NDArray[np.integer], *, iterations: int = 3, probes: int = 24, seed: int = 0
) -> Floats:
    """Return the L2 distance of each record to the decision boundary, an upper bound; 0 where the label is wrong.

    Args:
        oracle: the target and its records.
        labels: true classes (n,).
        iterations: of HopSkipJump.
        probes: per iteration and record.
        seed: of starts and probes.

    About 11 + iterations x (probes + 16) queries per record.
    """
    predicted = oracle.ask(oracle.x)
    right = np.flatnonzero(predicted == labels)
    distance = np.zeros(len(labels))
    if right.size == 0:
        return distance
    walk = _Walk(oracle, labels, seed)
    z = walk.to_boundary(walk.starts(predicted, right), right)
    best = np.linalg.norm(z - walk.x[right], axis=1)
    for iteration in range(1, iterations + 1):
        away = walk.direction(z, right, probes=probes)
        z = walk.to_boundary(walk.hop(z, right, away, iteration=iteration), right)
        best = np.minimum(best, np.linalg.norm(z - walk.x[right], axis=1))
    distance[right] = best
    return distance


@dataclass(frozen=True, slots=True)
class BoundaryDistanceAttack:
    """Scores an example by its distance to the decision boundary, found with predicted labels alone."""

    iterations: int = 3
    probes: int = 24
    seed: int = 0
    name: str = "boundary-distance"
    threat_model: str = "label only: about 140 queries per record for predicted classes near the decision boundary"
    needs: frozenset[str] = frozenset({RECORDS, LABEL_QUERIES})

    def score(self, observed: Observed) -> Floats:
        """Return the mean distance over the examples of each unit, shape (units,).

        Raises: DataError when the oracle fails or the records are no numbers.
        """
        oracle = Oracle(observed, self.name)
        return observed.of_units(
            boundary_distances(oracle, observed.labels, iterations=self.iterations, probes=self.probes, seed=self.seed)
        )
