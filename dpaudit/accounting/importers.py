"""Events and queries of dp-accounting, JAX-Privacy and tensorflow-privacy, as events of ours.

Nothing is guessed: an event without a counterpart becomes `Unsupported`, which every accountant refuses.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

from dpaudit import _validate
from dpaudit import events as ev
from dpaudit.accounting.steps import steps_of
from dpaudit.errors import DataError, UsageError


def _randomised_response(event: Any) -> ev.Event:
    p, k = event.noise_parameter, event.num_buckets
    if k == 1 or p == 1:
        return ev.NoOp()
    if p == 0:
        return ev.NonPrivate(reason="(randomised response without noise)")
    return ev.ApproximateDp(epsilon=math.log(k / p - k + 1))


def _single_epoch_tree(event: Any) -> ev.Event:
    """Convert one epoch of trees: a unit occurs at most once across all of them, so the deepest tree decides."""
    counts = event.step_counts
    deepest = max(counts, default=0) if isinstance(counts, Iterable) else counts
    if not deepest:
        return ev.NoOp()
    return ev.TreeAggregation(noise_multiplier=float(event.noise_multiplier), steps=(int(deepest),))


def _without_replacement(event: Any) -> ev.Event:
    return ev.SampledWithoutReplacement(
        population=event.source_dataset_size, sample_size=event.sample_size, event=from_dp_accounting(event.event)
    )


def _truncated(event: Any) -> ev.Event:
    return ev.TruncatedPoissonGaussian(
        dataset_size=event.dataset_size,
        sampling_rate=event.sampling_probability,
        max_batch_size=event.truncated_batch_size,
        noise_multiplier=float(event.noise_multiplier),
    )


def _mixture(event: Any) -> ev.Event:
    """Convert; dp-accounting gives the noise as a standard deviation of outputs whose shifts are the sensitivities."""
    return ev.MixtureOfGaussians(
        noise_multiplier=float(event.standard_deviation),
        sensitivities=tuple(map(float, event.sensitivities)),
        probabilities=tuple(map(float, event.sampling_probs)),
    )


_CONVERTERS: dict[str, Callable[[Any], ev.Event]] = {
    "NoOpDpEvent": lambda _: ev.NoOp(),
    "NonPrivateDpEvent": lambda _: ev.NonPrivate(),
    "GaussianDpEvent": lambda e: ev.Gaussian(noise_multiplier=float(e.noise_multiplier)),
    "LaplaceDpEvent": lambda e: ev.Laplace(noise_multiplier=float(e.noise_multiplier)),
    "DiscreteLaplaceDpEvent": lambda e: ev.ApproximateDp(epsilon=e.noise_parameter * e.sensitivity),
    "RandomizedResponseDpEvent": _randomised_response,
    "SelfComposedDpEvent": lambda e: ev.SelfComposed(event=from_dp_accounting(e.event), count=int(e.count)),
    "ComposedDpEvent": lambda e: ev.Composed(events=tuple(map(from_dp_accounting, e.events))),
    "PoissonSampledDpEvent": lambda e: ev.PoissonSampled(
        sampling_rate=float(e.sampling_probability), event=from_dp_accounting(e.event)
    ),
    "SampledWithoutReplacementDpEvent": _without_replacement,
    "SingleEpochTreeAggregationDpEvent": _single_epoch_tree,
    "RepeatAndSelectDpEvent": lambda e: ev.RepeatAndSelect(
        event=from_dp_accounting(e.event), mean=e.mean, shape=e.shape
    ),
    "TruncatedSubsampledGaussianDpEvent": _truncated,
    "MixtureOfGaussiansDpEvent": _mixture,
    "ZCDpEvent": lambda e: ev.ZeroConcentratedDp(rho=e.rho, xi=e.xi),
}


def from_dp_accounting(event: Any) -> ev.Event:
    """Convert an event of dp-accounting (0.4 to 0.6), as JAX-Privacy and tensorflow-privacy also return.

    Numbers may be tensors, as those of tensorflow-privacy are.
    Bounds are kept: discrete Laplace noise and randomised response become the pure guarantee that they give.
    An unknown event becomes `Unsupported`.

    Raises: DataError for something that is no dp-accounting event.
    """
    name = type(event).__name__
    if not type(event).__module__.startswith("dp_accounting") and name not in _CONVERTERS:
        raise DataError(f"expected an event of dp-accounting; got {type(event).__module__}.{name}.")
    if name not in _CONVERTERS:
        return ev.Unsupported(description=f"dp-accounting's {name} has no counterpart here")
    return _CONVERTERS[name](event)


def from_tensorflow_privacy_query(query: Any, template: Any) -> ev.Event:
    """Return the event of one round of a tensorflow-privacy DPQuery, by asking the query itself.

    `template` is a tensor (or structure of tensors) like one record. Queries that do not state their cost (tree
    aggregation, discrete Gaussian, Skellam: `UnsupportedDpEvent` in 0.9.0) give `Unsupported`, which names the query:
    record a `TreeAggregation` for trees. So do queries that cannot be asked, such as trees that are seeded from the
    clock where TensorFlow is deterministic. The round covers every record; put a sampler around it if there was one.

    Raises: DataError if the object is no DPQuery.
    """
    for method in ("initial_global_state", "initial_sample_state", "get_noised_result"):
        if not callable(getattr(query, method, None)):
            raise DataError(f"expected a tensorflow-privacy DPQuery; {type(query).__name__} has no {method}().")
    name = type(query).__name__
    try:
        state = query.initial_global_state()
        _, _, event = query.get_noised_result(query.initial_sample_state(template), state)
    except Exception as error:
        why = type(error).__name__
        return ev.Unsupported(description=f"tensorflow-privacy's {name} cannot be asked what a round costs ({why})")
    return _naming(from_dp_accounting(event), name)


def _naming(event: ev.Event, query: str) -> ev.Event:
    """Return the event with the query named wherever it does not state its cost."""
    if isinstance(event, ev.Composed):
        return ev.Composed(events=tuple(_naming(item, query) for item in event.events))
    if isinstance(event, ev.Unsupported):
        return ev.Unsupported(description=f"tensorflow-privacy's {query} does not state what a round costs")
    return event


def from_compute_dp_sgd_privacy(
    *,
    number_of_examples: int,
    batch_size: int,
    num_epochs: float,
    noise_multiplier: float,
    used_microbatching: bool = True,
    poisson: bool = True,
) -> ev.Event:
    """Return the event that tensorflow-privacy's `compute_dp_sgd_privacy_statement` accounts for, same arguments.

    As there, micro-batches of more than one example halve the noise multiplier (arXiv:2303.00654, Section 5.6) and
    the number of steps is rounded up. With `poisson` False every example is in one batch per epoch.
    """
    _validate.positive_integer(number_of_examples=number_of_examples, batch_size=batch_size)
    _validate.positive(num_epochs=num_epochs)
    if batch_size > number_of_examples:
        raise UsageError(f"batch_size must be at most number_of_examples; got {batch_size} of {number_of_examples}.")
    multiplier = noise_multiplier / 2 if used_microbatching else noise_multiplier
    rate = batch_size / number_of_examples
    if poisson:
        return steps_of(multiplier, sampling_rate=rate, steps=math.ceil(num_epochs / rate))
    one_pass = ev.ShuffledBatches(
        event=ev.Gaussian(noise_multiplier=multiplier), batches=math.ceil(number_of_examples / batch_size)
    )
    return ev.SelfComposed(event=one_pass, count=math.ceil(num_epochs))
