"""Group privacy: from one unit to k of them, and so from examples to the people or clients who hold them."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import gammaln

from dpaudit import _validate
from dpaudit import events as ev
from dpaudit.accounting._source import Source, event_of, ledgers_of
from dpaudit.accounting.discrete import DiscreteEvent
from dpaudit.accounting.pld import effective_gaussian, joint_sample, unsupported
from dpaudit.errors import UsageError
from dpaudit.records import Unit


def _log_choose(n: float, k: np.ndarray[Any, Any] | float) -> Any:
    return gammaln(n + 1) - gammaln(np.asarray(k) + 1) - gammaln(n - np.asarray(k) + 1)


def _normalised(probabilities: np.ndarray[Any, Any]) -> tuple[float, ...]:
    return tuple(float(p) for p in probabilities / probabilities.sum())


def _gaussian(event: ev.Gaussian | ev.Laplace | ev.TreeAggregation, k: int) -> ev.Event:
    return replace(event, noise_multiplier=event.noise_multiplier / k)


def _integers(event: DiscreteEvent, k: int) -> ev.Event:
    return replace(event, l2_norm=event.l2_norm * k, l1_norm=event.l1_norm * k)


def _poisson(event: ev.PoissonSampled, k: int) -> ev.Event:
    """Return the mixture of what 0..k members in the sample contribute (Ganesh, arXiv:2401.10294)."""
    rate, inner = joint_sample(event)
    multiplier = effective_gaussian(inner)
    if rate in (0.0, 1.0):
        return group_event(inner, k) if rate else ev.NoOp()
    if multiplier is None:
        raise unsupported(event, "for groups, Poisson sampling is known here for Gaussian events only")
    members = np.arange(k + 1)
    logs = _log_choose(k, members) + members * math.log(rate) + (k - members) * math.log1p(-rate)
    return ev.MixtureOfGaussians(
        noise_multiplier=multiplier,
        sensitivities=tuple(float(m) for m in members),
        probabilities=_normalised(np.exp(logs)),
    )


def _without_replacement(event: ev.SampledWithoutReplacement, k: int) -> ev.Event:
    """Return the mixture over the number of members in the sample; each pushes out another, a difference of 2."""
    multiplier, n, b = effective_gaussian(event.event), event.population, event.sample_size
    if multiplier is None or k > n:
        raise unsupported(
            event, "for groups, sampling without replacement is known for Gaussians, and groups within it"
        )
    members = np.arange(max(0, b - (n - k)), min(k, b) + 1)
    logs = _log_choose(k, members) + _log_choose(n - k, b - members) - _log_choose(n, b)
    return ev.MixtureOfGaussians(
        noise_multiplier=multiplier,
        sensitivities=tuple(2.0 * m for m in members),
        probabilities=_normalised(np.exp(logs)),
    )


def _public(event: ev.PubliclySampled, k: int) -> ev.Event:
    """Return an upper bound: with probability 1 - (1 - p)^k some member takes part, and then at most all of them."""
    rate = -math.expm1(k * math.log1p(-event.sampling_rate)) if event.sampling_rate < 1 else 1.0
    return ev.PubliclySampled(sampling_rate=rate, event=group_event(event.event, k))


def _black_box(event: ev.ApproximateDp, k: int) -> ev.Event:
    """Return (k epsilon, delta (e^(k epsilon) - 1) / (e^epsilon - 1)) (Vadhan 2017, Lemma 2.2)."""
    epsilon = event.epsilon
    factor = k if epsilon == 0 else math.expm1(min(k * epsilon, 700.0)) / math.expm1(min(epsilon, 700.0))
    return ev.ApproximateDp(epsilon=k * epsilon, delta=min(1.0, event.delta * factor))


def _inside(event: Any, k: int) -> ev.Event:
    grouped: ev.Event = replace(event, event=group_event(event.event, k))
    return grouped


def _same(event: ev.Event, k: int) -> ev.Event:  # noqa: ARG001 - for groups of any size
    return event


def _all_inside(event: ev.Composed, k: int) -> ev.Event:
    return ev.Composed(events=tuple(group_event(item, k) for item in event.events))


_GROUPS: dict[type, Callable[[Any, int], ev.Event]] = {
    ev.NoOp: _same,
    ev.NonPrivate: _same,
    ev.Unsupported: _same,
    ev.Gaussian: _gaussian,
    ev.Laplace: _gaussian,
    ev.TreeAggregation: _gaussian,
    ev.DistributedDiscreteGaussian: _integers,
    ev.Skellam: _integers,
    ev.PoissonSampled: _poisson,
    ev.SampledWithoutReplacement: _without_replacement,
    ev.PubliclySampled: _public,
    ev.ApproximateDp: _black_box,
    ev.ShuffledBatches: _inside,
    ev.SelfComposed: _inside,
    ev.RepeatAndSelect: _inside,
    ev.Composed: _all_inside,
}


def group_event(event: ev.Event, size: int) -> ev.Event:
    """Return what an event, described for one unit, is for a group of `size` units that come or go together.

    The result is for add-or-remove (of the whole group); its accountants refuse replace-one where mixtures arise.

    Raises: UsageError unless size >= 1, UnsupportedEvent where no bound for groups is known.
    """
    _validate.positive_integer(size=size)
    if size == 1:
        return event
    if type(event) not in _GROUPS:
        raise unsupported(event, "no bound for groups is known here")
    return _GROUPS[type(event)](event, size)


def convert_unit(
    event: ev.Event, *, recorded: Unit | str, wanted: Unit | str, max_examples_per_client: int | None = None
) -> ev.Event:
    """Return an event recorded for one unit of privacy as one for another.

    From examples to clients this is group privacy, and needs a cap on the examples of a client that was enforced.
    From clients to examples it is refused: without one example a client still takes part and may send anything of
    norm at most 1 in place of what it sent, a replacement and no removal.

    Raises: UsageError where the conversion is not valid.
    """
    _validate.one_of(tuple(Unit), recorded=recorded, wanted=wanted)
    source, target = Unit(recorded), Unit(wanted)
    if source == target:
        return event
    if target == Unit.CLIENT:
        if max_examples_per_client is None:
            raise UsageError(
                "client-level privacy from an example-level ledger needs max_examples_per_client, a cap that the "
                "training enforced; without a cap there is no client-level guarantee."
            )
        return group_event(event, max_examples_per_client)
    raise UsageError(
        "an example-level guarantee does not follow from a client-level one under add-or-remove-one: a client that "
        "loses an example still takes part. Ask for the client level, or for replace-one."
    )


def event_at(source: Source, *, unit: Unit | str | None = None, max_examples_per_client: int | None = None) -> ev.Event:
    """Return the one event that a source amounts to for a unit of privacy, each ledger converted from its own.

    Ledgers that do not say their unit, and events, are taken to be for `unit`. The cap on the examples of a client is
    the argument, else the ledger's fact `max_examples_per_client`.

    Raises: UsageError where a conversion is not valid, or ledgers of different units meet without `unit`.
    """
    ledgers = ledgers_of(source)
    if unit is None or not ledgers:
        return event_of(source)
    converted = [
        convert_unit(
            event_of(ledger),
            recorded=ledger.facts.get("unit") or unit,
            wanted=unit,
            max_examples_per_client=max_examples_per_client or ledger.facts.get("max_examples_per_client"),
        )
        for ledger in ledgers
    ]
    return converted[0] if len(converted) == 1 else ev.Composed(events=tuple(converted))
