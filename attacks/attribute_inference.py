"""Attribute inference: the attacker knows a record but for one attribute, and tries its values on the model.

Fredrikson et al. (CCS 2015) and Yeom et al. (arXiv:1709.01604, section 4): the value under which the known label is
likeliest, weighted by how common the value is. Much of an attribute follows from the other features without any model
(Jayaraman and Evans, arXiv:2209.01292), so the result stands beside a classifier that never saw the model, on the same
records, and beside the attack on non-members: only what exceeds both is a leak of this model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.attacks import statistics
from dpaudit.attacks.base import Floats
from dpaudit.attacks.outputs import as_logits
from dpaudit.errors import DataError, MissingDependency
from dpaudit.estimation.binomial import lower_limit, upper_limit

Model = Callable[[NDArray[Any]], Any]
_MOST_VALUES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of right answers with its Clopper-Pearson interval."""

    share: float
    ci: tuple[float, float]
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeResult:
    """What was inferred about members and non-members, and what anybody could have inferred about the same records.

    `gain` is the attack's accuracy on members minus the baseline's on members, with an exact interval from the records
    where just one of the two is right; `member_gain` is the attack on members minus the attack on non-members.
    """

    column: int
    values: tuple[float, ...]
    members: Share
    non_members: Share
    baseline: Share
    gain: float
    gain_ci: tuple[float, float]
    member_gain: float
    member_gain_ci: tuple[float, float]
    confidence: float
    threat_model: str = "black box with scores: knows the record and its label, but for one attribute"


def infer(
    model: Model, x: NDArray[Any], y: NDArray[np.integer], *, column: int, values: Floats, prior: Floats
) -> Floats:
    """Return the value of the attribute that makes the label likeliest, for each record (n,); x[:, column] is not read.

    Raises: DataError when the model's outputs cannot be used.
    """
    found = np.empty((len(values), len(x)))
    for row, (value, weight) in enumerate(zip(values, prior, strict=True)):
        tried = np.array(x)
        tried[:, column] = value
        found[row] = statistics.log_probability(as_logits(np.asarray(model(tried))), y) + np.log(weight)
    return np.asarray(values[found.argmax(axis=0)])


def attribute_inference(
    model: Model,
    members: tuple[NDArray[Any], NDArray[np.integer]],
    non_members: tuple[NDArray[Any], NDArray[np.integer]],
    population: tuple[NDArray[Any], NDArray[np.integer]],
    *,
    column: int,
    confidence: float = 0.95,
    seed: int = 0,
) -> AttributeResult:
    """Run the attack and its baselines on the same records.

    Args:
        model: from records (n, d) to logits or probabilities.
        members: records and labels that the model was trained on.
        non_members: others of the same population.
        population: a third set, known to the attacker with the attribute: prior and baseline come from it.
        column: the attribute, with at most 32 different values.
        confidence: of every interval.
        seed: of the baseline.

    Raises: DataError for records that are no table, or too many values; MissingDependency without scikit-learn.
    """
    known_x, known_y = population
    if known_x.ndim != 2 or not 0 <= column < known_x.shape[1]:
        raise DataError(
            f"attribute inference needs records (n, d) with 0 <= column < d; got {known_x.shape}, {column}."
        )
    values, counts = np.unique(known_x[:, column].astype(np.float64), return_counts=True)
    if not 2 <= len(values) <= _MOST_VALUES:
        raise DataError(
            f"column {column} must have 2 to {_MOST_VALUES} values in the population; it has {len(values)}."
        )
    options: dict[str, Any] = {"column": column, "values": values, "prior": counts / counts.sum()}
    inside, outside = (infer(model, x, y, **options) == x[:, column] for x, y in (members, non_members))
    plain = _baseline(known_x, known_y, *members, column=column, seed=seed) == members[0][:, column]
    error = (1 - confidence) / 2
    one, two, three = (_share(right, error) for right in (inside, outside, plain))
    return AttributeResult(
        column=column,
        values=tuple(float(value) for value in values),
        members=one,
        non_members=two,
        baseline=three,
        gain=float(inside.mean() - plain.mean()),
        gain_ci=_paired(inside, plain, error),
        member_gain=one.share - two.share,
        member_gain_ci=_difference(inside, outside, error),
        confidence=confidence,
    )


def _baseline(
    known_x: NDArray[Any],
    known_y: NDArray[np.integer],
    x: NDArray[Any],
    y: NDArray[np.integer],
    *,
    column: int,
    seed: int,
) -> NDArray[Any]:
    """Return the attribute as predicted from the other features and the label, without the model."""
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ImportError as error:
        raise MissingDependency("the baseline needs scikit-learn: pip install 'dpaudit[train]'.") from error
    features = [np.column_stack([np.delete(a, column, axis=1), b]) for a, b in ((known_x, known_y), (x, y))]
    classifier = HistGradientBoostingClassifier(max_iter=60, early_stopping=False, random_state=seed)
    values, codes = np.unique(known_x[:, column], return_inverse=True)
    return np.asarray(values[classifier.fit(features[0], codes).predict(features[1])])


def _share(right: NDArray[np.bool_], error: float) -> Share:
    k, n = int(right.sum()), right.size
    return Share(share=k / n, ci=(lower_limit(k, n, error), upper_limit(k, n, error)), n=n)


def _paired(one: NDArray[np.bool_], other: NDArray[np.bool_], error: float) -> tuple[float, float]:
    """Return an interval for the difference of two shares on the same records: exact limits on each kind of discord."""
    n, wins, losses = one.size, int((one & ~other).sum()), int((~one & other).sum())
    half = error / 2
    low = lower_limit(wins, n, half) - upper_limit(losses, n, half)
    return low, upper_limit(wins, n, half) - lower_limit(losses, n, half)


def _difference(one: NDArray[np.bool_], other: NDArray[np.bool_], error: float) -> tuple[float, float]:
    """Return an interval for the difference of two independent shares, from exact limits on each."""
    a, b, half = (int(one.sum()), one.size), (int(other.sum()), other.size), error / 2
    low = lower_limit(*a, half) - upper_limit(*b, half)
    return low, upper_limit(*a, half) - lower_limit(*b, half)
