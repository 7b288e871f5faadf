"""What the HTML template shows: tables of strings and figures, in the order of the report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpaudit.evidence import Evidence
from dpaudit.records import AttackResult, Bound, BoundStatus, RatePoint, Status, Verdict
from dpaudit.reports.clean import plain
from dpaudit.reports.summary import WORDS

Row = Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with a caption."""

    caption: str
    headers: Row
    rows: Sequence[Row]


FACTS: Mapping[str, str] = {
    "algorithm": "Algorithm",
    "data": "Data set",
    "rounds": "Rounds",
    "clients": "Clients",
    "units": "Protected units",
    "client_sampling_rate": "Sampling rate of clients",
    "example_sampling_rate": "Sampling rate of examples",
    "local_steps": "Local steps of a client in a round",
    "sampler": "Sampler",
    "clip_norm": "Clip norm",
    "noise_multiplier": "Noise multiplier",
    "noise_draws": "Noise draws",
    "aggregator": "Aggregator",
    "canaries": "Canaries",
    "holdout_accuracy": "Accuracy on held-out data",
    "classes": "Classes",
    "seed_origin": "Origin of the seed",
    "seconds": "Seconds of training",
}
"""Facts that a report may show; realised cohorts, client names and scores are not among them."""


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.3g}\u00a0%"


def _interval(interval: tuple[float, float] | None) -> str:
    return "none" if interval is None else f"{100 * interval[0]:.3g} to {100 * interval[1]:.3g}\u00a0%"


def guarantee(evidence: Evidence) -> Table | None:
    """The accounting in numbers."""
    summary = evidence.accounting
    if summary is None:
        return None
    names = {
        "epsilon_pld": "ε by PLD accounting",
        "epsilon_rdp": "ε by RDP accounting",
        "epsilon_no_amplification": "ε without credit for secret sampling",
        "mu": "μ of the nearest Gaussian mechanism (a summary, no guarantee)",
        "mu_regret": "regret of that summary",
    }
    rows = []
    for name, label in names.items():
        value = getattr(summary, name)
        reason = f"none: {plain(summary.reasons.get(name, 'no reason given'))}"
        rows.append((label, reason if value is None else _number(value)))
    rows += [(f"ε at δ {d:g}", _number(e)) for d, e in summary.profile if _round_power(d) and d != summary.delta]
    rows += [
        (f"largest true-positive rate at false-positive rate {_percent(x)}", _percent(y))
        for x, y in summary.tpr_ceilings
    ]
    return Table(
        caption=f"Accounting at δ {summary.delta:g}, {summary.relation.value}", headers=("quantity", "value"), rows=rows
    )


def _round_power(delta: float) -> bool:
    """Whether delta is a power of ten from 1e-8 to 1e-4; the figure shows the others."""
    return 0.9e-8 < delta < 1.1e-4 and abs(math.log10(delta) - round(math.log10(delta))) < 1e-9


def assumptions(evidence: Evidence) -> Table | None:
    """Every assumption behind accounting and bounds, and how it is known."""
    sources: list[tuple[str, Any]] = [
        ("accounting", a) for a in (evidence.accounting.assumptions if evidence.accounting else ())
    ]
    sources += [(bound.label, assumption) for bound in evidence.bounds for assumption in bound.assumptions]
    rows = [
        (plain(source), plain(a.text), a.status.value.replace("-", " "), plain(a.evidence or ""))
        for source, a in sources
    ]
    if not rows:
        return None
    return Table(caption="What the numbers rest on", headers=("used by", "assumption", "status", "by"), rows=rows)


KINDS: Mapping[str, str] = {
    "random": "a random direction of the model",
    "chosen": "a coordinate of the model",
    "feature": "an example with a private feature",
    "mislabelled": "an example with a wrong label",
    "blank": "an empty example",
}


def canaries(evidence: Evidence) -> Table | None:
    """The sets of canaries, where there are families beside the Dirac canaries; how coins fell is not shown."""
    families = evidence.training.get("canary_families")
    if not isinstance(families, Mapping) or not families:
        return None
    dirac = evidence.training.get("canaries")
    rows = [("Dirac canaries", "a coordinate beside the model", str(dirac))] if isinstance(dirac, int) and dirac else []
    for name, facts in families.items():
        kind, count = (facts.get("kind"), facts.get("count")) if isinstance(facts, Mapping) else (None, None)
        what = KINDS.get(kind, "not known") if isinstance(kind, str) else "not known"
        rows.append((plain(name), what, str(count) if isinstance(count, int) else "not known"))
    headers = ("canaries", "what each adds", "number, in or out")
    return Table(caption="Sets of canaries, each with coins of its own", headers=headers, rows=rows)


def bounds(evidence: Evidence) -> Table | None:
    """The lower bounds of the audit."""
    if not evidence.bounds:
        return None
    rows = [
        (plain(b.label), b.family.value, _bound_value(b), _percent(b.confidence), f"{b.delta:g}", b.relation.value)
        for b in evidence.bounds
    ]
    headers = ("method", "assumes", "ε is at least", "confidence", "δ", "relation")
    return Table(caption="Lower bounds on ε by the canary audit", headers=headers, rows=rows)


def _bound_value(bound: Bound) -> str:
    if bound.status != BoundStatus.OK or bound.epsilon is None:
        return f"none ({bound.status.value}): {plain(bound.reason or 'no reason given')}"
    return _number(bound.epsilon)


def powers(evidence: Evidence) -> Table | None:
    """The simulated power of the audit."""
    if not evidence.powers:
        return None
    rows = [
        (
            plain(p.label), _number(p.alternative_epsilon), _percent(p.power) if p.reason is None else plain(p.reason),
            _interval(p.power_ci), str(p.trials),
        )
        for p in evidence.powers
    ]  # fmt: skip
    headers = ("method", "true ε of the simulated mechanism", "power to refute the claim", "95 % interval", "trials")
    return Table(caption="How often this audit would have caught a worse mechanism", headers=headers, rows=rows)


def checks(evidence: Evidence) -> Table | None:
    """The statistical checks."""
    if not evidence.checks:
        return None
    rows = [
        (
            plain(c.id),
            WORDS[c.status],
            _number(c.p_value),
            _number(c.minimum_detectable),
            plain(c.detail).replace("minimum_detectable", "the smallest effect that it finds")
            + (f" Refuted: {plain(c.refuted)}" if c.refuted else ""),
        )
        for c in evidence.checks
    ]
    headers = ("check", "status", "p-value", "smallest effect it would find", "detail")
    return Table(caption="Checks of noise, clip, sampling and ledger", headers=headers, rows=rows)


def attacks(evidence: Evidence) -> Table | None:
    """What the attacks achieved: one row for each rate."""
    if not evidence.attacks:
        return None
    ceilings = {round(x, 12): y for x, y in (evidence.accounting.tpr_ceilings if evidence.accounting else ())}
    rows: list[tuple[str, ...]] = []
    for attack in evidence.attacks:
        first = (plain(attack.attack), plain(attack.threat_model), _area(attack), area_ceiling(attack.auc_ceiling))
        rows += [(*first, *_rate(point, ceilings)) for point in attack.tpr_at_fpr]
        rows += [] if attack.tpr_at_fpr else [(*first, "none", "none", "none", "none")]
    headers = (
        "attack",
        "attacker sees",
        "AUC",
        "AUC at most, by the accounting",
        "false positives",
        "true positives",
        "interval",
        "true positives at most, by the accounting",
    )
    return Table(caption="Membership inference", headers=headers, rows=rows)


def _area(attack: AttackResult) -> str:
    if attack.auc is None:
        return f"none: {plain(attack.reason)}"
    interval = f" ({attack.auc_ci[0]:.3f} to {attack.auc_ci[1]:.3f})" if attack.auc_ci else ""
    return f"{attack.auc:.3f}{interval}"


def _rate(point: RatePoint, ceilings: Mapping[float, float]) -> tuple[str, str, str, str]:
    hit = _percent(point.tpr) if point.tpr is not None else f"none: {plain(point.reason or 'no reason given')}"
    known = [c for c in (point.ceiling, ceilings.get(round(point.fpr, 12))) if c is not None]
    return _percent(point.fpr), hit, _interval(point.ci), _percent(max(known, default=None))


def area_ceiling(value: float | None) -> str:
    """Write the largest AUC that is allowed, rounded up: never understated."""
    return f"{math.ceil(1000 * value - 1e-9) / 1000:.3f}" if value is not None and 0 <= value <= 1 else "none"


def training(evidence: Evidence) -> Table:
    """Facts of the training that a report may show."""
    facts = evidence.training
    rows = [(label, _fact(name, facts[name])) for name, label in FACTS.items() if facts.get(name) is not None]
    return Table(caption="Facts of the training", headers=("fact", "value"), rows=rows)


def _fact(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return plain(value) if isinstance(value, str | bool) else "not shown"
    return _percent(value) if name == "holdout_accuracy" else f"{value:.6g}"


def provenance(evidence: Evidence, verdict: Verdict) -> Table:
    """Digests and versions."""
    rows = [(f"{name.replace('_', ' ')} (SHA-256)", plain(digest)) for name, digest in verdict.digests.items()]
    if evidence.ledger is not None:
        rows.append(("last line of the ledger (SHA-256)", evidence.ledger.digest))
    rows += [
        ("evidence made", evidence.created.isoformat()),
        ("judged on", plain(verdict.date)),
        ("policy profile", plain(verdict.profile)),
        ("dpaudit that made the evidence", plain(evidence.version)),
    ]
    if evidence.accounting is not None and evidence.accounting.library:
        rows.append(("accountant", plain(evidence.accounting.library)))
    for name, value in evidence.environment.items():
        if isinstance(value, dict):
            rows += [(plain(key), plain(item)) for key, item in value.items() if isinstance(item, str | int | float)]
        elif isinstance(value, str | int | float) and name != "dpaudit":
            rows.append((plain(name), plain(value)))
    return Table(caption="Digests and versions", headers=("item", "value"), rows=rows)


STATUS_CLASS = {
    Status.PASS: "pass",
    Status.FAIL: "fail",
    Status.INCONCLUSIVE: "unclear",
    Status.WAIVED: "waived",
    Status.NOT_RUN: "idle",
}
LIMITS = (
    (
        "A pass is no proof that no information leaks. It shows that the claim follows from the ledger and that tests "
        "of limited strength found nothing against it."
    ),
    "It speaks of one release. Other models, statistics or tunings made from the same people add to the loss.",
    "It speaks of the unit of the claim. Somebody with several records or devices is protected less.",
    "It does not cover what lies outside training: logs, debugging outputs, timing, access to the raw data.",
    "It takes the server that samples, clips and adds noise as honest, unless an assumption above says otherwise.",
    "It says nothing about whether the data was collected lawfully, is accurate, or treats groups alike.",
    "Digests show that the files belong together. They do not show who made them.",
)
GLOSSARY = {
    "ε (epsilon)": "A bound on how much one unit of data can change what anybody learns from the release. "
    "Smaller is more private; e^ε bounds the change of odds.",
    "δ (delta)": "The small probability with which the bound by ε may fail. It must be well below one over the "
    "number of units.",
    "Lower bound": "What the audit has shown ε to be at least, at the stated confidence.",
    "Upper bound": "What accounting gives ε to be at most, if training did what the ledger says.",
    "Canary": "An artificial contribution that was put in or left out by the toss of a coin, to see whether one can "
    "tell.",
    "Membership inference": "Guessing from a model whether a given record was in its training data.",
    "False-positive rate": "The share of non-members that an attacker wrongly flags as members.",
    "True-positive rate": "The share of members that an attacker correctly flags.",
    "Power": "How often the audit would have caught a mechanism that is worse than claimed by a stated factor.",
    "PLD, RDP": "Two ways of adding up privacy loss over rounds. PLD is the tighter; RDP can only be larger.",
    "Privacy ledger": "The record of what really ran: every round, its sampling and its noise.",
    "Inconclusive": "The evidence is too weak to tell. This is not a pass.",
}
