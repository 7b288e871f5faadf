"""The same privacy loss distributions through dp-accounting: a second implementation that must agree with ours."""

from collections.abc import Callable
from typing import Any

from dpaudit import events as ev
from dpaudit.accounting.pld import DISCRETIZATION, effective_gaussian, flattened, tree_multiplier
from dpaudit.records import Relation

_MIXTURE_STEP = 1e-3
_MOST_STEPS = 2_000_000  # beyond, dp-accounting's windows grow without bound
WITNESS_UP_TO = 200.0  # epsilon: beyond, dp-accounting's grids take minutes


def _library() -> Any:
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution


def _relation(relation: Relation) -> Any:
    import dp_accounting

    return dp_accounting.NeighboringRelation[relation.name]


def _gaussian(multiplier: float, rate: float, relation: Relation, step: float) -> Any:
    return _library().from_gaussian_mechanism(
        multiplier,
        sampling_prob=rate,
        value_discretization_interval=step,
        neighboring_relation=_relation(relation),
    )


def _sampled(event: ev.PoissonSampled, relation: Relation, step: float) -> Any:
    multiplier = effective_gaussian(event.event)
    if multiplier and event.sampling_rate > 0:
        return _gaussian(multiplier, event.sampling_rate, relation, step)
    inner = event.event
    if isinstance(inner, ev.Laplace) and inner.noise_multiplier and relation == Relation.ADD_OR_REMOVE_ONE:
        return _library().from_laplace_mechanism(
            inner.noise_multiplier, sampling_prob=event.sampling_rate, value_discretization_interval=step
        )
    return None


def _laplace(event: ev.Laplace, relation: Relation, step: float) -> Any:
    if event.noise_multiplier == 0 or relation == Relation.REPLACE_ONE:
        return None
    return _library().from_laplace_mechanism(event.noise_multiplier, value_discretization_interval=step)


def _plain_gaussian(event: ev.Gaussian, relation: Relation, step: float) -> Any:
    return _gaussian(event.noise_multiplier, 1.0, relation, step) if event.noise_multiplier else None


def _tree(event: ev.TreeAggregation, relation: Relation, step: float) -> Any:
    return _gaussian(tree_multiplier(event), 1.0, relation, step) if event.noise_multiplier else None


def _public(event: ev.PubliclySampled, relation: Relation, step: float) -> Any:
    inner = witness_pld(event.event, relation=relation, step=step)
    return None if inner is None else inner.compute_mixture(_library().identity(step), event.sampling_rate)


def _shuffled(event: ev.ShuffledBatches, relation: Relation, step: float) -> Any:
    return witness_pld(event.event, relation=relation, step=step)


def _truncated(event: ev.TruncatedPoissonGaussian, relation: Relation, step: float) -> Any:
    if event.noise_multiplier == 0:
        return None
    return _library().from_truncated_subsampled_gaussian_mechanism(
        dataset_size=event.dataset_size,
        sampling_probability=event.sampling_rate,
        truncated_batch_size=event.max_batch_size,
        noise_multiplier=event.noise_multiplier,
        value_discretization_interval=step,
        neighboring_relation=_relation(relation),
    )


def _without_replacement(event: ev.SampledWithoutReplacement, relation: Relation, step: float) -> Any:
    multiplier = effective_gaussian(event.event)
    if not multiplier or relation == Relation.REPLACE_ONE:
        return None
    return _gaussian(multiplier / 2, min(1.0, event.sample_size / event.population), relation, step)


def _mixture(event: ev.MixtureOfGaussians, relation: Relation, step: float) -> Any:
    too_slow = step < _MIXTURE_STEP  # dp-accounting takes a minute there
    if too_slow or event.noise_multiplier == 0 or relation == Relation.REPLACE_ONE:
        return None
    return _library().from_mixture_gaussian_mechanism(
        event.noise_multiplier,
        sensitivities=event.sensitivities,
        sampling_probs=event.probabilities,
        value_discretization_interval=step,
    )


def _black_box(event: ev.ApproximateDp, relation: Relation, step: float) -> Any:  # noqa: ARG001 - same for all
    from dp_accounting.pld.common import DifferentialPrivacyParameters

    return _library().from_privacy_parameters(DifferentialPrivacyParameters(event.epsilon, event.delta), step)


_WITNESSES: dict[type, Callable[[Any, Relation, float], Any]] = {
    ev.Gaussian: _plain_gaussian,
    ev.TreeAggregation: _tree,
    ev.Laplace: _laplace,
    ev.PoissonSampled: _sampled,
    ev.PubliclySampled: _public,
    ev.ShuffledBatches: _shuffled,
    ev.TruncatedPoissonGaussian: _truncated,
    ev.SampledWithoutReplacement: _without_replacement,
    ev.MixtureOfGaussians: _mixture,
    ev.ApproximateDp: _black_box,
}


def witness_pld(event: ev.Event, *, relation: Relation, step: float = DISCRETIZATION) -> Any:
    """Return dp-accounting's PrivacyLossDistribution of an event, or None where it has none."""
    total = _library().identity(step)
    for part, count in flattened(event).items():
        if count > _MOST_STEPS or type(part) not in _WITNESSES:
            return None
        loss = _WITNESSES[type(part)](part, relation, step)
        if loss is None:
            return None
        total = total.compose(loss.self_compose(count))
    return total


def witness_epsilon(event: ev.Event, delta: float, *, relation: Relation, step: float = DISCRETIZATION) -> float | None:
    """Return dp-accounting's PLD bound on epsilon at `delta`, or None where it has none."""
    multiplier = effective_gaussian(event, with_trees=True)
    loss = (
        _gaussian(multiplier, 1.0, relation, step) if multiplier else witness_pld(event, relation=relation, step=step)
    )
    return None if loss is None else float(loss.get_epsilon_for_delta(delta))
