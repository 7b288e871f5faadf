"""Privacy events to privacy loss distributions.

Meaning of the relations (as in dp-accounting): under add-or-remove-one a unit's contribution of norm at most 1 is
there or not; under replace-one two contributions differ by at most 2, which halves the noise multiplier.
"""

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.special import bdtrc

from dpaudit import events as ev
from dpaudit.accounting import _cells, discrete
from dpaudit.accounting._pmf import Pld, identity
from dpaudit.accounting._powers import self_composed
from dpaudit.errors import Refusal, UnsupportedEvent
from dpaudit.records import Relation

DISCRETIZATION = 1e-4
"""Default width of the grid of losses; that of dp-accounting, so that the numbers can be compared digit by digit."""


def flattened(event: ev.Event, count: int = 1) -> Counter[ev.Event]:
    """Return the multiset of events that a composition is made of; what costs nothing is left out."""
    if isinstance(event, ev.NoOp) or count == 0 or (isinstance(event, ev.TreeAggregation) and not event.steps):
        return Counter()
    if isinstance(event, ev.SelfComposed):
        return flattened(event.event, count * event.count)
    if isinstance(event, ev.Composed):
        total: Counter[ev.Event] = Counter()
        for item in event.events:
            total.update(flattened(item, count))
        return total
    return Counter({event: count})


def tree_multiplier(event: ev.TreeAggregation) -> float:
    """Return the noise multiplier of the Gaussian that trees with restarts equal (arXiv:2103.00039, Appendix D).

    A unit takes part once per tree, and then in one node of every level: bit_length(steps) nodes in a tree.
    """
    return event.noise_multiplier / math.sqrt(sum(step.bit_length() for step in event.steps))


def effective_gaussian(event: ev.Event, *, with_trees: bool = False) -> float | None:
    """Return the noise multiplier of the one Gaussian that a composition of Gaussians on the same units equals.

    None where the event holds anything else, or nothing. `with_trees` takes trees for the Gaussians that they are;
    inside a sampler they are none, for its sample would have to be one and the same for a whole tree.
    """
    precision, parts = 0.0, flattened(event)
    for part, count in parts.items():
        if not isinstance(part, ev.Gaussian) and not (with_trees and isinstance(part, ev.TreeAggregation)):
            return None
        multiplier = tree_multiplier(part) if isinstance(part, ev.TreeAggregation) else part.noise_multiplier
        if multiplier == 0:
            return 0.0
        precision += count / multiplier**2
    return 1 / math.sqrt(precision) if parts else None


def joint_sample(event: ev.PoissonSampled) -> tuple[float, ev.Event]:
    """Return the rate and the event of a sample; sampling of a sample, both in secret, is sampling at the product."""
    rate, inner = event.sampling_rate, event.event
    while isinstance(inner, ev.PoissonSampled):
        rate, inner = rate * inner.sampling_rate, inner.event
    return rate, inner


def cut_batches(event: ev.TruncatedPoissonGaussian) -> tuple[float, float]:
    """Return how often another unit's batch is full, and the rate at which a unit then replaces another.

    As in dp-accounting (arXiv:2508.15089); (0, 0) where no batch is ever cut.
    """
    n, q, b = event.dataset_size, event.sampling_rate, event.max_batch_size
    cut = float(bdtrc(b - 1, n - 1, q)) if q > 0 and b <= n - 1 else 0.0
    return (cut, min(1.0, float(bdtrc(b, n, q)) * b / cut / n)) if cut > 0 else (0.0, 0.0)


def infinite(event: ev.Event, why: str) -> Refusal:
    """Return the refusal of an event whose epsilon is infinite."""
    return Refusal(f"epsilon is infinite: {type(event).__name__} {why}. Add noise, or leave this release out.")


def unsupported(event: ev.Event, why: str) -> UnsupportedEvent:
    """Return the refusal of an event that an accountant cannot bound."""
    return UnsupportedEvent(f"cannot account for {type(event).__name__}: {why}.")


def _gaussian(event: ev.Event, multiplier: float, rate: float, relation: Relation, step: float) -> Pld:
    if rate == 0 or math.isinf(multiplier):
        return identity(step)
    if multiplier == 0:
        raise infinite(event, "has noise multiplier 0")
    if relation == Relation.REPLACE_ONE:
        return _cells.gaussian_replaced(multiplier, rate, step)
    return _cells.gaussian(multiplier, rate, step)


def _laplace(event: ev.Laplace, rate: float, relation: Relation, step: float) -> Pld:
    if event.noise_multiplier == 0:
        raise infinite(event, "has noise multiplier 0")
    if relation == Relation.ADD_OR_REMOVE_ONE:
        return _cells.laplace(event.noise_multiplier, rate, step)
    if rate < 1:
        raise unsupported(event, "Poisson-sampled Laplace noise is known here for add-or-remove-one only")
    return _cells.laplace(event.noise_multiplier / 2, 1.0, step)


def _sampled(event: ev.PoissonSampled, relation: Relation, step: float) -> Pld:
    rate, inner = joint_sample(event)
    parts = flattened(inner)
    if rate == 0 or not parts:
        return identity(step)
    multiplier = effective_gaussian(inner)
    if multiplier is not None:
        return _gaussian(event, multiplier, rate, relation, step)
    only, count = next(iter(parts.items()))
    if rate == 1:
        return pld_of(inner, relation=relation, step=step)
    if len(parts) == 1 and count == 1 and isinstance(only, ev.Laplace):
        return _laplace(only, rate, relation, step)
    if len(parts) == 1 and count == 1 and isinstance(only, ev.ApproximateDp):
        if relation == Relation.REPLACE_ONE:
            raise unsupported(event, "a Poisson-sampled black box is known here for add-or-remove-one only")
        # Amplification by sub-sampling (Balle, Barthe, Gaboardi, arXiv:1807.01647, Theorem 8).
        return _cells.approximate(math.log1p(rate * math.expm1(only.epsilon)), rate * only.delta, step)
    raise unsupported(event, "Poisson sampling is known here for Gaussian, Laplace and black-box events only")


def _truncated(event: ev.TruncatedPoissonGaussian, relation: Relation, step: float) -> Pld:
    """Mixture of arXiv:2508.15089 as in dp-accounting: where the batch was cut, the unit may have replaced another."""
    plain = _gaussian(event, event.noise_multiplier, event.sampling_rate, relation, step)
    cut, rate = cut_batches(event)
    if cut == 0:
        return plain
    return plain.mixed(_gaussian(event, event.noise_multiplier / 2, rate, Relation.REPLACE_ONE, step), cut)


def _without_replacement(event: ev.SampledWithoutReplacement, relation: Relation, step: float) -> Pld:
    """A unit that enters a fixed-size sample pushes another out: contributions differ by 2 under both relations.

    (arXiv:2106.08567, Proposition 30; dp-accounting 0.6 forgets the 2, its issue #378.)
    """
    multiplier = effective_gaussian(event.event)
    if multiplier is None:
        raise unsupported(event, "sampling without replacement is known here for Gaussian events only")
    rate = min(1.0, event.sample_size / event.population)
    pair = _gaussian(event, multiplier / 2, rate, Relation.ADD_OR_REMOVE_ONE, step)
    return _cells.symmetrised(pair.remove) if relation == Relation.REPLACE_ONE else pair


def _shuffled(event: ev.ShuffledBatches, relation: Relation, step: float) -> Pld:
    """Return the loss of a pass: no amplification is proven, so that it costs what the unit's one batch costs."""
    return pld_of(event.event, relation=relation, step=step)


def _public(event: ev.PubliclySampled, relation: Relation, step: float) -> Pld:
    return identity(step).mixed(pld_of(event.event, relation=relation, step=step), event.sampling_rate)


def _black_box(event: ev.ApproximateDp, relation: Relation, step: float) -> Pld:  # noqa: ARG001 - same for all relations
    return _cells.approximate(event.epsilon, event.delta, step)


def _mixture(event: ev.MixtureOfGaussians, relation: Relation, step: float) -> Pld:
    if event.noise_multiplier == 0:
        raise infinite(event, "has noise multiplier 0")
    if relation == Relation.REPLACE_ONE:
        raise unsupported(event, "mixtures of Gaussians are known here for add-or-remove-one only")
    if not any(c * p for c, p in zip(event.sensitivities, event.probabilities, strict=True)):
        return identity(step)
    return _cells.mixture(
        event.noise_multiplier, np.asarray(event.sensitivities, float), np.asarray(event.probabilities, float), step
    )


def _plain_laplace(event: ev.Laplace, relation: Relation, step: float) -> Pld:
    return _laplace(event, 1.0, relation, step)


_ACCOUNTS: dict[type, Callable[[Any, Relation, float], Pld]] = {
    ev.Laplace: _plain_laplace,
    ev.PoissonSampled: _sampled,
    ev.PubliclySampled: _public,
    ev.ApproximateDp: _black_box,
    ev.TruncatedPoissonGaussian: _truncated,
    ev.SampledWithoutReplacement: _without_replacement,
    ev.ShuffledBatches: _shuffled,
    ev.MixtureOfGaussians: _mixture,
}


def refuse(event: ev.Event, accountant: str) -> Refusal:
    """Return the refusal of an event that an accountant has no function for."""
    if isinstance(event, ev.NonPrivate):
        return infinite(event, f"released data without protection {event.reason}".rstrip())
    if isinstance(event, ev.Unsupported):
        return unsupported(event, event.description)
    if isinstance(event, ev.RepeatAndSelect | ev.ZeroConcentratedDp):
        return unsupported(event, f"no privacy loss distribution is known, so {accountant} has no bound; RDP has one")
    if isinstance(event, discrete.DiscreteEvent):
        return unsupported(
            event,
            "no privacy loss distribution is known for integer noise on vectors (the worst shift of given L1 and L2 "
            "norms is not known); use the accountant 'rdp'",
        )
    return unsupported(event, f"the {accountant} accountant does not know it")


def pld_of(event: ev.Event, *, relation: Relation, step: float = DISCRETIZATION) -> Pld:
    """Return the privacy loss distribution of an event on a grid of width `step`.

    Raises: UnsupportedEvent if there is none, Refusal if epsilon is infinite, TooFine if the grid is too large.
    """
    parts = flattened(event)
    gaussians = [part for part in parts if isinstance(part, ev.Gaussian | ev.TreeAggregation)]
    together = ev.Composed(events=tuple(ev.SelfComposed(event=part, count=parts[part]) for part in gaussians))
    multiplier = effective_gaussian(together, with_trees=True)
    total = None if multiplier is None else _gaussian(gaussians[0], multiplier, 1.0, relation, step)
    for part, count in parts.items():
        if part in gaussians:
            continue
        if type(part) not in _ACCOUNTS:
            raise refuse(part, "PLD")
        loss = _ACCOUNTS[type(part)](part, relation, step).mapped(partial(self_composed, count=count))
        total = loss if total is None else total.plus(loss)
    return identity(step) if total is None else total
