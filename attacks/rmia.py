"""RMIA, the robust attack (Zarifzadeh, Liu, Shokri 2024, arXiv:2312.03262), online and offline.

Score(x) = share of population records z with LR(x, z) = ratio(x) / ratio(z) > gamma, where
ratio(x) = p(x | target) / p(x), and p(x) is the mean over reference models. Since LR is a quotient of a number of x
and a number of z, the share is a rank: the ratios of z are sorted once, and every x is looked up, in
O((n + z) log z) time and O(n + z) memory beside the reference outputs; no n x z matrix.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from dpaudit import _validate
from dpaudit.attacks import statistics
from dpaudit.attacks.base import OUT_MODELS, OUTPUTS, REFERENCE_MODELS, Floats, Observed, references_of
from dpaudit.errors import DataError

Mode = Literal["online", "offline"]

OFFLINE_A = 0.3
"""The constant a of the offline approximation, as in the reference implementation's default."""


def population_probability(log_p: Floats, inside: NDArray[np.bool_], *, mode: Mode, offline_a: float) -> Floats:
    """Return log p(x) for each example: the mean probability under reference models.

    Online (equation 8): the mean of the mean over "in" models and the mean over "out" models (of one kind, where the
    other is missing). Offline (equation 9): ((1 + a) mean over "out" models + (1 - a)) / 2.

    Args:
        log_p: log-probabilities of the labels, shape (R, n).
        inside: which model was trained on which example, shape (R, n).
        mode: "online" or "offline".
        offline_a: the constant a in [0, 1].

    Raises: DataError when an example has no reference model of the kind needed.
    """
    out = _log_mean(log_p, ~inside)
    if mode == "offline":
        missing = int(np.count_nonzero(np.isneginf(out)))
        if missing:
            raise DataError(f"offline RMIA needs an out model for every record; {missing} record(s) have none.")
        rest = np.log1p(-offline_a) if offline_a < 1 else -np.inf
        return np.asarray(np.logaddexp(np.log1p(offline_a) + out, rest) - np.log(2.0))
    both = np.logaddexp(_log_mean(log_p, inside), out)
    one_kind = inside.all(axis=0) | ~inside.any(axis=0)
    return np.where(one_kind, both, both - np.log(2.0))


def _log_mean(log_p: Floats, chosen: NDArray[np.bool_]) -> Floats:
    """Return the log of the mean probability over the chosen models, minus infinity where none is."""
    count = np.count_nonzero(chosen, axis=0)
    with np.errstate(divide="ignore"):
        total = logsumexp(np.where(chosen, log_p, -np.inf), axis=0)
    return np.where(count > 0, total - np.log(np.maximum(count, 1)), -np.inf)


def rmia_scores(log_ratio: Floats, population_log_ratio: Floats, *, gamma: float = 1.0) -> Floats:
    """Return the share of z with ratio(x) / ratio(z) > gamma, for every x.

    Args:
        log_ratio: log ratio(x), shape (n,).
        population_log_ratio: log ratio(z), shape (z,).
        gamma: the threshold on the likelihood ratio, > 0. The score only ever rises with ratio(x), so that gamma
            and z decide how finely records are told apart, not how they are ranked.

    Raises: UsageError for gamma <= 0; DataError for an empty population.
    """
    _validate.positive(gamma=gamma)
    if population_log_ratio.size == 0:
        raise DataError("RMIA needs at least 1 record to compare with; got none.")
    ordered = np.sort(population_log_ratio)
    return np.asarray(np.searchsorted(ordered, log_ratio - np.log(gamma), "left") / ordered.size)


def log_ratios(observed: Observed, attack: str, *, mode: Mode, offline_a: float) -> Floats:
    """Return log (p(x | target) / p(x)) of each unit, averaged over its examples and over augmented queries."""
    logits, inside = references_of(observed, attack)
    of_example = inside if observed.unit is None else inside[:, observed.unit]
    queries = [(observed.logits, logits)]
    if observed.augmented_logits is not None and observed.reference_augmented is not None:
        queries += [(one, observed.reference_augmented[:, q]) for q, one in enumerate(observed.augmented_logits)]
    total = np.zeros(observed.units)
    for target, reference in queries:
        own = statistics.log_probability(target, observed.labels)
        all_models = statistics.reference_log_probability(reference, observed.labels)
        total += observed.of_units(own - population_probability(all_models, of_example, mode=mode, offline_a=offline_a))
    return total / len(queries)


@dataclass(frozen=True, slots=True)
class RmiaAttack:
    """Compares how much likelier the target makes a record than reference models do, with the same of other records.

    Where no population is observed the records under attack are compared with each other: the ranking, and so AUC and
    rates, are the same.
    """

    mode: Mode = "online"
    gamma: float = 1.0
    offline_a: float = OFFLINE_A
    name: str = "rmia"
    threat_model: str = "black box with scores, and models trained by the attacker with and without the records"
    needs: frozenset[str] = frozenset({OUTPUTS, REFERENCE_MODELS})

    def score(self, observed: Observed) -> Floats:
        """Return the RMIA score of each unit in [0, 1], shape (units,)."""
        own = log_ratios(observed, self.name, mode=self.mode, offline_a=self.offline_a)
        known = observed.population
        if known is None or known.reference_logits is None:
            return rmia_scores(own, own, gamma=self.gamma)
        others = log_ratios(known, self.name, mode=self.mode, offline_a=self.offline_a)
        return rmia_scores(own, others, gamma=self.gamma)


def offline() -> RmiaAttack:
    """Return RMIA that uses only reference models that never saw the record."""
    return RmiaAttack(
        mode="offline",
        name="rmia-offline",
        threat_model="black box with scores, and models trained by the attacker without the records",
        needs=frozenset({OUTPUTS, REFERENCE_MODELS, OUT_MODELS}),
    )
