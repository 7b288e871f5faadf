"""Rules about attacks: are they below the ceilings of the policy and of the theory, and were they a fair game?"""

from collections.abc import Iterator
from dataclasses import dataclass

from dpaudit.policy_model import Ceiling
from dpaudit.records import AccountingSummary, AttackResult, CheckResult, RatePoint, Status
from dpaudit.rules_base import (
    ALIVE,
    COMPARABLE,
    WORST_GROUP,
    Case,
    Outcome,
    Rule,
    asked,
    close,
    exceeds,
    failed,
    judge_checks,
    not_asked,
    pair,
    passed,
    percent,
    unclear,
)


def proven_ceiling(summary: AccountingSummary | None, fpr: float) -> float | None:
    """Return an upper bound on the true-positive rate of every attack at `fpr`, from the stored curves.

    The largest TPR is a rising concave function T of the FPR, so that between known points both T at the next
    larger FPR and T at the next smaller one, scaled up, are upper bounds. None when nothing was stored.
    """
    if summary is None:
        return None
    known = [(x, y) for x, y in summary.tpr_ceilings] + [(x, 1 - fnr) for x, fnr in summary.trade_off]
    if not known:
        return None
    exact = [y for x, y in known if close(x, fpr)]
    if exact:
        return min(exact)
    larger = [y for x, y in known if x > fpr]
    scaled = [y * fpr / x for x, y in known if 0 < x < fpr]
    return min([1.0, *larger, *scaled])


def _comparable(case: Case) -> Outcome:
    checks = [check for check in case.evidence.checks if check.id == COMPARABLE]
    return judge_checks(checks, [COMPARABLE], "members and non-members")


def members_comparable(case: Case) -> Outcome:
    """DPA205."""
    if not case.evidence.attacks:
        return not_asked("the evidence holds no attack")
    outcome = _comparable(case)
    if outcome.status == Status.FAIL:
        return unclear(
            f"attacks could win without the model, so their results say nothing about it: {outcome.message}",
            measured=outcome.measured, limit=outcome.limit,
        )  # fmt: skip
    return outcome


@dataclass(frozen=True, slots=True)
class _Judged:
    """One comparison of an attack with a ceiling: the margin is what is compared minus the ceiling."""

    text: str
    measured: float
    limit: float


def tpr_ceilings(case: Case) -> Outcome:
    """DPA201."""
    ceilings = case.policy.attacks.ceiling
    if not ceilings:
        return not_asked("the policy sets no ceiling")
    above: list[_Judged] = []
    below: list[_Judged] = []
    doubts: list[str] = []
    for ceiling in ceilings:
        for judged in _against(case, ceiling):
            if isinstance(judged, str):
                doubts += [judged] if ceiling.required else []
            else:
                (above if exceeds(judged.measured, judged.limit) else below).append(judged)
    if above:
        worst = max(above, key=lambda j: j.measured - j.limit)
        return failed(worst.text, measured=worst.measured, limit=worst.limit)
    if doubts:
        return unclear("; ".join(doubts))
    if not below:
        return not_asked("too few non-members for the policy's ceilings, none of which is required")
    nearest = max(below, key=lambda j: j.measured - j.limit)
    return passed(nearest.text, measured=nearest.measured, limit=nearest.limit)


def _against(case: Case, ceiling: Ceiling) -> Iterator[_Judged | str]:
    """Compare every attack that a ceiling is about; a sentence where that cannot be done."""
    attacks = [a for a in case.evidence.attacks if ceiling.attack in ("*", a.attack)]
    if not attacks:
        yield f"there is no attack {ceiling.attack!r} to compare with the ceiling at FPR {percent(ceiling.fpr)}"
    for attack in attacks:
        least = ceiling.min_non_members or round(10 / ceiling.fpr)
        point = next((p for p in attack.tpr_at_fpr if close(p.fpr, ceiling.fpr)), None)
        limit = proven_ceiling(case.accounting, ceiling.fpr) if ceiling.tpr == "proven" else ceiling.tpr
        where = f"{attack.attack} at FPR {percent(ceiling.fpr)}"
        if point is None or point.tpr is None:
            yield f"{where}: no rate was measured" + (f" ({point.reason})" if point and point.reason else "")
        elif attack.n_non_member < least:
            yield f"{where}: {attack.n_non_member} non-members, {least} are needed"
        elif limit is None:
            yield f"{where}: the accounting proves no ceiling"
        elif ceiling.compare == "upper" and not _holds(point):
            yield f"{where}: the rate has no confidence interval that holds it"
        else:
            yield _compare(point, limit, ceiling, where)


def _holds(point: RatePoint) -> bool:
    return point.ci is not None and point.tpr is not None and 0 <= point.ci[0] <= point.tpr <= point.ci[1] <= 1


def _compare(point: RatePoint, limit: float, ceiling: Ceiling, where: str) -> _Judged:
    upper = ceiling.compare == "upper" and point.ci is not None
    value = point.ci[1] if upper and point.ci else (point.tpr or 0.0)
    one, other = pair(100 * value, 100 * limit)
    kind = "upper confidence limit of the TPR" if upper else "TPR"
    proven = "ceiling of the accounting" if ceiling.tpr == "proven" else "ceiling"
    return _Judged(f"{where}: {kind} {one} %, {proven} {other} %", value, limit)


def above_theory(case: Case) -> Outcome:
    """DPA202."""
    attacks = case.evidence.attacks
    if not attacks:
        text = "the evidence holds no attack"
        return unclear(text) if case.policy.attacks.required else not_asked(text)
    if silent := [a for a in attacks if a.auc is None]:
        return unclear("; ".join(f"{a.attack} gave no result: {a.reason}" for a in silent))
    judged = [found for attack in attacks for point in attack.tpr_at_fpr if (found := _beats(case, attack, point))]
    if not judged:
        return unclear("no attack has a rate with an interval that could be compared with a proven ceiling")
    worst = max(judged, key=lambda j: j.measured - j.limit)
    if not exceeds(worst.measured, worst.limit):
        return passed(worst.text, measured=worst.measured, limit=worst.limit)
    if _comparable(case).status == Status.FAIL:
        return unclear(f"{worst.text}, but members and non-members differ without the model (DPA205)")
    return failed(f"{worst.text}: no attack can do that to what is claimed", measured=worst.measured, limit=worst.limit)


def _beats(case: Case, attack: AttackResult, point: RatePoint) -> _Judged | None:
    """Compare the lower limit of a TPR with the ceiling; the interval is for the point where the true FPR is `fpr`."""
    limit = proven_ceiling(case.accounting, point.fpr)
    if limit is None or point.ci is None or not _holds(point):
        return None
    one, other = pair(100 * point.ci[0], 100 * limit)
    where = f"{attack.attack} at FPR {percent(point.fpr)}"
    text = f"{where}: lower confidence limit of the TPR {one} %, ceiling of the accounting {other} %"
    return _Judged(text, point.ci[0], limit)


def attack_alive(case: Case) -> Outcome:
    """DPA203."""
    if not case.evidence.attacks:
        return not_asked("the evidence holds no attack")
    outcome = _named_check(case, ALIVE, "attacks that can win", required=case.policy.attacks.require_alive)
    if outcome.status == Status.FAIL:
        return unclear(
            f"an attack that cannot win on a model without noise says nothing by losing here: {outcome.message}",
            measured=outcome.measured, limit=outcome.limit,
        )  # fmt: skip
    return outcome


def worst_group(case: Case) -> Outcome:
    """DPA204."""
    if not case.evidence.attacks and not case.policy.attacks.require_worst_group:
        return not_asked("the evidence holds no attack")
    return _named_check(case, WORST_GROUP, "the worst-off group", required=case.policy.attacks.require_worst_group)


def _named_check(case: Case, identity: str, what: str, *, required: bool) -> Outcome:
    checks = [check for check in case.evidence.checks if check.id == identity]
    outcome = judge_checks(checks, [identity] if required or asked(case, identity) else [], what)
    if outcome.status == Status.PASS and not all(map(_NUMBERS[identity], checks)):
        return unclear(f"{identity} says pass, but its numbers do not say so")
    return outcome


def _wins(check: CheckResult) -> bool:
    """Whether the smallest lower limit of an attack's success is above that of guessing."""
    return check.statistic is not None and check.threshold is not None and check.statistic > check.threshold


def _stays_below(check: CheckResult) -> bool:
    """Whether the lower limit of the worst group is not above what the accounting proves."""
    return check.statistic is not None and check.threshold is not None and check.statistic <= check.threshold


_NUMBERS = {ALIVE: _wins, WORST_GROUP: _stays_below}
"""What the numbers of a check that passes must say; a bare word is not evidence."""


RULES = (
    Rule(
        code="DPA201",
        title="attack TPR",
        question="Is the success of every attack below the policy's ceilings, with confidence?",
        fails="the upper confidence limit of a true-positive rate (or the estimate, by policy) is above a ceiling.",
        inconclusive="a required ceiling cannot be judged: no attack, no rate, or too few non-members.",
        why="What an attack does to a few people at a low false-positive rate matters more than its average.",
        fix="Use more non-members, more noise or fewer rounds; or set a ceiling that the claim can meet.",
        judge=tpr_ceilings,
    ),
    Rule(
        code="DPA202",
        title="attack above theory",
        question="Does an attack do better than the accounting proves possible?",
        fails="the lower confidence limit of a true-positive rate is above the ceiling at that false-positive rate.",
        inconclusive="there is no attack with a confidence interval, an attack crashed, or nothing was proven.",
        why="No attack can beat the trade-off curve of what is claimed: one that does refutes the claim.",
        fix="Noise, clipping or sampling is not what the ledger says: `dpaudit check` finds out which.",
        judge=above_theory,
    ),
    Rule(
        code="DPA203",
        title="attack alive",
        question="Do the attacks win where they must: on a model that was trained without noise?",
        fails="never.",
        inconclusive="an attack did not win there, or the policy asks for this and it was not tried.",
        why="An attack that always loses, because it is broken or weak, makes every model look private.",
        fix="Repair or strengthen the attack: more reference models, the right preprocessing, longer training of them.",
        judge=attack_alive,
    ),
    Rule(
        code="DPA204",
        title="worst group",
        question="Is the group of people that attacks hit hardest still below what the accounting proves?",
        fails="attacks do better against one group than the accounting allows for anybody.",
        inconclusive="groups are too small, or the policy asks for this and no group was looked at.",
        why="An average hides those who are hit: rare classes and unusual people are found first.",
        fix="More noise, or fewer rounds; ε bounds what happens to everybody, so that this refutes the claim.",
        judge=worst_group,
    ),
    Rule(
        code="DPA205",
        title="members comparable",
        question="Are members and non-members of the attacks alike but for their membership?",
        fails="never.",
        inconclusive="they can be told apart without the model, or this was not checked.",
        why="If members are older, longer or of another kind, an attack wins by looking at the data, not at the model.",
        fix="Split members and non-members at random from one population.",
        judge=members_comparable,
    ),
)
