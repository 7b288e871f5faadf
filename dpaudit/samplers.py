"""Which sampler an accounting relies on, and which one a ledger says ran."""

from collections.abc import Mapping
from typing import Any

from dpaudit import events as ev

COVERED = {
    "poisson": {"poisson"},
    "public-coin": {"poisson", "without-replacement"},
    "truncated-poisson": {"truncated-poisson", "poisson-padded"},
    "without-replacement": {"without-replacement"},
    "shuffle": {"shuffle"},
    "once-per-tree": {"once-per-tree", "shuffle"},
}
"""The samplers that may have run where the accounting relies on the one that is the key."""

_SAMPLED = ev.PoissonSampled | ev.PubliclySampled | ev.TruncatedPoissonGaussian
_OWN_SAMPLER: dict[type, str] = {
    ev.TruncatedPoissonGaussian: "truncated-poisson",
    ev.SampledWithoutReplacement: "without-replacement",
    ev.ShuffledBatches: "shuffle",
    ev.TreeAggregation: "once-per-tree",
}


def credited_samplers(event: ev.Event) -> set[str]:
    """Return the samplers that the accounting of an event relies on."""
    found = {_OWN_SAMPLER[type(event)]} if type(event) in _OWN_SAMPLER else set()
    if isinstance(event, ev.PoissonSampled | ev.PubliclySampled) and event.sampling_rate < 1:
        found.add("poisson" if isinstance(event, ev.PoissonSampled) else "public-coin")
    if isinstance(event, ev.Composed):
        return found.union(*(credited_samplers(item) for item in event.events))
    inner = getattr(event, "event", None)
    return found | credited_samplers(inner) if inner is not None else found


def credited_rates(event: ev.Event) -> set[float]:
    """Return the sampling rates below 1 that an event is accounted with."""
    found = {event.sampling_rate} if isinstance(event, _SAMPLED) and event.sampling_rate < 1 else set()
    if isinstance(event, ev.Composed):
        return found.union(*(credited_rates(item) for item in event.events))
    inner = getattr(event, "event", None)
    return found | credited_rates(inner) if inner is not None else found


def recorded_samplers(facts: Mapping[str, Any]) -> set[str]:
    """Return the samplers that the facts of a ledger line say ran: a word, a table with `kind`, or a word per level."""
    stated = facts.get("sampler")
    if isinstance(stated, Mapping):
        values = [stated["kind"]] if "kind" in stated else list(stated.values())
    else:
        values = [stated]
    return {value.casefold().replace("_", "-") for value in values if isinstance(value, str)}


def recorded_rates(facts: Mapping[str, Any]) -> list[float] | None:
    """Return the sampling rates in the sampler's table (keys that end in `rate`); None where it holds none."""
    stated = facts.get("sampler")
    if not isinstance(stated, Mapping):
        return None
    rates = [
        float(value)
        for key, value in stated.items()
        if str(key).endswith("rate") and key != "dropout_rate" and isinstance(value, int | float)
    ]
    return rates or None


def uncovered_samplers(event: ev.Event, ran: set[str]) -> list[str]:
    """Return the samplers that the accounting of an event relies on although others ran; none if none is recorded."""
    return sorted(name for name in credited_samplers(event) if ran and not ran & COVERED[name])
