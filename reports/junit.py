"""The verdict as JUnit XML, as GitLab and Jenkins read it: one test case for each finding.

FAIL is a `failure`, INCONCLUSIVE an `error` of type `inconclusive`, WAIVED and NOT RUN are `skipped`. GitLab reads
`classname` as the suite, wants `file`, and drops cases that repeat classname and name; the strict XSD of JUnit
knows no `file`, so that `junit-strict` leaves it out.
"""

from collections import Counter
from xml.etree import ElementTree as ET  # XML is only written here

from dpaudit.evidence import Evidence
from dpaudit.records import Finding, Status, Verdict
from dpaudit.reports.clean import plain
from dpaudit.reports.summary import model_name

_SKIPPED = (Status.WAIVED, Status.NOT_RUN)


def render(evidence: Evidence, verdict: Verdict, *, strict: bool = False) -> str:
    """Return the XML; `strict` leaves out what the JUnit XSD does not know."""
    found = Counter(finding.status for finding in verdict.findings)
    totals = {
        "tests": str(len(verdict.findings)),
        "failures": str(found[Status.FAIL]),
        "errors": str(found[Status.INCONCLUSIVE]),
        "skipped": str(found[Status.WAIVED] + found[Status.NOT_RUN]),
        "time": "0.000",
    }
    root = ET.Element("testsuites", {"name": "dpaudit gate", **({} if strict else totals)})
    suite = ET.SubElement(root, "testsuite", {"name": f"dpaudit gate {model_name(evidence)}", **totals})
    properties = ET.SubElement(suite, "properties")
    facts = {"status": verdict.status.value, "profile": verdict.profile, "date": verdict.date, **verdict.digests}
    for name, value in facts.items():
        ET.SubElement(properties, "property", {"name": f"dpaudit.{name}", "value": plain(value)})
    seen: Counter[str] = Counter()
    for finding in verdict.findings:
        seen[finding.rule] += 1
        suite.append(_case(evidence, finding, seen[finding.rule], strict))
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _case(evidence: Evidence, finding: Finding, repeat: int, strict: bool) -> ET.Element:
    name = f"{finding.rule} {finding.title}" + (f" ({repeat})" if repeat > 1 else "")
    attributes = {"classname": f"dpaudit.{model_name(evidence)}", "name": name, "time": "0.000"}
    if not strict:
        attributes["file"] = plain((evidence.root / "manifest.json").as_posix())
    case = ET.Element("testcase", attributes)
    message = plain(finding.message)
    if finding.status == Status.FAIL:
        _told(case, "failure", message, finding.rule, finding.fix)
    elif finding.status == Status.INCONCLUSIVE:
        _told(case, "error", message, "inconclusive", finding.fix)
    elif finding.status in _SKIPPED:
        ET.SubElement(case, "skipped", {"message": message})
    return case


def _told(case: ET.Element, tag: str, message: str, kind: str, fix: str | None) -> None:
    element = ET.SubElement(case, tag, {"message": message, "type": kind})
    element.text = "\n".join(filter(None, [message, plain(fix) if fix else None]))
