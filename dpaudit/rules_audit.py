"""Rules about the audit: does it contradict the claim, and could it have seen a broken mechanism?"""

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from dpaudit._binomial import fair_coin_p_value
from dpaudit.records import Bound, PowerResult
from dpaudit.rules_base import (
    DRILL,
    OWN_RULE,
    REL,
    TRACE,
    Case,
    Outcome,
    Rule,
    accepted,
    exceeds,
    failed,
    incomparable,
    judge_checks,
    lower_bounds,
    not_asked,
    number,
    pair,
    passed,
    percent,
    unclear,
    usable_bounds,
    why_unusable,
)

COIN_METHODS = frozenset({"one-run", "one-run-fdp", "one-run-max", "mean-shift", "independent-canaries", "one-shot"})
"""Methods whose members were chosen by fair coins; the others compare runs with and without a canary."""


def noise_and_clip(case: Case) -> Outcome:
    """DPA007."""
    checks = [check for check in case.evidence.checks if check.id.startswith(TRACE)]
    return judge_checks(checks, _required(case, trace=True), "noise and clip")


def statistical_tests(case: Case) -> Outcome:
    """DPA102."""
    checks = [c for c in case.evidence.checks if not c.id.startswith((*TRACE, DRILL)) and c.id not in OWN_RULE]
    return judge_checks(checks, _required(case, trace=False), "sampling and ledger")


def _required(case: Case, *, trace: bool) -> list[str]:
    """Return the prefixes that the policy asks for here; those with a rule of their own are asked for there."""
    elsewhere = {p for p in case.policy.audit.checks if p.startswith(DRILL) or any(i.startswith(p) for i in OWN_RULE)}
    return [p for p in case.policy.audit.checks if p not in elsewhere and p.startswith(TRACE) == trace]


def lower_bound(case: Case) -> Outcome:
    """DPA101."""
    usable, claim = usable_bounds(case), case.claim
    if above := [b for b in usable if exceeds(_value(b), claim.epsilon)]:
        worst = max(above, key=_value)
        one, other = pair(_value(worst), claim.epsilon)
        message = f"ε ≥ {one} shown with {percent(worst.confidence or 0)} confidence, above the claimed {other}"
        return failed(f"{message} ({_origin(worst)}){_jointly(usable)}", measured=_value(worst), limit=claim.epsilon)
    if strange := _incomparable_above(case):
        return unclear(f"a bound above the claim cannot be compared with it: {strange}", limit=claim.epsilon)
    if not usable:
        reasons = [why_unusable(case, b) or "" for b in lower_bounds(case)]
        return unclear(f"no lower bound counts: {'; '.join(reasons) or 'there was no audit'}", limit=claim.epsilon)
    best = max(usable, key=_value)
    one, other = pair(_value(best), claim.epsilon)
    message = f"ε ≥ {one} shown with {percent(best.confidence or 0)} confidence ({_origin(best)})"
    return passed(f"{message}, not above the claimed {other}", measured=_value(best), limit=claim.epsilon)


def _value(bound: Bound) -> float:
    return bound.epsilon if bound.epsilon is not None else 0.0


def _origin(bound: Bound) -> str:
    return f"{bound.label}, {bound.family.value}"


def _jointly(usable: list[Bound]) -> str:
    """Several bounds were compared: say what remains of the confidence (union bound)."""
    if len(usable) < 2:
        return ""
    joint = max(0.0, 1 - sum(1 - (bound.confidence or 0) for bound in usable))
    return f"; {len(usable)} bounds were compared, jointly {percent(joint)}"


def _incomparable_above(case: Case) -> str | None:
    for bound in lower_bounds(case):
        if bound.epsilon is None or not accepted(case, bound.family.value, bound.method):
            continue
        reason = incomparable(case, bound)
        if reason and exceeds(bound.epsilon, case.claim.epsilon):
            return reason
    return None


def power(case: Case) -> Outcome:
    """DPA103."""
    policy = case.policy.audit
    needed = f"the policy asks {percent(policy.min_power)}"
    counted = [result for result in case.evidence.powers if _why_not_counted(case, result) is None]
    if not counted:
        reasons = [f"{r.label}: {_why_not_counted(case, r)}" for r in case.evidence.powers]
        return unclear(
            f"the power of the audit is not known: {'; '.join(reasons) or 'it was not simulated'}",
            limit=policy.min_power,
        )
    best = max(counted, key=_power_limit)
    limit = _power_limit(best)
    measured = f"{percent(best.power or 0)} (at least {percent(limit)} with {best.trials} trials)"
    worse = number(best.alternative_epsilon or 0)
    text = f"{best.label} would catch a mechanism with ε {worse} with power {measured}, {needed}"
    if limit < policy.min_power - REL:
        return unclear(text, measured=limit, limit=policy.min_power, fix=_more_canaries(best))
    return passed(text, measured=limit, limit=policy.min_power)


def _power_limit(result: PowerResult) -> float:
    return result.power_ci[0] if result.power_ci else 0.0


def _more_canaries(result: PowerResult) -> str:
    reach = result.largest_certifiable_epsilon
    could = f" A perfect attack could show at most ε {number(reach)} with this design." if reach is not None else ""
    return f"Use more canaries or a stronger method.{could} `dpaudit plan` says how many."


def _why_not_counted(case: Case, result: PowerResult) -> str | None:
    """Say why a simulated power does not count for this claim; None when it does.

    Power against an alternative is a lower bound of the power against a worse one, and the power to refute a
    larger claim is a lower bound of the power to refute a smaller one.
    """
    if result.power is None or result.alternative_epsilon is None:
        return result.reason or "no reason given"
    worse, simulated = case.policy.audit.detect_factor * case.claim.epsilon, result.alternative_epsilon
    too_far = f"it was simulated against ε {number(simulated)}, the policy asks for ε {number(worse)}"
    reasons = {
        "it has no confidence interval that holds it": not _interval_holds(result),
        f"the policy does not accept {result.family.value} bounds by this method": not accepted(
            case, result.family.value, result.method
        ),
        "this method gave no bound that counts": (result.method, result.canaries)
        not in {(b.method, b.canaries) for b in usable_bounds(case)},
        f"it was simulated for a claim of ε {number(result.claim_epsilon)}": exceeds(
            case.claim.epsilon, result.claim_epsilon
        ),
        too_far: exceeds(simulated, worse),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _interval_holds(result: PowerResult) -> bool:
    if result.power_ci is None or result.power is None or result.trials < 1:
        return False
    return 0 <= result.power_ci[0] <= result.power <= result.power_ci[1] <= 1


def canary_validity(case: Case) -> Outcome:
    """DPA104."""
    alpha, bounds = case.policy.audit.coin_significance, lower_bounds(case)
    tossed = [b for b in bounds if b.method in COIN_METHODS]
    if not tossed:
        missing = unclear("there was no audit, so that there were no canaries")
        return not_asked("no lower bound rests on canaries with coins") if bounds else missing
    tosses = [*((b.canaries, _tosses_of(b)) for b in tossed), *_tosses_on_file(case)]
    if any(toss is None for _, toss in tosses):
        return unclear("a bound, or the file of coins, does not say how many canaries were in and out")
    known = {(name, toss) for name, toss in tosses if toss is not None}
    sets = {name for name, _ in known}
    if len(known) > len(sets):
        return failed("the bounds count other coins than the file of coins holds: they are not of one run")
    worst = min(1.0, len(sets) * min(fair_coin_p_value(*toss) for _, toss in known))  # Bonferroni over the sets
    shown = pair(worst, alpha)[0]
    if worst < alpha:
        return failed(f"the coins of the canaries are not fair: p-value {shown}", measured=worst, limit=alpha)
    total = sum(sum(toss) for _, toss in known)
    return passed(f"{total} canaries, coins fair (p-value {shown})", measured=worst, limit=alpha)


def _tosses_on_file(case: Case) -> Iterator[tuple[str | None, tuple[int, int] | None]]:
    """Yield the tosses of each set of canaries in the file of coins; an array of no family is the Dirac canaries'."""
    families = {bound.canaries for bound in case.evidence.bounds}
    for name, coins in case.evidence.coins.items():
        yield name if name in families else None, _tosses_in(coins)


def _tosses_of(bound: Bound) -> tuple[int, int] | None:
    inside, outside = bound.n_member, bound.n_non_member
    if inside is None or outside is None or min(inside, outside) < 0 or inside + outside == 0:
        return None
    return inside, outside


def _tosses_in(coins: NDArray[Any]) -> tuple[int, int] | None:
    if coins.dtype.kind != "b" or coins.ndim != 1 or coins.size == 0:
        return None
    inside = int(coins.sum())
    return inside, int(coins.size) - inside


RULES = (
    Rule(
        code="DPA007",
        title="noise and clip",
        question="Do noise and clipping that really happened look like what the ledger says?",
        fails="a check of the noise (scale, shape, reuse) or of the clip rejects.",
        inconclusive="a check is missing, was skipped, crashed or could not tell.",
        why="Noise that is too small, repeated, or added to unclipped sums is how most privacy is lost.",
        fix="Look at the refuted claim: scale noise with the clip norm, add it once per sum, clip before adding.",
        judge=noise_and_clip,
    ),
    Rule(
        code="DPA101",
        title="audit lower bound",
        question="Does any lower bound on ε exceed the claim?",
        fails="a lower bound of an accepted family, at the claim's δ and relation, is above the claimed ε.",
        inconclusive="there is no lower bound that counts, or one above the claim cannot be compared with it.",
        why="A valid lower bound above the claim is evidence that the claim is false.",
        fix="Noise, clipping or sampling is not what the ledger says: `dpaudit check` finds out which.",
        judge=lower_bound,
    ),
    Rule(
        code="DPA102",
        title="statistical tests",
        question="Do the checks of sampling, ledger and mechanism agree with the claim?",
        fails="one of the checks rejects.",
        inconclusive="a check is missing, was skipped, crashed or could not tell.",
        why="Accounting rests on how data was sampled and on every round being recorded; this looks at what happened.",
        fix="Look at the refuted claim, and repair the sampler or the recording.",
        judge=statistical_tests,
    ),
    Rule(
        code="DPA103",
        title="audit power",
        question="Would the audit have caught a mechanism that is worse than claimed?",
        fails="never.",
        inconclusive="no accepted method reaches the policy's power at its factor, or the power is not known.",
        why="An audit that cannot see a broken mechanism says nothing by its silence.",
        fix="Use more canaries or a stronger method; `dpaudit plan` says how many.",
        judge=power,
    ),
    Rule(
        code="DPA104",
        title="canary validity",
        question="Were the canaries there, and were they put in or left out by fair coins?",
        fails="the numbers of canaries in and out are not those of fair coins.",
        inconclusive="the numbers are not recorded, or there was no audit.",
        why="One-run bounds hold only if each canary was in or out by its own fair coin.",
        fix="Draw the coins from the run's own stream, one for each canary, and leave no canary out afterwards.",
        judge=canary_validity,
    ),
)
