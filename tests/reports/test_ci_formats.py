"""SARIF, GitLab and GitHub: what their readers demand, and waived findings left out."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest

from dpaudit import reports
from dpaudit.evidence import Evidence
from dpaudit.gate import evaluate
from dpaudit.policy import Policy, load_policy
from dpaudit.records import Finding, Status, Verdict
from dpaudit.reports.difference import differences
from dpaudit.reports.difference import render as render_differences

POLICY = """profile = "standard"

[audit]
min_power = 0.9

[[waiver]]
rule = "DPA301"
reason = "evidence is renewed next week"
ticket = "T-1"
owner = "me"
expires = 2026-12-20
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dpaudit.toml").write_text(POLICY)
    return tmp_path


@pytest.fixture
def judged(factory: ModuleType, place: Path) -> tuple[Evidence, Verdict, Policy]:
    """DPA101 fails, DPA103 is inconclusive, DPA301 is waived."""
    policy = load_policy()
    bundle = factory.make(
        place, bounds=(factory.bound(epsilon=7.0),), powers=(), created=factory.CREATED.replace(year=2025)
    )
    verdict = evaluate(bundle, policy, today=factory.TODAY, recomputed=factory.fresh(bundle))
    statuses = {finding.rule: finding.status for finding in verdict.findings}
    assert statuses["DPA101"] == Status.FAIL
    assert statuses["DPA103"] == Status.INCONCLUSIVE
    assert statuses["DPA301"] == Status.WAIVED
    return bundle, verdict, policy


def test_sarif_has_what_github_demands(judged: tuple[Evidence, Verdict, Policy]) -> None:
    bundle, verdict, policy = judged
    log = json.loads(reports.render("sarif", bundle, verdict, policy=policy))
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    for rule in rules:
        assert rule["id"]
        for text in (rule["shortDescription"]["text"], rule["fullDescription"]["text"]):
            assert 0 < len(text) <= 1024
        assert rule["help"]["text"]
        assert len(rule["properties"]["tags"]) <= 10
        assert 0 < float(rule["properties"]["security-severity"]) <= 10
    assert run["automationDetails"]["id"].endswith("/")
    assert [(r["ruleId"], r["level"]) for r in run["results"]] == [("DPA101", "error"), ("DPA103", "warning")]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"]
        assert "suppressions" not in result
        (location,) = result["locations"]
        physical = location["physicalLocation"]
        assert Path(physical["artifactLocation"]["uri"]).is_file()
        assert not physical["artifactLocation"]["uri"].startswith(("/", "."))
        assert {"startLine", "startColumn", "endLine", "endColumn"} == set(physical["region"])
        assert re.fullmatch(r"[0-9a-f]{64}", result["partialFingerprints"]["primaryLocationLineHash"])
    lines = {r["ruleId"]: r["locations"][0]["physicalLocation"]["region"]["startLine"] for r in run["results"]}
    assert lines == {"DPA101": 3, "DPA103": 4}  # [audit], min_power


# codeclimate.json of GitLab: required keys and values.
CODE_QUALITY = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["description", "fingerprint", "severity", "location"],
        "properties": {
            "description": {"type": "string", "minLength": 1},
            "check_name": {"type": "string"},
            "fingerprint": {"type": "string", "minLength": 1},
            "severity": {"enum": ["info", "minor", "major", "critical", "blocker"]},
            "location": {
                "type": "object",
                "required": ["path", "lines"],
                "properties": {
                    "path": {"type": "string", "pattern": r"^[^/.]"},
                    "lines": {"type": "object", "required": ["begin"], "properties": {"begin": {"type": "integer"}}},
                },
            },
        },
    },
}


def test_gitlab_code_quality(judged: tuple[Evidence, Verdict, Policy]) -> None:
    bundle, verdict, policy = judged
    text = reports.render("gitlab", bundle, verdict, policy=policy)
    assert not text.startswith("\ufeff")
    entries = json.loads(text)
    jsonschema.validate(entries, CODE_QUALITY)
    assert [(e["check_name"], e["severity"]) for e in entries] == [("DPA101", "blocker"), ("DPA103", "major")]
    assert len({entry["fingerprint"] for entry in entries}) == len(entries)


@pytest.mark.parametrize("kind", ["sarif", "gitlab"])
def test_fingerprints_do_not_follow_measured_numbers(
    factory: ModuleType, judged: tuple[Evidence, Verdict, Policy], kind: str
) -> None:
    bundle, verdict, policy = judged
    other = factory.edited(bundle, bounds=(factory.bound(epsilon=8.0),))
    again = evaluate(other, policy, today=factory.TODAY, recomputed=factory.fresh(other))
    found = [
        re.findall(r'(?:[fF]ingerprint|LineHash)": "([0-9a-f]{64})"', reports.render(kind, *pair, policy=policy))
        for pair in ((bundle, verdict), (other, again))
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_without_a_file_findings_are_anchored_at_the_manifest(judged: tuple[Evidence, Verdict, Policy]) -> None:
    bundle, verdict, _ = judged
    for policy in (None, load_policy("standard")):
        entries = json.loads(reports.render("gitlab", bundle, verdict, policy=policy))
        assert {entry["location"]["path"] for entry in entries} == {"evidence/manifest.json"}


def commands(text: str) -> list[tuple[str, dict[str, str], str]]:
    """Parse workflow commands as the runner does."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(r"::(\w+) ([^:]*)::(.*)", line)
        assert match, line
        pairs = dict(item.split("=", 1) for item in match[2].split(","))
        plain = {k: v.replace("%2C", ",").replace("%3A", ":").replace("%25", "%") for k, v in pairs.items()}
        found.append((match[1], plain, match[3].replace("%0A", "\n").replace("%25", "%")))
    return found


def test_github_annotations(judged: tuple[Evidence, Verdict, Policy]) -> None:
    bundle, verdict, policy = judged
    found = commands(reports.render("github", bundle, verdict, policy=policy))
    assert [kind for kind, _, _ in found] == ["error", "warning", "notice"]
    assert found[0][1] == {"file": "dpaudit.toml", "line": "3", "title": "DPA101 audit lower bound"}
    assert "100 % confidence" not in found[0][2]
    assert "95 % confidence" in found[0][2]


def test_github_annotations_stay_within_ten(judged: tuple[Evidence, Verdict, Policy]) -> None:
    bundle, verdict, policy = judged
    many = tuple(
        Finding(rule="DPA101", title="a,b:c%", status=Status.FAIL, message="m%\n::error::x") for _ in range(30)
    )
    found = commands(reports.render("github", bundle, replace(verdict, findings=many), policy=policy))
    assert len([kind for kind, _, _ in found if kind == "error"]) == 10
    assert "21 more" in found[9][2]
    assert found[0][1]["title"] == "DPA101 a,b:c%"


def test_hostile_names_in_ci_formats(factory: ModuleType, judged: tuple[Evidence, Verdict, Policy]) -> None:
    bundle, _, policy = judged
    name = "x\n::error::%0A,\u202e\x1b[31m\ud7ff"
    bad = factory.edited(
        bundle,
        claim=replace(bundle.claim, model=name),
        checks=(factory.check("noise.x", status=Status.FAIL, detail=name, refuted=name),),
    )
    verdict = evaluate(bad, policy, today=factory.TODAY, recomputed=factory.fresh(bad))
    commands(reports.render("github", bad, verdict, policy=policy))
    for kind in ("sarif", "gitlab"):
        json.loads(reports.render(kind, bad, verdict, policy=policy))


def values(found: list[Any]) -> dict[str, tuple[Any, Any]]:
    return {item.item: (item.before, item.after) for item in found}


def test_differences(factory: ModuleType, place: Path) -> None:
    one = factory.make(place)
    assert differences(one, one) == []
    assert render_differences(one, one) == "no difference"
    other = factory.edited(
        one,
        claim=replace(one.claim, epsilon=7.0),
        bounds=one.bounds[:1],
        training={**one.training, "rounds": 31},
        checks=(factory.check("noise.scale", status=Status.FAIL), *one.checks[1:]),
    )
    found = values(differences(one, other))
    assert found == {
        "claim.epsilon": (6.0, 7.0),
        "bound.one-run.epsilon": (1.1, None),
        "bound.one-run.status": ("ok", None),
        "check.noise.scale": ("pass", "fail"),
        "training.rounds": (30, 31),
    }
    assert "claim.epsilon" in render_differences(one, other)
