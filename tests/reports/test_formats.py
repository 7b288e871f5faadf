"""Text, JSON, JUnit and Markdown: the same verdict, read by third-party parsers, whatever names the evidence holds."""

import json
import unicodedata
from dataclasses import replace
from types import ModuleType
from typing import Any
from xml.etree import ElementTree as ET

import junitparser
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpaudit import reports, serialize
from dpaudit.errors import UsageError
from dpaudit.evidence import Evidence
from dpaudit.gate import evaluate
from dpaudit.policy import parse_policy
from dpaudit.records import Finding, Status, Verdict
from dpaudit.reports.clean import plain
from dpaudit.reports.markdown import escape

WAIVER = (
    '[[waiver]]\nrule = "DPA103"\nreason = "being enlarged now"\nticket = "T-1"\nowner = "me"\nexpires = 2026-12-20\n'
    '[[waiver]]\nrule = "DPA301"\nreason = "nothing to waive"\nticket = "T-2"\nowner = "me"\nexpires = 2026-12-20\n'
    '[[waiver]]\nrule = "DPA306"\nreason = "nothing to waive"\nticket = "T-3"\nowner = "me"\nexpires = 2026-12-20\n'
)
HOSTILE = (
    "<script>alert(1)</script>",
    "]]>&<!--\x1b[31mred\x07",
    "a | b\n| c ` _d_ [x](http://e) @me #1",
    "x" * 3000,
    "\u202eevil\u2066",
    "$\\frac{$ {{ 7*7 }} {% raw %}",
    "::error::boo%0A",
)


@pytest.fixture(scope="module")
def bundle(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Fails, is inconclusive, waived, passes and is not asked, all at once."""
    return factory.make(
        tmp_path_factory.mktemp("mixed"),
        bounds=(factory.bound(epsilon=7.0),),
        powers=(),
        checks=tuple(factory.check(name) for name in factory.CHECKS if not name.startswith("sampling")),
    )


@pytest.fixture(scope="module")
def verdict(factory: ModuleType, bundle: Evidence) -> Verdict:
    result = evaluate(bundle, parse_policy(WAIVER, source="x"), today=factory.TODAY, recomputed=factory.fresh(bundle))
    assert {finding.status for finding in result.findings} == set(Status)
    return result


def test_json_round_trip(bundle: Evidence, verdict: Verdict) -> None:
    document = json.loads(reports.render("json", bundle, verdict))
    assert document["schema"] == "dpaudit.gate/v1"
    findings = serialize.from_jsonable(tuple[Finding, ...], document["findings"])
    assert findings == verdict.findings
    assert document["status"] == verdict.status.value
    assert document["digests"] == dict(verdict.digests)


def test_the_whole_report_as_json_keeps_the_coins_apart(bundle: Evidence, verdict: Verdict) -> None:
    document = json.loads(reports.render_report("json", bundle, verdict))
    assert document["schema"] == "dpaudit.report/v1"
    assert document["standing"] == "refuted"
    assert document["bounds"][0]["n_member"] is None
    assert "scores" not in document


@pytest.mark.parametrize("kind", ["junit", "junit-strict"])
def test_junit_is_read_by_junitparser(bundle: Evidence, verdict: Verdict, kind: str) -> None:
    text = reports.render(kind, bundle, verdict)
    parsed = junitparser.JUnitXml.fromstring(text.encode())
    (suite,) = list(parsed)
    cases = list(suite)
    assert suite.tests == len(cases) == len(verdict.findings)
    by_status = [finding.status for finding in verdict.findings]
    assert suite.failures == by_status.count(Status.FAIL)
    assert suite.errors == by_status.count(Status.INCONCLUSIVE)
    assert suite.skipped == by_status.count(Status.WAIVED) + by_status.count(Status.NOT_RUN)
    wanted = {
        Status.FAIL: junitparser.Failure,
        Status.INCONCLUSIVE: junitparser.Error,
        Status.WAIVED: junitparser.Skipped,
        Status.NOT_RUN: junitparser.Skipped,
    }
    for case, finding in zip(cases, verdict.findings, strict=True):
        kinds = [type(result) for result in case.result]
        assert kinds == ([wanted[finding.status]] if finding.status in wanted else [])
        assert finding.rule in case.name
        assert ("file" in case._elem.attrib) == (kind == "junit")
        if kinds:
            assert case.result[0].message
    assert len({(case.classname, case.name) for case in cases}) == len(cases)  # GitLab drops repeated names


# What Jenkins' junit-10.xsd allows, by element: attributes, required attributes, children.
XSD = {
    "testsuites": ({"name", "time", "tests", "failures", "disabled", "errors"}, set(), {"testsuite"}),
    "testsuite": (
        {
            "name",
            "tests",
            "failures",
            "errors",
            "time",
            "disabled",
            "skipped",
            "timestamp",
            "hostname",
            "id",
            "package",
        },
        {"name", "tests", "failures", "errors"},
        {"properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, {"name", "value"}, set()),
    "testcase": (
        {"name", "assertions", "time", "classname", "status"},
        {"name"},
        {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    "skipped": ({"type", "message"}, set(), set()),
    "error": ({"type", "message"}, set(), set()),
    "failure": ({"type", "message"}, set(), set()),
}


def test_strict_junit_holds_only_what_the_xsd_knows(bundle: Evidence, verdict: Verdict) -> None:
    root = ET.fromstring(reports.render("junit-strict", bundle, verdict))
    for element in root.iter():
        allowed, required, children = XSD[element.tag]
        assert set(element.attrib) <= allowed
        assert required <= set(element.attrib)
        assert {child.tag for child in element} <= children
        if "time" in element.attrib:
            whole, _, decimals = element.attrib["time"].partition(".")
            assert whole.isdigit()
            assert len(decimals) <= 3


def test_text_ends_with_the_verdict(bundle: Evidence, verdict: Verdict) -> None:
    text = reports.render("text", bundle, verdict)
    lines = text.splitlines()
    assert lines[-1].startswith("FAIL: 1 failed, 1 inconclusive, 1 waived, ")
    assert "\x1b" not in text
    assert any(line.strip().startswith("FAIL") and "DPA101" in line for line in lines)
    assert "→" in text
    assert max(map(len, lines)) <= 130


def test_markdown_is_a_table_of_all_findings(bundle: Evidence, verdict: Verdict) -> None:
    text = reports.render("md", bundle, verdict)
    rows = [line for line in text.splitlines() if line.startswith("| **")]
    assert len(rows) == len(verdict.findings)
    assert all(row.count("|") == 5 for row in rows)
    assert rows[0].startswith("| **FAIL** | DPA101")
    assert "#### The audit" in reports.render_report("md", bundle, verdict)


def test_unknown_formats_are_refused(bundle: Evidence, verdict: Verdict) -> None:
    with pytest.raises(UsageError, match="formats are"):
        reports.render("docx", bundle, verdict)
    with pytest.raises(UsageError, match="formats are"):
        reports.render_report("junit", bundle, verdict)


def hostile(factory: ModuleType, bundle: Evidence, text: str) -> tuple[Evidence, Verdict]:
    """The same bundle with one text wherever evidence holds text."""
    bad = factory.edited(
        bundle,
        claim=replace(bundle.claim, model=text),
        bounds=(factory.bound(epsilon=7.0, method=text), factory.bound(epsilon=None, reason=text)),
        checks=(factory.check("noise.scale", status=Status.FAIL, detail=text, refuted=text), factory.check(text)),
        attacks=(factory.attack(text, threat_model=text), factory.attack(text, auc=None, reason=text)),
        powers=(factory.power(method=text), factory.power(power=None, reason=text)),
        training={**bundle.training, "name": text, "data": text, "sampler": text},
        environment={text: text, "packages": {text: text}},
        curves={**bundle.curves, text: bundle.curves["lira"]},
        accounting=replace(bundle.accounting, library=text, reasons={"epsilon_pld": text}, epsilon_pld=None),
        version=text,
    )
    result = evaluate(bad, parse_policy("", source="x"), today=factory.TODAY, recomputed=factory.fresh(bundle))
    return bad, result


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("kind", ["text", "json", "junit", "junit-strict", "md"])
def test_hostile_names_stay_text(factory: ModuleType, bundle: Evidence, text: str, kind: str) -> None:
    bad, result = hostile(factory, bundle, text)
    shown = reports.render(kind, bad, result)
    shown.encode()
    if kind == "json":
        assert json.loads(shown)["claim"]["model"] == text
        return
    assert not any(ord(character) < 32 and character != "\n" for character in shown)
    assert "\u202e" not in shown
    assert not any(line.startswith("::") for line in shown.splitlines())
    if kind.startswith("junit"):
        assert len(list(ET.fromstring(shown)[0])) == len(result.findings) + 1
    if kind == "md":
        assert "<script" not in shown
        assert "](" not in shown
        rows = [line for line in shown.splitlines() if line.startswith("|")]
        assert all(row.count("|") == 5 for row in rows)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_any_text_is_one_printable_line(text: str) -> None:
    line = plain(text)
    assert len(line.splitlines()) <= 1
    line.encode()
    assert all(character.isprintable() or unicodedata.category(character) == "Zs" for character in line)
    escaped: Any = escape(text)
    assert not set("|<>`*_[]") & set(escaped)
