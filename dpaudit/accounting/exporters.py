"""Our events as events of dp-accounting, to hand them to another program or to ask dp-accounting itself."""

from collections.abc import Callable
from typing import Any

from dpaudit import events as ev
from dpaudit.errors import UsageError


def _tree(event: ev.TreeAggregation, dp: Any) -> Any:
    trees = [dp.dp_event.SingleEpochTreeAggregationDpEvent(event.noise_multiplier, steps) for steps in event.steps]
    return dp.ComposedDpEvent(trees)


def _without_replacement(event: ev.SampledWithoutReplacement, dp: Any) -> Any:
    return dp.dp_event.SampledWithoutReplacementDpEvent(
        event.population, event.sample_size, to_dp_accounting(event.event)
    )


def _truncated(event: ev.TruncatedPoissonGaussian, dp: Any) -> Any:
    return dp.dp_event.TruncatedSubsampledGaussianDpEvent(
        event.dataset_size, event.sampling_rate, event.max_batch_size, event.noise_multiplier
    )


_CONVERTERS: dict[type, Callable[[Any, Any], Any]] = {
    ev.NoOp: lambda _, dp: dp.NoOpDpEvent(),
    ev.NonPrivate: lambda _, dp: dp.NonPrivateDpEvent(),
    ev.Gaussian: lambda e, dp: dp.GaussianDpEvent(e.noise_multiplier),
    ev.Laplace: lambda e, dp: dp.LaplaceDpEvent(e.noise_multiplier),
    ev.SelfComposed: lambda e, dp: dp.SelfComposedDpEvent(to_dp_accounting(e.event), e.count),
    ev.Composed: lambda e, dp: dp.ComposedDpEvent([to_dp_accounting(item) for item in e.events]),
    ev.PoissonSampled: lambda e, dp: dp.PoissonSampledDpEvent(e.sampling_rate, to_dp_accounting(e.event)),
    ev.SampledWithoutReplacement: _without_replacement,
    ev.TruncatedPoissonGaussian: _truncated,
    ev.TreeAggregation: _tree,
    ev.RepeatAndSelect: lambda e, dp: dp.dp_event.RepeatAndSelectDpEvent(to_dp_accounting(e.event), e.mean, e.shape),
    ev.MixtureOfGaussians: lambda e, dp: dp.dp_event.MixtureOfGaussiansDpEvent(
        e.noise_multiplier, e.sensitivities, e.probabilities
    ),
    ev.ZeroConcentratedDp: lambda e, dp: dp.dp_event.ZCDpEvent(e.rho, e.xi),
}


def to_dp_accounting(event: ev.Event) -> Any:
    """Convert to an event of dp-accounting.

    Raises: UsageError for an event that dp-accounting has no words for (a public coin, a black box, shuffled passes).
    """
    import dp_accounting

    if type(event) not in _CONVERTERS:
        raise UsageError(f"dp-accounting has no event for {type(event).__name__}.")
    return _CONVERTERS[type(event)](event, dp_accounting)
