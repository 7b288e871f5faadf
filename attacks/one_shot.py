"""The one-shot test of Andrew et al. (arXiv:2302.03098): canary clients send random directions, the final model tells.

Only the first and the last weights are seen. The cosine of a canary's direction with the way between them is N(0, 1/d)
for a canary that was left out, and shifted for one that took part. `dpaudit estimate --method one-shot` makes a bound
on epsilon of the scores.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from dpaudit.attacks.base import Floats
from dpaudit.errors import DataError


def canary_directions(count: int, parameters: int, *, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return random unit vectors (count, parameters), uniform on the sphere."""
    rows = rng.standard_normal((count, parameters), dtype=np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def one_shot_scores(first: Floats, last: Floats, canaries: NDArray[np.floating], *, direction: float = 1.0) -> Floats:
    """Return the cosine of each canary with the way of the model, shape (m,).

    Args:
        first: weights before training (d,).
        last: released weights (d,).
        canaries: directions (m, d), not zero.
        direction: +1 where canaries were sent as weight updates, -1 where as gradients.

    Raises: DataError for shapes that do not fit, a zero canary, or a model that did not move.
    """
    if first.shape != last.shape or canaries.ndim != 2 or canaries.shape[1:] != first.shape:
        raise DataError(f"weights and canaries must have one width; got {first.shape}, {last.shape}, {canaries.shape}.")
    way = direction * (np.asarray(last, np.float64) - np.asarray(first, np.float64))
    lengths = np.linalg.norm(canaries, axis=1).astype(np.float64)
    if not np.linalg.norm(way) > 0 or lengths.min(initial=1.0) == 0:
        raise DataError("the model did not move, or a canary is zero: there is no angle between them.")
    return np.asarray(canaries.astype(np.float64) @ way / (lengths * np.linalg.norm(way)))


def absence_p_values(scores: Floats, parameters: int) -> Floats:
    """Return P[a canary that was left out scores as high], from N(0, 1/d)."""
    return np.asarray(ndtr(-np.asarray(scores) * np.sqrt(parameters)))
