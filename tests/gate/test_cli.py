"""The commands: exit codes, one JSON document, files written, nothing heavy imported."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dpaudit.cli.main import run
from dpaudit.evidence import Evidence

NOW = ["--now", "2026-11-23"]
FORMATS = ("text", "json", "junit", "junit-strict", "sarif", "gitlab", "github", "md", "html")


@pytest.fixture(scope="module")
def bundle(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return factory.real(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def bundles(factory: ModuleType, bundle: Evidence, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles whose verdicts are pass, fail and inconclusive."""
    parts = {
        "fail": {"bounds": (factory.bound(epsilon=6.5),)},
        "inconclusive": {"powers": ()},
    }
    made = {name: factory.real(tmp_path_factory.mktemp(name), **changes).root for name, changes in parts.items()}
    return {"pass": bundle.root, **made}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DPAUDIT_CACHE", str(cache))
    monkeypatch.delenv("DPAUDIT_NO_CACHE", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)


CODES = {"pass": 0, "fail": 1, "inconclusive": 3}


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
@pytest.mark.parametrize(
    ("options", "mapping"),
    [
        ([], {}),
        (["--allow-inconclusive"], {"inconclusive": 0}),
        (["--report-only"], {"inconclusive": 0, "fail": 0}),
        (["--allow-inconclusive", "--report-only"], {"inconclusive": 0, "fail": 0}),
    ],
)
@pytest.mark.parametrize("status", list(CODES))
def test_exit_codes(
    bundles: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    *,
    status: str,
    options: list[str],
    mapping: dict[str, int],
    json_flag: list[str],
) -> None:
    outputs = [f"--output={kind}={kind}.out" for kind in FORMATS if kind != "html"]
    expected = {**CODES, **mapping}[status]
    assert run(["gate", str(bundles[status]), *NOW, *options, *json_flag, *outputs]) == expected
    printed = capsys.readouterr().out
    if json_flag:
        document = json.loads(printed)
        assert document["schema"] == "dpaudit.gate/v1"
        assert document["status"] == status
        assert document["exit_code"] == expected
        assert set(document["digests"]) == {"evidence", "policy", "policy_of_run"}
        assert len(document["written"]) == len(outputs)
    else:
        last = printed.strip().splitlines()[-1]
        assert last.startswith(f"{status.upper()}: ")
        assert ("exit 0 instead" in last) == (expected != CODES[status])
    assert json.loads(Path("json.out").read_text())["status"] == status


@pytest.mark.parametrize("status", list(CODES))
def test_the_html_output_does_not_change_the_exit_code(bundles: dict[str, Path], status: str) -> None:
    assert run(["gate", str(bundles[status]), *NOW, "--output", "html=report.html"]) == CODES[status]
    assert f"Verdict: {status.upper()}" in Path("report.html").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["gate"],
        ["gate", "nowhere"],
        ["gate", "EVIDENCE", "--policy", "nowhere.toml"],
        ["gate", "EVIDENCE", "--policy", "wrong.toml"],
        ["gate", "EVIDENCE", "--now", "yesterday"],
        ["gate", "EVIDENCE", "--output", "pdf=x.pdf"],
        ["gate", "EVIDENCE", "--output", "html"],
        ["gate", "EVIDENCE", "--output", "html="],
        ["gate", "EVIDENCE", "--output", "json=EVIDENCE/verdict.json"],
        ["gate", "EVIDENCE", "--output", "json=EVIDENCE"],
        ["gate", "EVIDENCE", "--frobnicate"],
        ["report", "EVIDENCE", "--format", "docx"],
        ["report", "EVIDENCE", "-o", "EVIDENCE/claim.json"],
        ["explain", "DPA999"],
        ["policy", "check", "wrong.toml"],
        ["policy", "show", "nowhere.toml"],
    ],
)
@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_usage_errors_exit_2(
    bundle: Evidence, capsys: pytest.CaptureFixture[str], arguments: list[str], json_flag: list[str]
) -> None:
    Path("wrong.toml").write_text("[audit]\nmin_powr = 1\n")
    before = {path: path.read_bytes() for path in bundle.root.iterdir()}
    given = [argument.replace("EVIDENCE", str(bundle.root)) for argument in arguments]
    assert run([*given, *json_flag]) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    if json_flag:
        document = json.loads(captured.out)
        assert document["schema"] == f"dpaudit.{arguments[0]}/v1"
        assert document["error"]["exit_code"] == 2
    assert {path: path.read_bytes() for path in bundle.root.iterdir()} == before


def test_changed_evidence_exits_2(bundle: Evidence, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle.root, tmp_path / "copy"))
    (copy / "claim.json").write_bytes((copy / "claim.json").read_bytes().replace(b"6.0", b"9.0"))
    assert run(["gate", str(copy)]) == 2


def test_without_recomputation_the_claim_cannot_pass(bundle: Evidence, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gate", str(bundle.root), *NOW, "--no-recompute", "--json"]) == 3
    finding = json.loads(capsys.readouterr().out)["findings"][0]
    assert (finding["rule"], finding["status"]) == ("DPA001", "inconclusive")
    Path("dpaudit.toml").write_text("[claim]\nrecompute = false\n")
    assert run(["gate", str(bundle.root), *NOW]) == 0


def test_a_stored_accounting_that_flatters_is_caught(factory: ModuleType, tmp_path: Path) -> None:
    """The synthetic accounting of the other tests is not what the accountants give for the ledger."""
    assert run(["gate", str(factory.make(tmp_path).root), *NOW]) == 1


def test_what_the_accountants_refuse_is_inconclusive(
    factory: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dpaudit import events as ev

    factory.write_ledger(tmp_path / "ledger.jsonl", event=ev.Unsupported(description="something new"))
    bundle = factory.make(tmp_path)
    assert run(["gate", str(bundle.root), *NOW, "--json"]) in (1, 3)
    findings = {finding["rule"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["DPA001"]["status"] in ("fail", "inconclusive")


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "accounting").glob("*.json"))


def test_the_cache_is_used_and_never_trusted(
    bundle: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, computed = tmp_path / "own-cache", []

    def summarize(*_: object, **__: object) -> object:
        computed.append(1)
        return bundle.accounting

    monkeypatch.setenv("DPAUDIT_CACHE", str(cache))
    monkeypatch.setattr("dpaudit.cli.accounting_cache._code_digest", lambda: "fixed")
    monkeypatch.setattr("dpaudit.accounting.summarize", summarize)

    def gate() -> int:
        before = len(computed)
        assert run(["gate", str(bundle.root), *NOW, "--json"]) == 0
        capsys.readouterr()
        return len(computed) - before

    assert gate() == 1
    (entry,) = entries(cache)
    assert entry.stat().st_mode & 0o077 == 0
    good = entry.read_bytes()
    assert gate() == 0
    for place in range(0, len(good), 97):
        changed = bytearray(good)
        changed[place] ^= 1
        entry.write_bytes(bytes(changed))
        assert gate() == 1  # ignored, computed again, and written again
        assert entry.read_bytes() == good
    for rubbish in (b"", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000):
        entry.write_bytes(rubbish)
        assert gate() == 1
    other = json.loads(good)
    other["key"]["delta"] = 1e-6
    entry.write_text(json.dumps(other))
    assert gate() == 1
    monkeypatch.setenv("DPAUDIT_NO_CACHE", "1")
    entry.unlink()
    assert gate() == 1
    assert not entries(cache)


def test_a_cache_that_cannot_be_written_is_no_error(
    bundle: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DPAUDIT_CACHE", str(tmp_path / "file"))
    assert run(["gate", str(bundle.root), *NOW]) == 0


@pytest.mark.parametrize("kind", ["html", "md", "json"])
def test_report(bundles: dict[str, Path], capsys: pytest.CaptureFixture[str], kind: str) -> None:
    for status, root in bundles.items():
        assert run(["report", str(root), "--format", kind, "-o", f"r.{kind}", *NOW, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["written"] == f"r.{kind}"
        assert document["status"] == status
        assert Path(f"r.{kind}").stat().st_size > 1000


@pytest.mark.parametrize("answer", [0, 1])
def test_report_open_shows_the_file_and_never_fails(
    bundles: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("click.launch", lambda url: shown.append(url) or answer)
    assert run(["report", str(bundles["fail"]), "--format", "md", *NOW, "--open"]) == 0
    assert shown == [Path("dpaudit-report.md").resolve().as_uri()]
    assert ("could open" in capsys.readouterr().err) == (answer != 0)


def test_explain_rules_and_policy(capsys: pytest.CaptureFixture[str]) -> None:
    from dpaudit.rules import CATALOGUE

    assert run(["rules", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["rules"]
    assert [rule["code"] for rule in listed] == [rule.code for rule in CATALOGUE]
    for rule in CATALOGUE:
        assert run(["explain", rule.code.lower()]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert rule.question in printed
        assert rule.why in printed
    Path("dpaudit.toml").write_text('profile = "strict"\n[claim]\nepsilon = 2.5\n')
    assert run(["policy", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["policy"]["claim"]["epsilon"] == 2.5
    assert shown["origins"]["claim.epsilon"] == "dpaudit.toml"
    assert shown["origins"]["audit.min_power"] == "profile strict"
    assert run(["policy", "check"]) == 0
    assert run(["policy", "schema", "--json"]) == 0


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_in_github_actions(
    bundles: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    json_flag: list[str],
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    Path("summary.md").write_text("before\n")
    assert run(["gate", str(bundles["fail"]), *NOW, *json_flag]) == 1
    captured = capsys.readouterr()
    if json_flag:
        assert json.loads(captured.out)["status"] == "fail"
    assert "::error " in (captured.err if json_flag else captured.out)
    summary = Path("summary.md").read_text()
    assert summary.startswith("before\n### dpaudit: FAIL")
    assert run(["gate", str(bundles["fail"]), *NOW, "--no-ci", *json_flag]) == 1
    captured = capsys.readouterr()
    assert "::error " not in captured.out + captured.err
    assert Path("summary.md").read_text() == summary
    Path("summary.md").write_bytes(b"x" * ((1 << 20) - 2000))
    assert run(["gate", str(bundles["fail"]), *NOW]) == 1
    assert Path("summary.md").stat().st_size < 1 << 20
    assert Path("summary.md").read_text().endswith("(cut)\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "no/such/folder/summary.md")
    assert run(["gate", str(bundles["pass"]), *NOW]) == 0


def test_baseline_and_diff(bundles: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gate", str(bundles["pass"]), *NOW, "--baseline", str(bundles["fail"]), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {f["rule"]: f["status"] for f in document["findings"]}["DPA401"] == "pass"
    assert "baseline" in document["digests"]
    assert run(["gate", str(bundles["pass"]), *NOW, "--baseline", "nowhere"]) == 2
    capsys.readouterr()
    assert run(["diff", str(bundles["pass"]), str(bundles["fail"]), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "dpaudit.diff/v1"
    assert {"item": "bound.mean-shift.epsilon", "before": 2.4, "after": 6.5} in document["differences"]
    assert run(["diff", str(bundles["pass"]), "nowhere"]) == 2


HEAVY = (
    "tensorflow",
    "keras",
    "matplotlib",
    "dp_accounting",
    "scipy.stats",
    "pandas",
    "sklearn",
    "cryptography",
    "mlflow",
)


@pytest.mark.parametrize(
    "arguments",
    [
        ["gate", "EVIDENCE", "--no-recompute", "--output", "junit=j.xml", "--output", "md=m.md"],
        ["rules"],
        ["explain", "DPA101"],
        ["policy", "show"],
        ["--help"],
    ],
)
def test_nothing_heavy_is_imported(bundle: Evidence, arguments: list[str]) -> None:
    given = [argument.replace("EVIDENCE", str(bundle.root)) for argument in arguments]
    code = (
        "import sys\nfrom dpaudit.cli.main import run\n"
        f"code = run({given!r})\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print('LOADED', loaded, code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED [] " in done.stdout


def test_a_cached_gate_imports_nothing_heavy(bundle: Evidence) -> None:
    assert run(["gate", str(bundle.root), *NOW]) == 0
    code = (
        "import sys\nfrom dpaudit.cli.main import run\n"
        f"assert run(['gate', {str(bundle.root)!r}, '--now', '2026-11-23']) == 0\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout


@pytest.mark.parametrize(
    ("variables", "options", "coloured"),
    [
        ({}, [], False),
        ({"FORCE_COLOR": "1"}, [], True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, [], False),
        ({"NO_COLOR": "1"}, ["--color", "always"], True),
        ({"FORCE_COLOR": "1"}, ["--color", "never"], False),
    ],
)
def test_colour(
    bundle: Evidence,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    variables: dict[str, str],
    options: list[str],
    coloured: bool,
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda *_: False)
    monkeypatch.setattr("click._compat.should_strip_ansi", lambda *_, **__: False)
    run(["gate", str(bundle.root), *NOW, *options])
    assert ("\x1b[" in capsys.readouterr().out) == coloured
