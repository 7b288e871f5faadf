"""Every rendering, in every status, put before the validators and parsers of those who read it.

What is not installed is skipped visibly ("not run: ..."); `python3 scripts/validators.py` installs it.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
from junitparser import Error, Failure, JUnitXml, Skipped

from dpaudit import reports
from dpaudit.evidence import Evidence
from dpaudit.gate import evaluate
from dpaudit.policy import Policy, parse_policy
from dpaudit.records import Status, Verdict

HOSTILE = '<script>alert(1)</script> & "quoted" \' %0A::error:: ]]> \u202e \x07 \n- [x](y) @all é 漢'
WAIVER = (
    '[[waiver]]\nrule = "DPA103"\nreason = "Canaries are being enlarged."\nticket = "PRIV-142"\n'
    'owner = "privacy@corp.example"\nexpires = 2026-12-20\n'
)
KINDS = ("pass", "fail", "inconclusive", "waived", "hostile")

Judged = tuple[Evidence, Verdict, Policy]


@pytest.fixture(scope="module")
def honest(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return factory.make(tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="module")
def judged(factory: ModuleType, honest: Evidence, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Judged]:
    """Return the verdicts of every kind, under a policy file."""
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("policy")

    def judge(kind: str) -> Judged:
        changes: dict[str, Any] = {
            "pass": {},
            "fail": {"bounds": (factory.bound(epsilon=9.0),)},
            "inconclusive": {"powers": ()},
            "waived": {"powers": ()},
            "hostile": {
                "claim": replace(honest.claim, model=HOSTILE),
                "checks": (factory.check(HOSTILE, status=Status.FAIL, detail=HOSTILE, refuted=HOSTILE),),
                "bounds": (factory.bound(method=HOSTILE),),
                "attacks": (factory.attack(HOSTILE, threat_model=HOSTILE),),
            },
        }[kind]
        bundle = factory.edited(honest, **changes)
        path = folder / f"{kind}.toml"
        path.write_text(WAIVER if kind == "waived" else "[claim]\nepsilon = 8.0\n")
        policy = parse_policy(path.read_text(), source=str(path))
        return bundle, evaluate(bundle, policy, today=factory.TODAY, recomputed=factory.fresh(bundle)), policy

    return judge


def render(kind: str, judged: Judged) -> str:
    bundle, verdict, policy = judged
    return reports.render(kind, bundle, verdict, policy=policy)


def multitool(validators: Path, path: Path) -> list[dict[str, Any]]:
    """Return what the SARIF multitool says; its exit code is 0 even with errors, so its own output is read."""
    program = validators / "node_modules/@microsoft/sarif-multitool-linux/Sarif.Multitool"
    out = path.with_suffix(".out")
    rules = ["--rule-kind", "Sarif;Ghas", "--level", "Error;Warning"]
    command = [str(program), "validate", str(path), *rules, "-o", str(out), "--log", "ForceOverwrite"]
    environment = {**os.environ, "DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1"}
    subprocess.run(command, check=False, capture_output=True, env=environment, timeout=120)
    found: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8-sig"))["runs"][0]["results"]
    return found


@pytest.mark.parametrize("kind", ["hostile", pytest.param("fail", marks=pytest.mark.slow)])
def test_sarif_by_the_multitool_with_the_rules_of_github(
    validators: Path, judged: Callable[[str], Judged], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "x.sarif"
    path.write_text(render("sarif", judged(kind)))
    assert multitool(validators, path) == []
    broken = json.loads(path.read_text())
    assert broken["runs"][0]["results"]
    del broken["runs"][0]["results"][0]["locations"]
    path.write_text(json.dumps(broken))
    assert multitool(validators, path)  # it does notice


@pytest.mark.parametrize("kind", KINDS)
def test_sarif_by_the_schema_that_the_multitool_ships(
    validators: Path, judged: Callable[[str], Judged], kind: str
) -> None:
    schema = next((validators / "node_modules/@microsoft/sarif-multitool-linux").glob("sarif-2.1.0.json"))
    document = json.loads(render("sarif", judged(kind)))
    jsonschema.validate(document, json.loads(schema.read_text(encoding="utf-8-sig")))
    statuses = [finding.status for finding in judged(kind)[1].findings]
    wanted = sum(status in (Status.FAIL, Status.INCONCLUSIVE) for status in statuses)
    assert len(document["runs"][0]["results"]) == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_junit_by_parser_and_schema(validators: Path, judged: Callable[[str], Judged], kind: str) -> None:
    xmlschema = pytest.importorskip("xmlschema", reason="not run: xmlschema is not installed")
    schema = xmlschema.XMLSchema(str(validators / "node_modules" / "junit-10.xsd"))
    strict = render("junit-strict", judged(kind))
    schema.validate(strict)
    assert not schema.is_valid(strict.replace("<testcase ", '<testcase nonsense="1" ', 1))
    for name in ("junit", "junit-strict"):
        suite = next(iter(JUnitXml.fromstring(render(name, judged(kind)).encode())))
        results = [result for case in suite for result in case.result]
        statuses = [finding.status for finding in judged(kind)[1].findings]
        assert sum(isinstance(r, Failure) for r in results) == statuses.count(Status.FAIL)
        assert sum(isinstance(r, Error) for r in results) == statuses.count(Status.INCONCLUSIVE)
        skipped = statuses.count(Status.WAIVED) + statuses.count(Status.NOT_RUN)
        assert sum(isinstance(r, Skipped) for r in results) == skipped
        assert len({(case.classname, case.name) for case in suite}) == len(statuses)  # GitLab drops repeated ones


CODE_QUALITY = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["description", "fingerprint", "severity", "location"],
        "properties": {
            "description": {"type": "string"},
            "fingerprint": {"type": "string"},
            "severity": {"enum": ["info", "minor", "major", "critical", "blocker"]},
            "location": {
                "type": "object",
                "required": ["path", "lines"],
                "properties": {"path": {"type": "string"}, "lines": {"properties": {"begin": {"type": "integer"}}}},
            },
        },
    },
}
"""What GitLab's parser demands of an entry (its codeclimate.json and the documented severities), re-typed."""


def test_gitlab_code_quality_by_check_jsonschema(judged: Callable[[str], Judged], tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="not run: check-jsonschema is not installed")
    import sys

    (tmp_path / "schema.json").write_text(json.dumps(CODE_QUALITY))
    for kind in KINDS:
        (tmp_path / f"{kind}.json").write_text(render("gitlab", judged(kind)))
    files = [f"{kind}.json" for kind in KINDS]
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", "schema.json", *files]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    (tmp_path / "fail.json").write_text('[{"description": "no fingerprint"}]')
    assert subprocess.run(command, check=False, cwd=tmp_path, capture_output=True).returncode != 0


@pytest.mark.parametrize("kind", ["waived", *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS if k != "waived")])
def test_html_by_html_validate(validators: Path, judged: Callable[[str], Judged], tmp_path: Path, kind: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(render("html", judged(kind)))
    program = validators / "node_modules/html-validate/bin/html-validate.mjs"
    command = ["node", str(program), "--formatter", "json", "--preset", "standard,a11y,document", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=validators)
    messages = [message for file in json.loads(done.stdout) for message in file["messages"]]
    assert [(m["ruleId"], m["message"], m["line"]) for m in messages] == []
    path.write_text(path.read_text().replace("<h1>", "<h1><p>", 1))
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=validators)
    assert done.returncode != 0


@pytest.mark.parametrize("kind", ["fail", *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS if k != "fail")])
def test_the_page_in_chromium(
    validators: Path, chromium: str, judged: Callable[[str], Judged], tmp_path: Path, kind: str
) -> None:
    """axe-core in light, dark, narrow and print: no violation; nothing fetched, nothing overflows, no console error."""
    path, pictures = tmp_path / "report.html", Path(os.environ.get("DPAUDIT_SCREENSHOTS", tmp_path)) / kind
    path.write_text(render("html", judged(kind)))
    assert path.stat().st_size < 500_000
    pictures.mkdir(parents=True, exist_ok=True)
    command = ["node", str(validators / "page.mjs"), chromium, str(path), str(pictures)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["requests"]) == {path.as_uri()}
    assert found["errors"] == []
    assert set(found["views"]) == {"light", "dark", "narrow", "print"}
    for name, view in found["views"].items():
        assert view["violations"] == [], name
        assert view["overflow"] <= 0, name
        assert (pictures / f"{name}.png").stat().st_size > 20_000
    assert found["views"]["light"]["background"] != found["views"]["dark"]["background"]


@pytest.mark.parametrize("kind", ["fail"])
def test_pdf_by_pypdf(chromium: str, judged: Callable[[str], Judged], kind: str) -> None:
    pypdf = pytest.importorskip("pypdf", reason="not run: pypdf is not installed")
    from io import BytesIO

    assert chromium
    bundle, verdict, _ = judged(kind)
    data = reports.render_report("pdf", bundle, verdict)
    assert isinstance(data, bytes)
    reader = pypdf.PdfReader(BytesIO(data))
    assert reader.trailer["/Root"]["/MarkInfo"]["/Marked"]
    assert reader.trailer["/Root"]["/Lang"].startswith("en")
    text = " ".join(page.extract_text() for page in reader.pages)
    assert "Verdict: FAIL" in text
    assert "The release does not meet the policy" in " ".join(text.split())
    assert "Shaded: pointwise 95 % limits" in " ".join(text.split())
    assert "Data of" not in text  # the style sheet for print is in force: nothing on paper unfolds
    assert len(reader.pages) >= 3
