"""The rule that compares a release with the released model."""

from collections.abc import Iterator

from dpaudit.evidence import Evidence
from dpaudit.records import AttackResult
from dpaudit.rules_base import Case, Outcome, Rule, close, exceeds, failed, not_asked, pair, passed, percent, unclear


def regression(case: Case) -> Outcome:
    """DPA401."""
    released, summary = case.baseline, case.accounting
    if released is None:
        text = "no evidence of a released model was given"
        return unclear(text) if case.policy.baseline.required else not_asked(text)
    if mismatch := _incomparable(case, released):
        return unclear(mismatch)
    before = released.accounting.epsilon_pld if released.accounting else None
    if before is None or summary is None or summary.epsilon_pld is None:
        return unclear("one of the two has no ε by PLD accounting")
    one, other = pair(summary.epsilon_pld, before)
    text = f"ε {one} spent, the released model spent {other}"
    allowed = before * (1 + case.policy.baseline.epsilon_slack)
    if exceeds(summary.epsilon_pld, allowed):
        return failed(text, measured=summary.epsilon_pld, limit=allowed)
    if worse := list(_worse_attacks(case, released)):
        return failed("; ".join(worse))
    return passed(f"{text}; no attack is shown to have become stronger", measured=summary.epsilon_pld, limit=allowed)


def _incomparable(case: Case, released: Evidence) -> str | None:
    new, old = case.claim, released.claim
    if new.unit != old.unit or new.relation != old.relation:
        one, other = f"one {new.unit.value}, {new.relation.value}", f"one {old.unit.value}, {old.relation.value}"
        return f"the release is claimed for {one}, the released model for {other}"
    if not close(new.delta, old.delta):
        return f"the release is claimed at δ {new.delta:g}, the released model at {old.delta:g}"
    return None


def _worse_attacks(case: Case, released: Evidence) -> Iterator[str]:
    """Name every rate whose lower limit is above the upper limit of the released model's."""
    before = {attack.attack: attack for attack in released.attacks}
    for attack in case.evidence.attacks:
        for fpr, low, high in _pairs(attack, before.get(attack.attack)):
            if exceeds(low, high + case.policy.baseline.tpr_slack):
                yield (
                    f"{attack.attack} at FPR {percent(fpr)}: TPR at least {percent(low)}, "
                    f"against the released model at most {percent(high)}"
                )


def _pairs(new: AttackResult, old: AttackResult | None) -> Iterator[tuple[float, float, float]]:
    for point in new.tpr_at_fpr:
        for other in old.tpr_at_fpr if old else ():
            if close(point.fpr, other.fpr) and point.ci is not None and other.ci is not None:
                yield point.fpr, point.ci[0], other.ci[1]


RULES = (
    Rule(
        code="DPA401",
        title="regression",
        question="Is the release no worse than the released model?",
        fails="it spent more ε than the policy's slack allows, or an attack is significantly stronger than it was.",
        inconclusive="the two cannot be compared, or the policy asks for a baseline and none was given.",
        why="Privacy is lost in small steps, each of which stays below an absolute limit.",
        fix="Find what changed with `dpaudit diff`; if it is meant, allow the slack in the policy.",
        judge=regression,
    ),
)
