"""What an upper bound rests on, taken from the facts that a ledger declares; nothing here is checked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dpaudit import events as ev
from dpaudit.accounting.pld import flattened
from dpaudit.records import Assumption, AssumptionStatus, Relation


def without_amplification(event: ev.Event) -> ev.Event:
    """Return the event with every unit present whenever it may be: secret samplers and public coins taken out.

    Fixed-size samples keep their price of two contributions that differ by 2 (a unit pushes another out).
    """
    match event:
        case ev.PoissonSampled() | ev.PubliclySampled():
            return without_amplification(event.event) if event.sampling_rate > 0 else ev.NoOp()
        case ev.SampledWithoutReplacement():
            return replace(event, population=event.sample_size)
        case ev.TruncatedPoissonGaussian():
            halved = ev.Gaussian(noise_multiplier=event.noise_multiplier / 2)
            return (
                halved
                if event.max_batch_size < event.dataset_size
                else ev.Gaussian(noise_multiplier=event.noise_multiplier)
            )
        case ev.MixtureOfGaussians():
            largest = max(event.sensitivities)
            return ev.Gaussian(noise_multiplier=event.noise_multiplier / largest) if largest else ev.NoOp()
        case ev.ShuffledBatches() | ev.SelfComposed() | ev.RepeatAndSelect():
            return replace(event, event=without_amplification(event.event))
        case ev.Composed():
            return ev.Composed(events=tuple(without_amplification(item) for item in event.events))
    return event


_REALISED = ("realised", "realized", "actual", "batch", "cohort")
_TUNING = "hyper-parameters were not chosen by looking at these people's data, unless the search is in the ledger"
_SAMPLERS = {
    ev.PoissonSampled: "each unit enters each batch independently and in secret (Poisson sampling)",
    ev.PubliclySampled: "each unit takes part by an independent coin that may be public",
    ev.TruncatedPoissonGaussian: "batches are Poisson samples cut at random to a largest size",
    ev.SampledWithoutReplacement: "batches are fixed-size uniform samples without replacement, in secret",
    ev.ShuffledBatches: "batches are passes over a shuffled data set; no amplification is counted, and the "
    "number of units and the bounds of batches are taken as public (a missing unit leaves its place empty)",
    ev.TreeAggregation: "each unit takes part at most once per tree, and restarts cut the stream as recorded",
    ev.RepeatAndSelect: "the number of runs was drawn from the stated distribution, and only the best run is released",
    ev.MixtureOfGaussians: "the units of a group enter each batch independently and in secret",
    ev.ZeroConcentratedDp: "a black-box release keeps the zero-concentrated bound that it states",
    ev.ApproximateDp: "a black-box release keeps the (epsilon, delta) that it states",
}


def kinds_of(event: ev.Event) -> set[type]:
    """Return the types of all events inside an event."""
    found: set[type] = set()
    for part in flattened(event):
        found.add(type(part))
        inner = getattr(part, "event", None)
        if inner is not None:
            found |= kinds_of(inner)
    return found


@dataclass(frozen=True, slots=True)
class _Facts:
    """Facts, and where they were declared."""

    facts: Mapping[str, Any]
    source: str

    def assumption(self, id_: str, text: str, key: str) -> Assumption:
        """Return an assumption that is declared if its fact is there, and not checked otherwise."""
        value = self.facts.get(key)
        if value is None:
            return Assumption(id=id_, text=f"{text}: not recorded")
        evidence = f"{self.source}, fact {key!r}"
        return Assumption(id=id_, text=f"{text}: {value}", status=AssumptionStatus.DECLARED, evidence=evidence)

    def refuted(self, id_: str, text: str, key: str) -> Assumption:
        """Return an assumption that its fact contradicts."""
        return Assumption(id=id_, text=text, status=AssumptionStatus.REFUTED, evidence=f"{self.source}, fact {key!r}")


def _denominator(facts: _Facts) -> Assumption:
    """The trap of dividing by the batch that came: its size tells who was there (arXiv:2605.15648)."""
    if str(facts.facts.get("denominator")).lower() in _REALISED:
        text = "sums are divided by the realised number of participants, so that one unit moves every other's share"
        return facts.refuted("denominator", text, "denominator")
    return facts.assumption(
        "denominator", "sums are divided by a number that does not depend on who came", "denominator"
    )


def _clip(facts: _Facts) -> Assumption:
    """The trap of micro-batches: clipping their mean lets one unit change it by two norms (arXiv:2303.00654, 5.6)."""
    size = facts.facts.get("microbatch_size")
    if isinstance(size, int | float) and size > 1:
        text = f"micro-batches of {size} are clipped as one: record the event with half its noise multiplier"
        return facts.refuted("clip", text, "microbatch_size")
    return facts.assumption("clip", "norm that one unit contributes at most to a sum", "clip_norm")


def assumptions_of(
    event: ev.Event, facts: Mapping[str, Any], relation: Relation, *, source: str = "ledger header"
) -> tuple[Assumption, ...]:
    """Return the assumptions behind the bounds on an event; `facts` are what `source` declares of the run."""
    kinds, known = kinds_of(event), _Facts(facts, source)
    samplers = [text for kind, text in _SAMPLERS.items() if kind in kinds] or ["every unit may take part in every step"]
    relations = Assumption(
        id="relation",
        text=f"neighbouring relation: {relation.value}",
        status=AssumptionStatus.DECLARED,
        evidence=f"{source}, fact 'relation'" if "relation" in facts else "argument",
    )
    return (
        relations,
        known.assumption("unit", "privacy unit", "unit"),
        known.assumption("sampler", f"{'; '.join(samplers)}; declared sampler", "sampler"),
        _clip(known),
        _denominator(known),
        known.assumption(
            "noise-generator", "generator of the noise, taken as ideal real-valued noise", "noise_generator"
        ),
        known.assumption("tuning", _TUNING, "hyperparameter_search"),
        Assumption(id="complete", text="the ledger holds every release that was computed from these people's data"),
    )
