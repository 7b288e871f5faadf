"""LiRA, the likelihood-ratio attack (Carlini et al. 2022, arXiv:2112.03570, section V), online and offline."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpaudit.attacks import statistics
from dpaudit.attacks.base import OUT_MODELS, OUTPUTS, REFERENCE_MODELS, Floats, Observed, references_of
from dpaudit.errors import DataError

Variance = Literal["auto", "fixed", "per-unit"]

ENOUGH_FOR_OWN_VARIANCE = 32
"""In and out models of every unit from which its own variance is used: the paper's 64 shadow models in halves."""


_BLOCK = 2048


class Moments(NamedTuple):
    """Number, mean and sum of squared deviations of a statistic over the reference models of one kind, per unit."""

    models: NDArray[np.int64]
    mean: Floats
    squares: Floats


def moments(values: Floats, chosen: NDArray[np.bool_]) -> Moments:
    """Return the moments of `values` (R, units) over the models chosen for each unit; mean 0 where none is."""
    count = np.count_nonzero(chosen, axis=0)
    safe = np.maximum(count, 1)
    mean, squares = np.empty(values.shape[1]), np.empty(values.shape[1])
    for start in range(0, values.shape[1], _BLOCK):  # a block of units stays in the cache
        part = slice(start, start + _BLOCK)
        kept = chosen[:, part]
        mean[part] = np.where(kept, values[:, part], 0.0).sum(axis=0) / safe[part]
        centred = np.where(kept, values[:, part] - mean[part], 0.0)
        squares[part] = np.einsum("ru,ru->u", centred, centred)
    return Moments(count, mean, squares)


def _pooled_variance(*parts: Moments) -> float:
    """Return the variance around each unit's own mean, pooled over units: few models, many units."""
    freedom = sum(int(np.maximum(part.models - 1, 0).sum()) for part in parts)
    total = sum(float(part.squares.sum()) for part in parts)
    if freedom == 0:
        raise DataError("LiRA needs at least 2 reference models of one kind (in or out) for some unit; train more.")
    return _positive(np.asarray(total / freedom)).item()


def _positive(variance: Floats) -> Floats:
    """Keep variances away from 0, which reference models that agree to the last bit would give."""
    return np.maximum(variance, 1e-12)


def _variances(inside: Moments, outside: Moments, variance: Variance) -> tuple[Floats | float, Floats | float]:
    fewest = min(int(inside.models.min()), int(outside.models.min()))
    own = variance == "per-unit" or (variance == "auto" and fewest >= ENOUGH_FOR_OWN_VARIANCE)
    if own and fewest < 2:
        raise DataError(f"per-unit variances need 2 in and 2 out models for every unit; one unit has {fewest}.")
    if own:
        return _positive(inside.squares / (inside.models - 1)), _positive(outside.squares / (outside.models - 1))
    enough_in = int(np.maximum(inside.models - 1, 0).sum()) > 0
    enough_out = int(np.maximum(outside.models - 1, 0).sum()) > 0
    if enough_in and enough_out:
        return _pooled_variance(inside), _pooled_variance(outside)
    both = _pooled_variance(inside, outside)
    return both, both


def lira_scores(
    target: Floats, reference: Floats, reference_in: NDArray[np.bool_], *, variance: Variance = "auto"
) -> Floats:
    """Return the log-likelihood ratio of "in" to "out" for each unit.

    Args:
        target: phi of the target model, shape (units,).
        reference: phi of the reference models, shape (R, units).
        reference_in: whether model r was trained on unit u, shape (R, units).
        variance: "fixed" pools the variance around each unit's mean over all units, "per-unit" estimates it for
            each, "auto" takes per-unit from 32 in and 32 out models on.

    A unit without in (or out) models gets the mean that the average shift of the other units predicts. When fewer
    than half of the units have both kinds, the attack is offline: the one-sided z-score against the out models.

    Raises:
        DataError: too few reference models.
    """
    inside, outside = moments(reference, reference_in), moments(reference, ~reference_in)
    both = (inside.models > 0) & (outside.models > 0)
    if 2 * np.count_nonzero(both) < len(both):
        return _offline(target, outside, variance)
    shift = float((inside.mean - outside.mean)[both].mean())
    mean_in = np.where(inside.models > 0, inside.mean, outside.mean + shift)
    mean_out = np.where(outside.models > 0, outside.mean, inside.mean - shift)
    var_in, var_out = _variances(inside, outside, variance)
    log_in = -0.5 * (target - mean_in) ** 2 / var_in - 0.5 * np.log(var_in)
    log_out = -0.5 * (target - mean_out) ** 2 / var_out - 0.5 * np.log(var_out)
    return np.asarray(log_in - log_out)


def offline_scores(
    target: Floats, reference: Floats, reference_in: NDArray[np.bool_], *, variance: Variance = "auto"
) -> Floats:
    """Return the offline score, from models that never saw the unit: (phi - mean_out) / sd_out.

    Increasing in the paper's 1 - P[Z > phi], without its saturation. Arguments and errors as `lira_scores`; "auto"
    takes per-unit variances from 32 out models on.
    """
    return _offline(target, moments(reference, ~reference_in), variance)


def _offline(target: Floats, outside: Moments, variance: Variance) -> Floats:
    missing = int(np.count_nonzero(outside.models == 0))
    if missing:
        raise DataError(f"offline LiRA needs an out model for every unit; {missing} unit(s) have none.")
    fewest = int(outside.models.min())
    own = variance == "per-unit" or (variance == "auto" and fewest >= ENOUGH_FOR_OWN_VARIANCE)
    if own and fewest < 2:
        raise DataError(f"per-unit variances need 2 out models for every unit; one unit has {fewest}.")
    spread = _positive(outside.squares / (outside.models - 1)) if own else _pooled_variance(outside)
    return np.asarray((target - outside.mean) / np.sqrt(spread))


def _queries(observed: Observed, attack: str) -> Iterator[tuple[Floats, Floats]]:
    """Yield phi of the target (units,) and of the reference models (R, units), for each query of the records."""
    logits, _ = references_of(observed, attack)
    pairs = [(observed.logits, logits)]
    if observed.augmented_logits is not None and observed.reference_augmented is not None:
        pairs += [(one, observed.reference_augmented[:, q]) for q, one in enumerate(observed.augmented_logits)]
    for one, many in pairs:
        yield (
            observed.of_units(statistics.logit_confidence(one, observed.labels)),
            observed.of_units(statistics.reference_logit_confidence(many, observed.labels)),
        )


@dataclass(frozen=True, slots=True)
class LiraAttack:
    """Compares each unit with reference models trained with and without it."""

    variance: Variance = "auto"
    offline: bool = False
    name: str = "lira"
    threat_model: str = "black box with scores, and models trained by the attacker with and without the records"
    needs: frozenset[str] = frozenset({OUTPUTS, REFERENCE_MODELS})

    def score(self, observed: Observed) -> Floats:
        """Return the log-likelihood ratio of each unit, averaged over the queries of its records.

        phi is averaged over a unit's examples per model first. Several queries (augmented copies) are taken as
        independent Gaussians, whose log-likelihood ratios add up (section VI.C of the paper).
        """
        _, inside = references_of(observed, self.name)
        function = offline_scores if self.offline else lira_scores
        found = [function(one, many, inside, variance=self.variance) for one, many in _queries(observed, self.name)]
        return np.asarray(np.mean(found, axis=0))


def offline() -> LiraAttack:
    """Return LiRA that uses only reference models that never saw the unit."""
    return LiraAttack(
        offline=True,
        name="lira-offline",
        threat_model="black box with scores, and models trained by the attacker without the records",
        needs=frozenset({OUTPUTS, REFERENCE_MODELS, OUT_MODELS}),
    )
