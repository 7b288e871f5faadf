"""The gate: evidence, policy and date give one verdict; a pure function, with three answers.

A rule that fails makes FAIL; else a rule that could not be judged makes INCONCLUSIVE; else PASS. A check that
is missing, was skipped, crashed or gave no number is never a pass. Rendering a verdict never changes it.
"""

from collections.abc import Sequence
from datetime import date

from dpaudit import rules_waivers
from dpaudit.evidence import Evidence
from dpaudit.policy import Policy
from dpaudit.records import AccountingSummary, Finding, Status, Verdict
from dpaudit.rules import RULES
from dpaudit.rules_base import Beside, Case, Rule


def evaluate(
    evidence: Evidence,
    policy: Policy,
    *,
    today: date,
    recomputed: AccountingSummary | None,
    baseline: Evidence | None = None,
    beside: Beside | None = None,
    rules: Sequence[Rule] = RULES,
) -> Verdict:
    """Judge evidence under a policy at a date.

    Args:
        evidence: the verified bundle.
        policy: the effective policy.
        today: date of the judgement; the same inputs and date always give the same verdict.
        recomputed: accounting that the caller has just recomputed from the bundle's ledger; None if it has not,
            which leaves DPA001 inconclusive unless the policy says `recompute = false`.
        baseline: evidence of the released model, to compare with (DPA401).
        beside: what else the gate was shown: the released model's digest, a seal, a fire drill, earlier releases.
        rules: the rules to ask, all by default.
    """
    case = Case(
        evidence=evidence, policy=policy, today=today, recomputed=recomputed, baseline=baseline,
        beside=beside or Beside(),
    )  # fmt: skip
    findings = [rules_waivers.apply(case, _ask(rule, case)) for rule in rules]
    findings += rules_waivers.about_waivers(case, findings)
    return Verdict(
        status=overall(findings),
        findings=tuple(findings),
        digests=_digests(case),
        date=today.isoformat(),
        profile=policy.profile,
    )


def _digests(case: Case) -> dict[str, str]:
    """Return the digests of everything that was judged; what the gate was not shown has none."""
    beside = case.beside
    found = {
        "evidence": case.evidence.digest,
        "policy": case.policy.digest,
        "policy_of_run": (case.evidence.policy or {}).get("digest"),
        "baseline": case.baseline.digest if case.baseline else None,
        "model": beside.model_sha256,
        "seal": beside.seal.digest if beside.seal else None,
        "drill": beside.drill.evidence.digest if beside.drill else None,
        **{f"release.{number}": release.digest for number, release in enumerate(beside.releases, start=1)},
    }
    return {name: digest for name, digest in found.items() if isinstance(digest, str)}


def overall(findings: Sequence[Finding]) -> Status:
    """Return the status of a verdict; without a single rule that passed or was waived there is nothing to pass."""
    found = {finding.status for finding in findings}
    if Status.FAIL in found:
        return Status.FAIL
    if Status.INCONCLUSIVE in found or not found & {Status.PASS, Status.WAIVED}:
        return Status.INCONCLUSIVE
    return Status.PASS


def _ask(rule: Rule, case: Case) -> Finding:
    """Ask one rule; a rule that crashes could not be judged."""
    try:
        outcome = rule.judge(case)
    except Exception as error:  # whatever went wrong, the answer is that there is none
        return Finding(
            rule=rule.code,
            title=rule.title,
            status=Status.INCONCLUSIVE,
            message=f"the rule could not be judged: {type(error).__name__}: {error}",
            fix="This is an error in dpaudit; please report it with the evidence's manifest.",
        )
    needs_fix = outcome.status in (Status.FAIL, Status.INCONCLUSIVE)
    return Finding(
        rule=rule.code,
        title=rule.title,
        status=outcome.status,
        message=outcome.message,
        measured=outcome.measured,
        limit=outcome.limit,
        fix=(outcome.fix or rule.fix) if needs_fix else None,
    )
