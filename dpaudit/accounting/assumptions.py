"""What an upper bound rests on: declared by the facts of a ledger, contradicted by them, or verified by checks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dpaudit import events as ev
from dpaudit.accounting._source import SEARCH
from dpaudit.accounting.pld import flattened
from dpaudit.records import Assumption, AssumptionStatus, CheckResult, Relation, Status


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


_TUNING = "hyper-parameters were not chosen by looking at these people's data, unless the search is in the ledger"
PLACES = (
    "who has a place in a cohort and answers is public and does not depend on data; whoever has a place brings a share "
    "of the noise, a unit that was removed too (it sends zeros), and at least the promised number of shares is honest"
)
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
    ev.DistributedDiscreteGaussian: PLACES,
    ev.Skellam: PLACES,
    ev.ZeroConcentratedDp: "a black-box release keeps the zero-concentrated bound that it states",
    ev.ApproximateDp: "a black-box release keeps the (epsilon, delta) that it states",
}


def _generator(kinds: set[type]) -> str:
    integers = kinds & {ev.DistributedDiscreteGaussian, ev.Skellam}
    return f"generator of the noise, taken as {'exact integer' if integers else 'ideal real-valued'} noise"


def kinds_of(event: ev.Event) -> set[type]:
    """Return the types of all events inside an event."""
    found: set[type] = set()
    for part in flattened(event):
        found.add(type(part))
        inner = getattr(part, "event", None)
        if inner is not None:
            found |= kinds_of(inner)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """Facts, where they were declared, and what they contradict."""

    facts: Mapping[str, Any]
    source: str
    refuted: Mapping[str, str]

    def assumption(self, id_: str, text: str, *keys: str) -> Assumption:
        """Return an assumption: refuted, declared if all its facts are there, not checked otherwise."""
        if id_ in self.refuted:
            against = f"{text}: {self.refuted[id_]}"
            return Assumption(id=id_, text=against, status=AssumptionStatus.REFUTED, evidence=self.source)
        values = [self.facts.get(key) for key in keys]
        if any(value is None for value in values):
            return Assumption(id=id_, text=f"{text}: not recorded")
        named = ", ".join(f"{key!r}" for key in keys)
        return Assumption(
            id=id_,
            text=f"{text}: {', '.join(map(str, values))}",
            status=AssumptionStatus.DECLARED,
            evidence=f"{self.source}, fact {named}",
        )


def _tuning(facts: _Facts, kinds: set[type]) -> Assumption:
    """The search of hyper-parameters: in the ledger, declared as not there, or unknown."""
    stated = facts.facts.get(SEARCH)
    if stated is None and ev.RepeatAndSelect not in kinds:
        return facts.assumption("tuning", _TUNING, SEARCH)
    told = [item.get("reason", item) if isinstance(item, Mapping) else item for item in _listed(stated)]
    what = "; ".join(map(str, told)) or "it is (the best of a random number of runs)"
    evidence = f"{facts.source}, fact {SEARCH!r}" if told else "event RepeatAndSelect"
    return Assumption(id="tuning", text=f"{_TUNING}: {what}", status=AssumptionStatus.DECLARED, evidence=evidence)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def assumptions_of(
    event: ev.Event,
    facts: Mapping[str, Any],
    relation: Relation,
    *,
    source: str = "ledger header",
    refuted: Mapping[str, str] | None = None,
) -> tuple[Assumption, ...]:
    """Return the assumptions behind the bounds on an event.

    Args:
        event: what is accounted for.
        facts: what `source` declares of the run.
        relation: neighbouring relation.
        source: where the facts were declared.
        refuted: what the facts contradict, by the id of the assumption (see `dpaudit.accounting.recorded`).
    """
    kinds = kinds_of(event)
    known = _Facts(facts=facts, source=source, refuted=refuted or {})
    named = dict.fromkeys(text for kind, text in _SAMPLERS.items() if kind in kinds)
    samplers = list(named) or ["every unit may take part in every step"]
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
        known.assumption("clip", "norm that one unit contributes at most to a sum", "clip_norm"),
        known.assumption("noise", "standard deviation of the noise on a sum", "noise_stddev"),
        known.assumption("denominator", "sums are divided by a number that does not depend on who came", "denominator"),
        known.assumption("noise-generator", _generator(kinds), "noise_source"),
        known.assumption("seeds", "nobody else can know the seeds of noise and sampling", "seed_origin"),
        _tuning(known, kinds),
        Assumption(id="complete", text="the ledger holds every release that was computed from these people's data"),
    )


_CHECKS = {
    "sampler": ("sampling.",),
    "clip": ("step.sensitivity",),
    "noise": ("step.noise", "noise.scale", "noise.rounds", "ledger.noise"),
    "denominator": ("step.denominator", "ledger.denominator"),
    "noise-generator": ("step.noise-shape", "noise.shape", "noise.reuse"),
}


def verified_by(assumptions: Iterable[Assumption], checks: Iterable[CheckResult]) -> tuple[Assumption, ...]:
    """Return assumptions with what the checks of a run say of them: verified, or refuted.

    An assumption is verified if some check is about it and all of those passed, refuted if one failed; a check that
    could not decide leaves it as it was. What a check can show is in its `detail`: a pass is no proof.
    """
    results = tuple(checks)
    return tuple(
        _judged(item, [c for c in results if c.id.startswith(_CHECKS.get(item.id, ()))]) for item in assumptions
    )


def _judged(item: Assumption, about: list[CheckResult]) -> Assumption:
    failed = [check.id for check in about if check.status == Status.FAIL]
    if item.status == AssumptionStatus.REFUTED or not about:
        return item
    if failed:
        return replace(item, status=AssumptionStatus.REFUTED, evidence=f"check {', '.join(failed)}")
    if all(check.status == Status.PASS for check in about):
        names = ", ".join(dict.fromkeys(check.id for check in about))
        return replace(item, status=AssumptionStatus.VERIFIED, evidence=f"check {names}")
    return item
