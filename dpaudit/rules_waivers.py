"""Waivers: findings that somebody answers for until a date; those that do not hold, or do nothing, speak."""

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from dpaudit.policy_model import Waiver
from dpaudit.records import Finding, Status
from dpaudit.rules_base import Case, Outcome, Rule, not_asked

EXPIRED, UNUSED, FORBIDDEN, SOON = "DPA901", "DPA902", "DPA903", "DPA904"


def _matches(case: Case, waiver: Waiver) -> bool:
    return waiver.model is None or fnmatchcase(case.claim.model or "", waiver.model)


def why_forbidden(case: Case, waiver: Waiver) -> str | None:
    """Return why a waiver can never hold under this policy; None when it can."""
    policy = case.policy.waivers
    if waiver.rule in policy.never:
        return f"{waiver.rule} cannot be waived under this policy"
    if (waiver.expires - case.today).days > policy.max_days:
        return f"it ends on {waiver.expires}, more than {policy.max_days} days ahead"
    return None


def _why_void(case: Case, waiver: Waiver, finding: Finding) -> str | None:
    if reason := why_forbidden(case, waiver):
        return reason
    if case.today > waiver.expires:
        return f"it ended on {waiver.expires}"
    if waiver.until_value is not None:
        if isinstance(finding.measured, str) or finding.measured is None:
            return f"nothing was measured that could be compared with its limit {waiver.until_value:g}"
        if finding.measured > waiver.until_value:
            return f"it holds up to {waiver.until_value:g}, measured {finding.measured:.4g}"
    return None


def apply(case: Case, finding: Finding) -> Finding:
    """Return the finding, WAIVED where a waiver of the policy holds for it; void waivers are named beside it."""
    if finding.status not in (Status.FAIL, Status.INCONCLUSIVE):
        return finding
    void = []
    for waiver in case.policy.waiver:
        if waiver.rule != finding.rule or not _matches(case, waiver):
            continue
        reason = _why_void(case, waiver, finding)
        if reason is None:
            who = f"waived to {waiver.expires} by {waiver.owner} ({waiver.ticket}): {waiver.reason}"
            return replace(finding, status=Status.WAIVED, message=f"{finding.status.value}: {finding.message}; {who}")
        void.append(f"the waiver by {waiver.owner} ({waiver.ticket}) does not hold: {reason}")
    return replace(finding, message="; ".join([finding.message, *void]))


def about_waivers(case: Case, findings: Sequence[Finding]) -> list[Finding]:
    """Return what the waivers themselves have to say: expired, unused, forbidden, ending soon."""
    result = []
    hidden = {
        finding.rule for finding in findings if finding.status in (Status.WAIVED, Status.FAIL, Status.INCONCLUSIVE)
    }
    for waiver in case.policy.waiver:
        left = (waiver.expires - case.today).days
        name = f"waiver of {waiver.rule} by {waiver.owner} ({waiver.ticket})"
        if reason := why_forbidden(case, waiver):
            result.append(_finding(FORBIDDEN, Status.FAIL, f"{name}: {reason}"))
        elif left < 0:
            result.append(_finding(EXPIRED, Status.FAIL, f"{name} ended on {waiver.expires}"))
        elif waiver.rule not in hidden or not _matches(case, waiver):
            result.append(_finding(UNUSED, Status.PASS, f"note: {name} matches no finding; remove it"))
        elif left < case.policy.waivers.warn_days:
            result.append(_finding(SOON, Status.PASS, f"note: {name} ends in {left} days, on {waiver.expires}"))
    return result


def _finding(code: str, status: Status, message: str) -> Finding:
    rule = next(rule for rule in EXPLANATIONS if rule.code == code)
    fix = rule.fix if status == Status.FAIL else None
    return Finding(rule=code, title=rule.title, status=status, message=message, fix=fix)


def _spoken(_case: Case) -> Outcome:
    return not_asked("said of each waiver of the policy")


EXPLANATIONS = (
    Rule(
        code=EXPIRED,
        title="waiver expired",
        question="Has a waiver of the policy ended?",
        fails="the date of a waiver has passed.",
        inconclusive="never.",
        why="An expired waiver that nobody hears of hides what it used to hide, or clutters the policy.",
        fix="Repair the finding and remove the waiver, or have somebody answer for it again.",
        judge=_spoken,
    ),
    Rule(
        code=UNUSED,
        title="waiver unused",
        question="Does every waiver match a finding?",
        fails="never; it is a note.",
        inconclusive="never.",
        why="A waiver for a finding that is gone would hide it when it comes back.",
        fix="Remove the waiver.",
        judge=_spoken,
    ),
    Rule(
        code=FORBIDDEN,
        title="waiver not allowed",
        question="May every waiver exist under this policy?",
        fails="a waiver names a rule that cannot be waived, or runs for longer than the policy allows.",
        inconclusive="never.",
        why="Some findings mean that the claim is false; nobody can answer for those.",
        fix="Remove the waiver, or shorten it.",
        judge=_spoken,
    ),
    Rule(
        code=SOON,
        title="waiver ends soon",
        question="Which waivers end within the policy's warning time?",
        fails="never; it is a note.",
        inconclusive="never.",
        why="The gate will fail on that day.",
        fix="Repair the finding before the date.",
        judge=_spoken,
    ),
)
