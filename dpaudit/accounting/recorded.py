"""Facts that contradict the events beside them: then no number computed from the events is a bound."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dpaudit import events as ev
from dpaudit.accounting.discrete import DiscreteEvent
from dpaudit.accounting.pld import effective_gaussian
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import Relation
from dpaudit.samplers import recorded_samplers, uncovered_samplers

_REALISED = ("realised", "realized", "actual", "batch", "cohort")
_TOLERANCE = 1e-6
_WRAPPERS = (
    ev.PoissonSampled, ev.PubliclySampled, ev.SampledWithoutReplacement, ev.ShuffledBatches, ev.SelfComposed,
    ev.RepeatAndSelect,
)  # fmt: skip
_BLACK_BOXES = (ev.NoOp, ev.NonPrivate, ev.ApproximateDp, ev.ZeroConcentratedDp, ev.Unsupported)
_READ = ("sampler", "denominator", "microbatch_size", "clip_norm", "noise_stddev")


def _number(value: object) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable and isinstance(value, int | float) else None


def counted_noise(event: ev.Event) -> float | None:
    """Return the noise multiplier that one release is accounted with; None if it holds more than Gaussians."""
    while isinstance(event, _WRAPPERS):
        event = event.event
    if isinstance(event, ev.TruncatedPoissonGaussian | ev.MixtureOfGaussians | DiscreteEvent):
        return event.noise_multiplier
    return effective_gaussian(event)


def _sampler(event: ev.Event, facts: Mapping[str, Any]) -> str | None:
    """The trap of accounting for Poisson samples where batches were shuffled (arXiv:2411.10614)."""
    ran = recorded_samplers(facts)
    wrong = uncovered_samplers(event, ran)
    return f"sampler {' and '.join(sorted(ran))} ran, the accounting takes credit for {wrong[0]}" if wrong else None


def _denominator(facts: Mapping[str, Any]) -> str | None:
    """The trap of dividing by the batch that came: its size tells who was there (arXiv:2605.15648)."""
    if str(facts.get("denominator")).lower() not in _REALISED:
        return None
    return (
        "sums were divided by the realised number of participants, so that one unit moves the share of every other. "
        "Divide by a fixed number, and record it"
    )


def _clip(event: ev.Event, facts: Mapping[str, Any], relation: Relation) -> str | None:
    """The trap of micro-batches: clipping their mean lets one unit turn it around (arXiv:2303.00654, Section 5.6).

    It moves by two norms, which is what replace-one counts anyway.
    """
    size = _number(facts.get("microbatch_size"))
    if size is None or size <= 1 or relation == Relation.REPLACE_ONE:
        return None
    counted, added = counted_noise(event), _added_noise(facts)
    if counted is not None and added is not None and counted <= added / 2 * (1 + _TOLERANCE):
        return None
    return (
        f"micro-batches of {size:g} were clipped as one, so that one unit changes a sum by two clip norms, and the "
        "event does not show half the noise multiplier. Record it so, with clip_norm and noise_stddev"
    )


def _added_noise(facts: Mapping[str, Any]) -> float | None:
    clip, stddev = _number(facts.get("clip_norm")), _number(facts.get("noise_stddev"))
    return stddev / clip if clip and stddev is not None else None


def _noise(event: ev.Event, facts: Mapping[str, Any]) -> str | None:
    counted, added = counted_noise(event), _added_noise(facts)
    if counted is None or added is None or counted <= added * (1 + _TOLERANCE):
        return None
    return (
        f"noise_stddev / clip_norm = {added:.6g} was recorded, the accounting counts on a noise multiplier of "
        f"{counted:.6g}"
    )


def contradictions(event: ev.Event, facts: Mapping[str, Any], relation: Relation) -> dict[str, str]:
    """Return what facts say against the event that they were recorded with, by the id of the assumption."""
    if isinstance(event, _BLACK_BOXES):  # they state their cost, whatever happened inside
        return {}
    found = {
        "sampler": _sampler(event, facts),
        "denominator": _denominator(facts),
        "clip": _clip(event, facts, relation),
        "noise": _noise(event, facts),
    }
    return {key: text for key, text in found.items() if text is not None}


def contradicted_lines(ledgers: Sequence[PrivacyLedger], relation: Relation) -> dict[str, str]:
    """Return what the facts of ledgers (of a line, else of the header) say against their events, and the first line."""
    found: dict[str, str] = {}
    for ledger in ledgers:
        seen: set[str] = set()
        for line in ledger.events():
            facts = {key: line.facts.get(key, ledger.facts.get(key)) for key in _READ}
            if line.event is None or (key := f"{line.event}{facts}") in seen:
                continue
            seen.add(key)
            for id_, text in contradictions(line.event, facts, relation).items():
                found.setdefault(id_, f"ledger line {line.seq + 1}: {text}")
    return found


def no_bound(found: Mapping[str, str]) -> str:
    """Return why contradicted events have no epsilon."""
    return f"the recorded facts contradict the events that would be accounted for. {'; '.join(found.values())}."
