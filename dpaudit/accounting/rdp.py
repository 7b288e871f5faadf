"""Renyi differential privacy of events, order by order, and its conversion to epsilon.

Orders, series and conversion (Canonne, Kamath, Steinke, arXiv:2004.00010, Proposition 12) are those of dp-accounting,
so that the numbers are; its own functions are called for sampling without replacement and for repeating and selecting.
Where it is wrong (Gaussian under replace-one) or has nothing (Poisson under replace-one, mixtures), the divergence is
integrated numerically.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

from dpaudit import events as ev
from dpaudit.accounting import _cells, discrete
from dpaudit.accounting._pmf import Floats, Pld
from dpaudit.accounting._renyi import ORDERS, log_mixture, log_moments, log_normal, sampled_gaussian
from dpaudit.accounting.pld import (
    cut_batches,
    effective_gaussian,
    flattened,
    infinite,
    joint_sample,
    refuse,
    tree_multiplier,
    unsupported,
)
from dpaudit.records import Relation

_NO_PROTECTION = 0.05  # noise multipliers under which integrals would take millions of points


@dataclass(frozen=True, slots=True, kw_only=True)
class Rdp:
    """Renyi divergence at each of ORDERS, apart from `spent`, the probability of a catastrophe (black-box deltas)."""

    values: Floats
    spent: float = 0.0

    def plus(self, other: "Rdp", count: int) -> "Rdp":
        """Return the composition with `count` runs of another mechanism."""
        spent = 1 - (1 - self.spent) * (1 - other.spent) ** count
        return Rdp(values=self.values + count * other.values, spent=spent)

    def epsilon(self, delta: float) -> float:
        """Return an upper bound on epsilon at `delta`; infinity if there is none."""
        left = (delta - self.spent) / (1 - self.spent)
        if left <= 0:
            return math.inf
        if np.any(left**2 + np.expm1(-self.values) > 0):  # delta <= sqrt(1 - e^-KL), as in dp-accounting
            return 0.0
        epsilons = self.values + np.log1p(-1 / ORDERS) - np.log(left * ORDERS) / (ORDERS - 1)
        return max(0.0, float(epsilons.min()))


NOTHING = Rdp(values=np.zeros(ORDERS.size))


def _gaussian(event: ev.Event, z: float, rate: float, relation: Relation) -> Floats:
    """Return the divergence of a Poisson-sampled Gaussian (the larger direction is "remove": arXiv:1908.10530)."""
    if rate == 0 or math.isinf(z):
        return NOTHING.values
    if z == 0:
        raise infinite(event, "has noise multiplier 0")
    if rate == 1 or z < _NO_PROTECTION:  # without amplification, which bounds what there is with it
        return ORDERS / (2 * z * z) * (4 if relation == Relation.REPLACE_ONE else 1)
    if relation == Relation.REPLACE_ONE:
        logs = log_moments(log_mixture(z, rate, 1.0), log_mixture(z, rate, -1.0), z, 2.0, ORDERS)
    else:
        logs = sampled_gaussian(z, rate)
    return np.asarray(np.maximum(logs, 0) / (ORDERS - 1))


def _laplace(epsilon: float) -> Floats:
    """Return the divergence of the Laplace mechanism (Mironov, arXiv:1702.07476, Proposition 6)."""
    first = np.log(ORDERS / (2 * ORDERS - 1)) + (ORDERS - 1) * epsilon
    second = np.log((ORDERS - 1) / (2 * ORDERS - 1)) - ORDERS * epsilon
    return np.asarray(np.logaddexp(first, second) / (ORDERS - 1))


def _pure(epsilon: float) -> Floats:
    """Return the divergence of randomised response, the worst epsilon-DP mechanism."""
    share = -math.log1p(math.exp(-epsilon))
    first = ORDERS * share + (1 - ORDERS) * (share - epsilon)
    second = ORDERS * (share - epsilon) + (1 - ORDERS) * share
    return np.asarray(np.logaddexp(first, second) / (ORDERS - 1))


def _from_grid(pld: Pld) -> Floats:
    """Return the divergence of a loss of bounded size; the grid is pessimistic, and so is this."""
    logs = [
        logsumexp(np.outer(ORDERS - 1, pmf.losses), b=np.maximum(pmf.probs, 0), axis=1)
        for pmf in (pld.remove, pld.add)
        if pmf is not None
    ]
    return np.asarray(np.max(logs, axis=0) / (ORDERS - 1))


def _mixed(first: Floats, second: Floats, weight: float) -> Floats:
    """Return the divergence when a coin that everybody sees chooses `second` with probability `weight`."""
    if weight in (0.0, 1.0):
        return second if weight else first
    logs = np.logaddexp(math.log1p(-weight) + (ORDERS - 1) * first, math.log(weight) + (ORDERS - 1) * second)
    return np.asarray(logs / (ORDERS - 1))


def _truncated(event: ev.TruncatedPoissonGaussian, relation: Relation) -> Rdp:
    plain = _gaussian(event, event.noise_multiplier, event.sampling_rate, relation)
    cut, rate = cut_batches(event)
    if cut == 0:
        return Rdp(values=plain)
    return Rdp(values=_mixed(plain, _gaussian(event, event.noise_multiplier / 2, rate, Relation.REPLACE_ONE), cut))


def _without_replacement(event: ev.SampledWithoutReplacement, relation: Relation) -> Rdp:
    multiplier = effective_gaussian(event.event)
    if multiplier is None:
        raise unsupported(event, "sampling without replacement is known here for Gaussian events only")
    rate = min(1.0, event.sample_size / event.population)
    if relation == Relation.ADD_OR_REMOVE_ONE or rate == 1 or multiplier == 0:
        return Rdp(values=_gaussian(event, multiplier / 2, rate, Relation.ADD_OR_REMOVE_ONE))
    import dp_accounting as dp

    # Half the multiplier: dp-accounting 0.6 reads s/C although two samples differ by 2C (its issue #378).
    halved = dp.SampledWithoutReplacementDpEvent(
        event.population, event.sample_size, dp.GaussianDpEvent(multiplier / 2)
    )
    accountant = dp.rdp.RdpAccountant(ORDERS, dp.NeighboringRelation.REPLACE_ONE)
    return Rdp(values=np.asarray(accountant.compose(halved).rdp))


def _discrete(event: discrete.DiscreteEvent, relation: Relation) -> Rdp:
    if event.noise_multiplier == 0:
        raise infinite(event, "has no noise")
    values = discrete.divergence(event, ORDERS, units=2 if relation == Relation.REPLACE_ONE else 1)
    if math.isinf(values[0]):
        raise unsupported(event, "sums of discrete Gaussians are known for shares of a variance of at least 1/4 only")
    return Rdp(values=values)


def _sampled(event: ev.PoissonSampled, relation: Relation) -> Rdp:
    rate, inner = joint_sample(event)
    parts = flattened(inner)
    if rate == 0 or not parts:
        return NOTHING
    multiplier = effective_gaussian(inner)
    if multiplier is not None:
        return Rdp(values=_gaussian(event, multiplier, rate, relation))
    if rate == 1:
        return rdp_of(inner, relation=relation)
    only, count = next(iter(parts.items()))
    single = len(parts) == 1 and count == 1 and relation == Relation.ADD_OR_REMOVE_ONE
    if single and isinstance(only, ev.Laplace) and only.noise_multiplier > 0:
        step = min(1e-3, 1 / only.noise_multiplier / 200)
        return Rdp(values=_from_grid(_cells.laplace(only.noise_multiplier, rate, step)))
    if single and isinstance(only, ev.ApproximateDp):
        amplified = math.log1p(rate * math.expm1(only.epsilon))
        return Rdp(values=_pure(amplified), spent=rate * only.delta)
    raise unsupported(event, "Poisson sampling is known here for Gaussian, and for one Laplace or black-box event")


def _repeated(event: ev.RepeatAndSelect, relation: Relation) -> Rdp:
    """Return the divergence of the best of a random number of runs (Papernot, Steinke, arXiv:2110.03620)."""
    from dp_accounting.rdp import rdp_privacy_accountant as library

    inner = rdp_of(event.event, relation=relation)
    if inner.spent > 0:
        raise unsupported(
            event, "repeating and selecting is known for Renyi bounds only, not for black boxes with a delta"
        )
    return Rdp(values=np.asarray(library._compute_rdp_repeat_and_select(ORDERS, inner.values, event.mean, event.shape)))


def _plain_gaussian(event: ev.Gaussian, relation: Relation) -> Rdp:
    return Rdp(values=_gaussian(event, event.noise_multiplier, 1.0, relation))


def _tree(event: ev.TreeAggregation, relation: Relation) -> Rdp:
    return Rdp(values=_gaussian(event, tree_multiplier(event), 1.0, relation))


def _plain_laplace(event: ev.Laplace, relation: Relation) -> Rdp:
    if event.noise_multiplier == 0:
        raise infinite(event, "has noise multiplier 0")
    return Rdp(values=_laplace((2 if relation == Relation.REPLACE_ONE else 1) / event.noise_multiplier))


def _public(event: ev.PubliclySampled, relation: Relation) -> Rdp:
    inner, p = rdp_of(event.event, relation=relation), event.sampling_rate
    return Rdp(values=_mixed(NOTHING.values, inner.values, p), spent=p * inner.spent)


def _black_box(event: ev.ApproximateDp, relation: Relation) -> Rdp:  # noqa: ARG001 - same for all relations
    return Rdp(values=_pure(event.epsilon), spent=event.delta)


def _mixture(event: ev.MixtureOfGaussians, relation: Relation) -> Rdp:
    z = event.noise_multiplier
    if z == 0:
        raise infinite(event, "has noise multiplier 0")
    if relation == Relation.REPLACE_ONE:
        raise unsupported(event, "mixtures of Gaussians are known here for add-or-remove-one only")
    if z < _NO_PROTECTION:
        return Rdp(values=ORDERS * max(event.sensitivities) ** 2 / (2 * z * z))
    parts = [(c, p) for c, p in zip(event.sensitivities, event.probabilities, strict=True) if p > 0]

    def upper(x: Floats) -> Floats:
        return np.asarray(logsumexp([math.log(p) + log_normal(x, c, z) for c, p in parts], axis=0))

    def lower(x: Floats) -> Floats:
        return log_normal(x, 0, z)

    reach = max(c for c, _ in parts)
    logs = [log_moments(upper, lower, z, reach, ORDERS), log_moments(lower, upper, z, reach, ORDERS)]
    return Rdp(values=np.asarray(np.maximum(np.max(logs, axis=0), 0) / (ORDERS - 1)))


def _concentrated(event: ev.ZeroConcentratedDp, relation: Relation) -> Rdp:  # noqa: ARG001 - same for all relations
    return Rdp(values=event.xi + event.rho * ORDERS)


def _shuffled(event: ev.ShuffledBatches, relation: Relation) -> Rdp:
    return rdp_of(event.event, relation=relation)


_ACCOUNTS: dict[type, Callable[[Any, Relation], Rdp]] = {
    ev.Gaussian: _plain_gaussian,
    ev.TreeAggregation: _tree,
    ev.Laplace: _plain_laplace,
    ev.PoissonSampled: _sampled,
    ev.PubliclySampled: _public,
    ev.ApproximateDp: _black_box,
    ev.TruncatedPoissonGaussian: _truncated,
    ev.SampledWithoutReplacement: _without_replacement,
    ev.ShuffledBatches: _shuffled,
    ev.RepeatAndSelect: _repeated,
    ev.MixtureOfGaussians: _mixture,
    ev.ZeroConcentratedDp: _concentrated,
    ev.DistributedDiscreteGaussian: _discrete,
    ev.Skellam: _discrete,
}


def rdp_of(event: ev.Event, *, relation: Relation) -> Rdp:
    """Return the Renyi divergence of an event.

    Raises: UnsupportedEvent if it has none here, Refusal if it is infinite at every order.
    """
    total = NOTHING
    for part, count in flattened(event).items():
        if type(part) not in _ACCOUNTS:
            raise refuse(part, "RDP")
        total = total.plus(_ACCOUNTS[type(part)](part, relation), count)
    return total
