"""Quantile regression (Bertran et al. 2023, arXiv:2307.03694): no shadow models.

A regressor learns, on known non-members, which confidence the target gives to a record like this one; a member is more
confident than that. Gradient-boosted trees on (record, label) predict two conditional quantiles of
phi = log(p_y / (1 - p_y)), and the score says how far the record lies above them, in units of their distance.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.attacks import statistics
from dpaudit.attacks.base import OUTPUTS, POPULATION, POPULATION_RECORDS, Floats, Observed, population_of
from dpaudit.errors import DataError, MissingDependency

_FEWEST = 50
_ONE_HOT = 50  # up to so many classes


def features_of(x: NDArray[Any], labels: NDArray[np.integer], classes: int) -> NDArray[np.float32]:
    """Return records and labels as one matrix: flat features, and the label one-hot (as a number beyond 50 classes).

    Raises: DataError for records that are no numbers.
    """
    try:
        flat = np.asarray(x, dtype=np.float32).reshape(len(x), -1)
    except (TypeError, ValueError) as error:
        raise DataError(f"records must be numbers for this attack; got {np.asarray(x).dtype} ({error}).") from error
    wide = np.eye(classes, dtype=np.float32)[labels] if classes <= _ONE_HOT else labels[:, None].astype(np.float32)
    return np.concatenate([flat, wide], axis=1)


def _regressor(quantile: float, seed: int, iterations: int) -> Any:
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor
    except ImportError as error:
        raise MissingDependency("the quantile attack needs scikit-learn: pip install 'dpaudit[train]'.") from error
    return HistGradientBoostingRegressor(
        loss="quantile", quantile=quantile, max_iter=iterations, max_leaf_nodes=16, min_samples_leaf=20,
        learning_rate=0.1, early_stopping=False, random_state=seed,
    )  # fmt: skip


def quantile_scores(
    features: NDArray[np.floating],
    phi: Floats,
    known_features: NDArray[np.floating],
    known_phi: Floats,
    *,
    quantile: float = 0.9,
    iterations: int = 60,
    seed: int = 0,
) -> Floats:
    """Return (phi - median) / (q - median) of each example, both quantiles predicted from its features.

    Args:
        features: of the examples under attack, shape (n, d).
        phi: their logit confidence, shape (n,).
        known_features: of known non-members, shape (z, d), z >= 50.
        known_phi: their logit confidence, shape (z,).
        quantile: the upper quantile q, in (1/2, 1).
        iterations: trees per quantile.
        seed: of the regressors.

    Raises: DataError for fewer than 50 known non-members; MissingDependency without scikit-learn.
    """
    if len(known_phi) < _FEWEST:
        raise DataError(f"the quantile attack needs at least {_FEWEST} known non-members; got {len(known_phi)}.")
    middle, upper = (
        _regressor(level, seed, iterations).fit(known_features, known_phi).predict(features)
        for level in (0.5, quantile)
    )
    floor = 0.1 * max(float(np.quantile(known_phi, quantile) - np.median(known_phi)), 1e-6)
    return np.asarray((phi - middle) / np.maximum(upper - middle, floor))


@dataclass(frozen=True, slots=True)
class QuantileAttack:
    """Scores an example by how far its confidence lies above what records like it get that were not trained on."""

    quantile: float = 0.9
    seed: int = 0
    name: str = "quantile"
    threat_model: str = "black box with scores, the records, and records known to be no members; no shadow models"
    needs: frozenset[str] = frozenset({OUTPUTS, POPULATION, POPULATION_RECORDS})

    def score(self, observed: Observed) -> Floats:
        """Return the mean score over the examples of each unit, shape (units,)."""
        known = population_of(observed, self.name)
        if known.x is None or observed.x is None:
            raise DataError("the attack 'quantile' needs the records of both sides and of the population.")
        classes = observed.logits.shape[1]
        return observed.of_units(
            quantile_scores(
                features_of(observed.x, observed.labels, classes),
                statistics.logit_confidence(observed.logits, observed.labels),
                features_of(known.x, known.labels, classes),
                statistics.logit_confidence(known.logits, known.labels),
                quantile=self.quantile,
                seed=self.seed,
            )
        )
