"""Privacy histories of other tools, as events: what they recorded, read with the meaning they documented.

Nothing is guessed: a sampler or a unit that the other tool does not record has to be named by the caller, and an
event without a counterpart becomes `Unsupported`, which every accountant refuses.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

from dpaudit import _validate
from dpaudit import events as ev
from dpaudit.errors import DataError, UsageError

_SAMPLERS = ("poisson", "without-replacement", "shuffle", "none")


def steps_of(
    noise_multiplier: float,
    *,
    sampling_rate: float,
    steps: int,
    sampler: str = "poisson",
    population: int | None = None,
) -> ev.SelfComposed:
    """Return `steps` steps of a Gaussian mechanism on batches drawn by a sampler.

    Args:
        noise_multiplier: standard deviation of the noise over the norm that a unit contributes at most.
        sampling_rate: expected share of the units in a batch.
        steps: number of steps.
        sampler: "poisson"; "without-replacement" (fixed-size batches, fresh for every step); "shuffle" (passes over
            a shuffled data set: no amplification, one participation per pass); "none" (a unit may be in every step).
        population: number of units, for without-replacement; only its ratio to the batch matters.

    Raises: UsageError.
    """
    _validate.one_of(_SAMPLERS, sampler=sampler)
    _validate.sampling_rate(sampling_rate=sampling_rate)
    _validate.positive_integer(steps=steps)
    gaussian = ev.Gaussian(noise_multiplier=noise_multiplier)
    if sampler == "none":
        return ev.SelfComposed(event=gaussian, count=steps)
    if sampler == "shuffle":
        passes = math.ceil(steps * sampling_rate * (1 - 1e-12))
        batches = max(1, round(1 / sampling_rate))
        return ev.SelfComposed(event=ev.ShuffledBatches(event=gaussian, batches=batches), count=passes)
    if sampler == "without-replacement":
        share = Fraction(sampling_rate).limit_denominator(10**6)
        if population is not None:
            share = Fraction(max(1, math.ceil(sampling_rate * population * (1 - 1e-12))), population)
        if share <= 0:
            raise UsageError(f"sampling_rate = {sampling_rate:g} is less than one unit in a million; give population.")
        batch = ev.SampledWithoutReplacement(population=share.denominator, sample_size=share.numerator, event=gaussian)
        return ev.SelfComposed(event=batch, count=steps)
    batch_event = gaussian if sampling_rate == 1 else ev.PoissonSampled(sampling_rate=sampling_rate, event=gaussian)
    return ev.SelfComposed(event=batch_event, count=steps)


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
    aggregation, discrete Gaussian, Skellam: `UnsupportedDpEvent` in 0.9.0) give `Unsupported`: record their event
    by hand. The round covers every record; put a sampler around it if there was one.

    Raises: DataError if the object is no DPQuery.
    """
    for method in ("initial_global_state", "initial_sample_state", "get_noised_result"):
        if not callable(getattr(query, method, None)):
            raise DataError(f"expected a tensorflow-privacy DPQuery; {type(query).__name__} has no {method}().")
    state = query.initial_global_state()
    _, _, event = query.get_noised_result(query.initial_sample_state(template), state)
    return from_dp_accounting(event)


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


def from_opacus(history_or_state: Any, *, sampler: str = "poisson") -> ev.Event:
    """Return the event of an Opacus accountant, its `history`, or its `state_dict()`.

    The history is a list of (noise multiplier, sample rate, steps). Opacus accounts for Poisson sampling whatever
    the data loader did: say `sampler="shuffle"` if `poisson_sampling=False` was used.

    Raises: DataError if there is no history in it.
    """
    source = getattr(history_or_state, "history", history_or_state)
    if isinstance(source, Mapping):
        source = source.get("history")
    if not isinstance(source, list | tuple):
        raise DataError("expected an Opacus accountant, its history or its state_dict; there is no history in it.")
    items = []
    for number, entry in enumerate(source):
        if not isinstance(entry, list | tuple) or len(entry) != 3:
            raise DataError(f"entry {number} of the Opacus history must be (noise, rate, steps); got {entry!r}.")
        noise, rate, steps = entry
        items.append(steps_of(noise, sampling_rate=rate, steps=steps, sampler=sampler))
    return items[0] if len(items) == 1 else ev.Composed(events=tuple(items))


_NAMES = {
    "noise_multiplier": ("noise_multiplier", "noise-multiplier", "sigma"),
    "sampling_rate": ("sampling_rate", "sampling_prob", "sampling_probability", "sample_rate", "q"),
    "steps": ("steps", "iterations", "num_steps", "num_rounds", "rounds", "num_updates"),
}


def _named(parameters: Mapping[str, Any], wanted: str) -> Any:
    found = [name for name in _NAMES[wanted] if name in parameters]
    if len(found) > 1:
        raise DataError(f"{wanted} is given more than once: {', '.join(found)}.")
    return parameters[found[0]] if found else None


def from_parameters(parameters: Mapping[str, Any], *, sampler: str | None = None) -> ev.Event:
    """Return the event of a dictionary of parameters, as Flower or JAX-Privacy programs keep them.

    Understood are a noise multiplier, a number of steps (JAX-Privacy's `iterations`, Flower's `num_rounds`) and a
    sampling rate (JAX-Privacy's `sampling_prob`), or Flower's `num_sampled_clients` with `num_available_clients`.
    Flower samples a fixed number of clients without replacement, so that the latter means "without-replacement"; a rate
    means "poisson". `sampler`, here or as a key of the dictionary, says otherwise.

    Raises: DataError if something needed is missing.
    """
    noise, rate, steps = (_named(parameters, name) for name in _NAMES)
    sampled, available = parameters.get("num_sampled_clients"), parameters.get("num_available_clients")
    if rate is None and sampled is not None and available is not None:
        population, rate, usual = int(available), sampled / available, "without-replacement"
    else:
        population, usual = None, "poisson"
    missing = [name for name, value in zip(_NAMES, (noise, rate, steps), strict=True) if value is None]
    if missing:
        raise DataError(f"the parameters lack {', '.join(missing)}; found {', '.join(map(str, parameters)) or 'none'}.")
    chosen = sampler or parameters.get("sampler") or usual
    return steps_of(noise, sampling_rate=rate, steps=steps, sampler=chosen, population=population)
