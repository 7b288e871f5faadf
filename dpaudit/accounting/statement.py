"""A privacy guarantee in plain prose, with what it is about and what it rests on."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from dpaudit.records import AccountingSummary, Assumption, AssumptionStatus, Relation

_SHOWN_RATE = 0.01
_WORDS = {
    AssumptionStatus.VERIFIED: "verified",
    AssumptionStatus.DECLARED: "declared",
    AssumptionStatus.NOT_CHECKED: "not checked",
    AssumptionStatus.REFUTED: "REFUTED",
}


def up(value: float, digits: int = 4) -> str:
    """Write an upper bound with few digits, rounded up, so that what is printed is a bound too."""
    if value <= 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return f"{math.ceil(value / unit * (1 - 1e-13)) * unit:.{digits}g}"


def _change(relation: Relation, unit: str, size: int) -> str:
    if relation == Relation.REPLACE_ONE:
        return f"replacing one {unit} by another" if size == 1 else f"replacing {size} of the {unit}s by others"
    return f"adding or removing {f'one {unit}' if size == 1 else f'up to {size} {unit}s'}"


def _sampler(facts: Mapping[str, Any]) -> str:
    """Return the sampler in words; a table of rates as its kind with the rates below 1."""
    stated = facts.get("sampler")
    if stated is None:
        return "The sampler is not recorded."
    if not isinstance(stated, Mapping):
        return f"Sampler: {stated}."
    rest = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in stated.items() if key != "kind")
    return f"Sampler: {stated.get('kind', 'as recorded')}{f' ({rest})' if rest else ''}."


def _epsilons(summary: AccountingSummary) -> str:
    if summary.epsilon_pld is not None and summary.epsilon_rdp is not None:
        return f"epsilon = {up(summary.epsilon_pld)} (PLD accountant; {up(summary.epsilon_rdp)} by RDP)"
    if summary.epsilon_pld is not None:
        return f"epsilon = {up(summary.epsilon_pld)} (PLD accountant)"
    if summary.epsilon_rdp is not None:
        return f"epsilon = {up(summary.epsilon_rdp)} (RDP accountant; PLD: {summary.reasons['epsilon_pld']})"
    return "no finite epsilon"


def _ceiling(tpr: float) -> str:
    highest = up(100 * tpr, 3)
    if highest == "100":
        return "Nothing here keeps an attack from finding every member at a false-positive rate of 1 %."
    return f"No attack has a true-positive rate above {highest} % at a false-positive rate of 1 %."


def assumption_lines(assumptions: Iterable[Assumption]) -> list[str]:
    """Return a line for each assumption: how it is known, what it says, and the evidence."""
    return [
        f"  [{_WORDS[item.status]}] {item.text}{f' ({item.evidence})' if item.evidence else ''}" for item in assumptions
    ]


def statement(summary: AccountingSummary, facts: Mapping[str, Any], *, group_size: int = 1) -> str:
    """Return the guarantee of a summary as text: unit, relation, epsilon, delta, sampler, ceilings, assumptions."""
    who = str(facts.get("unit") or "unit")
    claim = (
        f"Everything released changes by at most {_epsilons(summary)} at delta = {summary.delta:g}, "
        f"in the sense of differential privacy, when {_change(summary.relation, who, group_size)}."
    )
    lines = [claim, _sampler(facts)]
    if summary.mu is not None and summary.mu_regret is not None:
        fit = "describes the whole curve well" if summary.mu_regret <= 0.01 else "is a poor summary of the curve"
        lines.append(
            f"mu = {up(summary.mu)} with regret {up(summary.mu_regret, 2)} ({fit}): a summary for deltas of at least "
            f"{summary.delta:g}, no further guarantee."
        )
    lines += [_ceiling(tpr) for fpr, tpr in summary.tpr_ceilings if fpr == _SHOWN_RATE]
    if summary.epsilon_no_amplification is not None:
        lines.append(f"Without any amplification by sampling, epsilon is {up(summary.epsilon_no_amplification)}.")
    return "\n".join([*lines, "This rests on:", *assumption_lines(summary.assumptions)])
