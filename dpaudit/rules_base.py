"""What a rule of the gate is: a question with a code, asked of one case, answered with an outcome."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date

from dpaudit.evidence import Evidence
from dpaudit.policy import Policy
from dpaudit.records import AccountingSummary, Bound, BoundStatus, CheckResult, Claim, Direction, Status

TRACE = ("noise.", "clip.")
"""Prefixes of the checks of noise and clip (DPA007)."""
COMPARABLE = "attack.comparable"
"""The check that members and non-members of the attacks are alike (DPA205)."""
ALIVE, WORST_GROUP, DRILL = "attack.alive", "attack.worst_group", "drill."
"""Checks of attacks that have rules of their own (DPA203, DPA204), and prefix of fire drills (DPA105)."""
OWN_RULE = (COMPARABLE, ALIVE, WORST_GROUP)
"""Checks that rules of their own judge; DPA102 judges every check that is not of noise, clip or a fire drill."""
REL = 1e-9
"""Relative slack of comparisons: rounding of the last digits, nothing more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """What became of a signature over the evidence: `signer` is a name of the policy, or None with the reason."""

    digest: str
    signer: str | None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """Evidence of a training with a planted fault, and its accounting, to see whether the fault is caught."""

    evidence: Evidence
    recomputed: AccountingSummary | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What a gate may be shown beside the evidence; everything that is missing is treated as not shown.

    `model_sha256` is the digest of the model that is about to be released, `commit` of the code that it is released
    from; `releases` are the earlier releases about the same people and `composed` their accounting with this one.
    """

    model_sha256: str | None = None
    commit: str | None = None
    seal: Seal | None = None
    drill: Drill | None = None
    releases: tuple[Evidence, ...] = ()
    composed: AccountingSummary | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Everything that a verdict depends on."""

    evidence: Evidence
    policy: Policy
    today: date
    recomputed: AccountingSummary | None
    baseline: Evidence | None = None
    beside: Beside = Beside()

    @property
    def claim(self) -> Claim:
        """The claim under judgement."""
        return self.evidence.claim

    @property
    def accounting(self) -> AccountingSummary | None:
        """The recomputed accounting, or the stored one; DPA001 says whether the two agree."""
        return self.recomputed or self.evidence.accounting


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The answer to a rule. `fix` replaces the rule's own advice where something better is known."""

    status: Status
    message: str
    measured: float | str | None = None
    limit: float | str | None = None
    fix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule: `question` is what it asks; `fails` and `inconclusive` say when; `why` and `fix` are for people."""

    code: str
    title: str
    question: str
    fails: str
    inconclusive: str
    why: str
    fix: str
    judge: Callable[[Case], Outcome]


def passed(message: str, *, measured: float | str | None = None, limit: float | str | None = None) -> Outcome:
    """Return a PASS."""
    return Outcome(status=Status.PASS, message=message, measured=measured, limit=limit)


def failed(
    message: str, *, measured: float | str | None = None, limit: float | str | None = None, fix: str | None = None
) -> Outcome:
    """Return a FAIL."""
    return Outcome(status=Status.FAIL, message=message, measured=measured, limit=limit, fix=fix)


def unclear(
    message: str, *, measured: float | str | None = None, limit: float | str | None = None, fix: str | None = None
) -> Outcome:
    """Return an INCONCLUSIVE."""
    return Outcome(status=Status.INCONCLUSIVE, message=message, measured=measured, limit=limit, fix=fix)


def not_asked(message: str) -> Outcome:
    """Return a NOT RUN: the policy does not ask, or there is nothing that the rule is about."""
    return Outcome(status=Status.NOT_RUN, message=message)


def number(value: float) -> str:
    """Write a number for people: four significant digits."""
    return f"{value:.4g}"


def pair(measured: float, limit: float) -> tuple[str, str]:
    """Write two numbers with as many digits as it takes to see which is larger."""
    for digits in range(4, 17):
        one, other = f"{measured:.{digits}g}", f"{limit:.{digits}g}"
        if one != other or measured == limit:
            return one, other
    return repr(measured), repr(limit)


def percent(rate: float) -> str:
    """Write a rate as a percentage."""
    return f"{100 * rate:.3g} %"


def exceeds(measured: float, limit: float) -> bool:
    """Whether `measured` is above `limit` by more than rounding."""
    return measured > limit + REL * abs(limit)


def close(one: float, other: float) -> bool:
    """Whether two numbers are the same but for rounding."""
    return abs(one - other) <= REL * max(abs(one), abs(other))


def accepted(case: Case, family: str, method: str) -> bool:
    """Whether the policy lets a bound of this family and method count."""
    methods = case.policy.audit.methods
    return family in case.policy.audit.families and (methods is None or method in methods)


def why_unusable(case: Case, bound: Bound) -> str | None:
    """Return why a lower bound cannot be compared with the claim; None when it can."""
    if bound.status != BoundStatus.OK or bound.epsilon is None:
        return f"{bound.label}: {bound.status.value}, {bound.reason or 'no reason given'}"
    if not accepted(case, bound.family.value, bound.method):
        return f"{bound.label}: the policy does not accept {bound.family.value} bounds by this method"
    if bound.confidence is None or bound.confidence < case.policy.audit.confidence - REL:
        stated = "no confidence" if bound.confidence is None else f"confidence {percent(bound.confidence)}"
        return f"{bound.label}: {stated}, the policy asks {percent(case.policy.audit.confidence)}"
    return incomparable(case, bound)


def incomparable(case: Case, bound: Bound) -> str | None:
    """Return why a bound speaks of another kind of privacy than the claim; None when of the same."""
    if bound.relation != case.claim.relation:
        return f"{bound.label}: bound for {bound.relation.value}, claim for {case.claim.relation.value}"
    if not close(bound.delta, case.claim.delta):
        return f"{bound.label}: bound at delta {number(bound.delta)}, claim at {number(case.claim.delta)}"
    return None


def asked(case: Case, identity: str) -> bool:
    """Whether the policy's list of checks asks for a check of this id."""
    return any(identity.startswith(prefix) for prefix in case.policy.audit.checks)


def lower_bounds(case: Case) -> list[Bound]:
    """Return the lower bounds of the evidence."""
    return [bound for bound in case.evidence.bounds if bound.direction == Direction.LOWER]


def usable_bounds(case: Case) -> list[Bound]:
    """Return the lower bounds that can be compared with the claim."""
    return [bound for bound in lower_bounds(case) if why_unusable(case, bound) is None]


def judge_checks(checks: Iterable[CheckResult], required: Iterable[str], what: str) -> Outcome:
    """Judge a group of checks: one FAIL fails, anything but PASS or a missing kind is inconclusive."""
    present = list(checks)
    if fails := [check for check in present if check.status == Status.FAIL]:
        text = "; ".join(f"{c.id}: {_told(c)}" + (f" [refutes: {c.refuted}]" if c.refuted else "") for c in fails)
        first = fails[0]
        return failed(text, measured=first.statistic, limit=first.threshold)
    doubts = [f"{c.id} is {c.status.value}: {_told(c)}" for c in present if c.status != Status.PASS]
    doubts += [f"{c.id} says pass, but its p-value is below its significance" for c in present if _contradicts(c)]
    doubts += [f"{c.id} says pass, but gives no p-value and no number of observations" for c in present if _bare(c)]
    missing = [prefix for prefix in required if not any(c.id.startswith(prefix) for c in present)]
    doubts += [f"no check of the kind {prefix.rstrip('.')!r}" for prefix in missing]
    if doubts:
        return unclear("; ".join(doubts))
    if not present:
        return not_asked(f"The evidence holds no check of {what}, and the policy asks for none.")
    return passed(f"{what} as recorded: " + ", ".join(check.id for check in present))


def _told(check: CheckResult) -> str:
    """Return the detail of a check in words that do not name our fields."""
    return check.detail.replace("minimum_detectable", "the smallest effect that it finds")


_STATISTICAL = ("noise.", "clip.")


def _bare(check: CheckResult) -> bool:
    """A statistical check that passes must show what it measured; a bare word is not evidence."""
    numbers = (check.statistic, check.p_value, check.n)
    return check.status == Status.PASS and check.id.startswith(_STATISTICAL) and None in numbers


def _contradicts(check: CheckResult) -> bool:
    if check.status != Status.PASS or check.p_value is None or check.significance is None:
        return False
    return check.p_value < check.significance
