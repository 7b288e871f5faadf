"""A privacy guarantee in plain prose, with what it is about and what it rests on."""

import math
from collections.abc import Mapping
from typing import Any

from dpaudit.records import AccountingSummary, AssumptionStatus, Relation

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


def _change(relation: Relation, unit: str) -> str:
    if relation == Relation.REPLACE_ONE:
        return f"replacing one {unit} by another"
    return f"adding or removing one {unit}"


def _epsilons(summary: AccountingSummary) -> str:
    if summary.epsilon_pld is not None and summary.epsilon_rdp is not None:
        return f"epsilon = {up(summary.epsilon_pld)} (PLD accountant; {up(summary.epsilon_rdp)} by RDP)"
    if summary.epsilon_pld is not None:
        return f"epsilon = {up(summary.epsilon_pld)} (PLD accountant)"
    if summary.epsilon_rdp is not None:
        return f"epsilon = {up(summary.epsilon_rdp)} (RDP accountant; PLD: {summary.reasons['epsilon_pld']})"
    return "no finite epsilon"


def statement(summary: AccountingSummary, facts: Mapping[str, Any], *, unit: str | None = None) -> str:
    """Return the guarantee of a summary as text: unit, relation, epsilon, delta, ceilings, assumptions."""
    who = unit or str(facts.get("unit", "unit"))
    claim = (
        f"Everything released changes by at most {_epsilons(summary)} at delta = {summary.delta:g}, "
        f"in the sense of differential privacy, when {_change(summary.relation, who)}."
    )
    lines = [claim]
    if summary.mu is not None and summary.mu_regret is not None:
        fit = "describes the whole curve well" if summary.mu_regret <= 0.01 else "is a poor summary of the curve"
        lines.append(
            f"mu = {up(summary.mu)} with regret {up(summary.mu_regret, 2)} ({fit}): a summary for deltas of at least "
            f"{summary.delta:g}, no further guarantee."
        )
    for fpr, tpr in summary.tpr_ceilings:
        if fpr == 0.01:
            lines.append(
                f"No attack has a true-positive rate above {up(100 * tpr, 3)} % at a false-positive rate of 1 %."
            )
    if summary.epsilon_no_amplification is not None:
        lines.append(f"Without any amplification by sampling, epsilon is {up(summary.epsilon_no_amplification)}.")
    lines.append("This rests on:")
    for item in summary.assumptions:
        why = f" ({item.evidence})" if item.evidence else ""
        lines.append(f"  [{_WORDS[item.status]}] {item.text}{why}")
    return "\n".join(lines)
