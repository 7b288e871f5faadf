"""What a reader of NIST SP 800-226 asks of a claim, answered from the findings: answered, in part, or not answered.

The rows follow the pyramid of the publication: what is claimed on top, how it is met in the middle, the data at the
base. No row says more than the finding or the assumption behind it.
"""

from dpaudit.evidence import Evidence
from dpaudit.records import AssumptionStatus, Status, Verdict
from dpaudit.reports.clean import plain
from dpaudit.reports.sentences import Story
from dpaudit.reports.view import Table

_ANSWERS = {
    Status.PASS: "answered: confirmed",
    Status.FAIL: "answered: refuted",
    Status.INCONCLUSIVE: "not answered: could not be judged",
    Status.WAIVED: "not answered: waived",
    Status.NOT_RUN: "not answered: not asked",
}
_BY_RULE = (
    ("How much may be learned of one unit, and which unit?", ("DPA005", "DPA004")),
    ("Does the claim follow from what ran?", ("DPA001", "DPA002", "DPA306")),
    ("Was the data sampled as the accounting assumes?", ("DPA003",)),
    ("Was the noise added, and were contributions clipped?", ("DPA007", "DPA102")),
    ("Would a broken mechanism have been noticed?", ("DPA103", "DPA105")),
    ("Is the randomness unpredictable?", ("DPA307",)),
    ("Do attacks stay below what was proven, for the worst-off group too?", ("DPA202", "DPA204")),
    ("Do all releases about the same people stay within a budget?", ("DPA402",)),
    ("Is it known which code and which model this speaks of?", ("DPA302", "DPA303")),
    ("Is it known who stands for the evidence?", ("DPA304",)),
)
_OPEN = (
    ("Floating-point arithmetic of the noise", "not answered: noise is taken as ideal real numbers"),
    ("Side channels: timing, logs, debugging outputs", "not answered: outside of what evidence holds"),
    ("Security of the raw data: collection, access, retention", "not answered: outside of what evidence holds"),
    ("Fairness: does noise cost some groups more accuracy?", "not answered: outside of what evidence holds"),
)
_WORST = (Status.FAIL, Status.INCONCLUSIVE, Status.WAIVED, Status.NOT_RUN, Status.PASS)


def checklist(evidence: Evidence, verdict: Verdict) -> Table:
    """Return the checklist, each row with the rules behind its answer."""
    story = Story(evidence, verdict)
    rows: list[tuple[str, str, str]] = []
    for question, rules in _BY_RULE:
        statuses = [story.status(rule) for rule in rules]
        rows.append((question, _ANSWERS[next(s for s in _WORST if s in statuses)], ", ".join(rules)))
    rows += [_trust(evidence), _utility(evidence)]
    rows += [(question, answer, "") for question, answer in _OPEN]
    return Table(caption="Questions of NIST SP 800-226", headers=("question", "answer", "by"), rows=rows)


def _trust(evidence: Evidence) -> tuple[str, str, str]:
    found = evidence.accounting.assumptions if evidence.accounting else ()
    verified = sum(1 for assumption in found if assumption.status == AssumptionStatus.VERIFIED)
    question = "Who must be trusted, and what is assumed?"
    if not found:
        return question, "not answered: no assumption is recorded", ""
    sees = evidence.ledger.facts.get("server_sees") if evidence.ledger else None
    server = f"; the server sees {plain(sees)}" if isinstance(sees, str) else ""
    return question, f"in part: {verified} of {len(found)} assumptions were verified{server}", "table of assumptions"


def _utility(evidence: Evidence) -> tuple[str, str, str]:
    accuracy, question = evidence.training.get("holdout_accuracy"), "Is the model still useful?"
    if isinstance(accuracy, bool) or not isinstance(accuracy, int | float):
        return question, "not answered: no accuracy is recorded", ""
    return question, f"in part: accuracy {100 * accuracy:.3g}\u00a0% on held-out data", plain("training facts")


def waivers(verdict: Verdict) -> Table | None:
    """Return what is waived and what waivers have to say; None where there is nothing of the kind."""
    rows = [
        (finding.rule, finding.status.value, plain(finding.message))
        for finding in verdict.findings
        if finding.status == Status.WAIVED or finding.rule.startswith("DPA9")
    ]
    if not rows:
        return None
    return Table(
        caption="Waivers: who answers for what, and until when", headers=("rule", "status", "waiver"), rows=rows
    )


def commands(evidence: Evidence, verdict: Verdict) -> list[str]:
    """Return the commands that lead to this verdict again."""
    recorded = (evidence.provenance or {}).get("command")
    made = [plain(recorded)] if isinstance(recorded, str) and recorded else []
    policy = plain(verdict.profile)
    return [
        *made,
        f"dpaudit gate EVIDENCE --policy {policy} --now {plain(verdict.date)}",
        f"dpaudit report EVIDENCE --policy {policy} --now {plain(verdict.date)}",
    ]
