"""What a gate is shown beside the evidence: model, seal, fire drill, earlier releases, commit."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dpaudit.cli.main import run
from dpaudit.evidence import Evidence
from dpaudit.gate import evaluate
from dpaudit.policy import parse_policy
from dpaudit.records import Finding, Status, Unit
from dpaudit.rules_base import Beside, Drill, Seal

PASS, FAIL, UNCLEAR, IDLE = Status.PASS, Status.FAIL, Status.INCONCLUSIVE, Status.NOT_RUN
NOW = ["--now", "2026-11-23"]


@pytest.fixture(scope="module")
def honest(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return factory.make(tmp_path_factory.mktemp("honest"))


def ask(factory: ModuleType, bundle: Evidence, rule: str, beside: Beside, policy: str = "") -> Finding:
    chosen = parse_policy(policy, source="test")
    verdict = evaluate(bundle, chosen, today=factory.TODAY, recomputed=factory.fresh(bundle), beside=beside)
    return next(finding for finding in verdict.findings if finding.rule == rule)


@pytest.mark.parametrize(
    ("shown", "recorded", "policy", "expected"),
    [
        (None, "a" * 64, "", IDLE),
        (None, "a" * 64, "[evidence]\nrequire_model = true", UNCLEAR),
        ("a" * 64, "a" * 64, "", PASS),
        ("b" * 64, "a" * 64, "", FAIL),
        ("a" * 64, None, "", UNCLEAR),
        ("a" * 64, 7, "", UNCLEAR),
    ],
)
def test_model(
    factory: ModuleType, honest: Evidence, *, shown: str | None, recorded: Any, policy: str, expected: Status
) -> None:
    bundle = factory.edited(honest, training={**honest.training, "model_sha256": recorded})
    assert ask(factory, bundle, "DPA302", Beside(model_sha256=shown), policy).status == expected


@pytest.mark.parametrize(
    ("seal", "policy", "expected"),
    [
        (None, "", IDLE),
        (None, "[evidence]\nrequire_signature = true", UNCLEAR),
        (Seal(digest="0" * 64, signer="audit job"), "", PASS),
        (Seal(digest="0" * 64, signer=None, reason="other evidence"), "", FAIL),
    ],
)
def test_seal(factory: ModuleType, honest: Evidence, seal: Seal | None, policy: str, expected: Status) -> None:
    assert ask(factory, honest, "DPA304", Beside(seal=seal), policy).status == expected


@pytest.mark.parametrize(
    ("recorded", "released", "expected"),
    [
        ("0123456789abcdef", "0123456789abcdef", PASS),
        ("0123456789abcdef", "0123456789AB", PASS),
        ("0123456789abcdef", "0123456789ff", FAIL),
        ("01234567", "0123456789abcdef", FAIL),
        (None, "0123456789abcdef", UNCLEAR),
    ],
)
def test_commit(
    factory: ModuleType, honest: Evidence, *, recorded: str | None, released: str, expected: Status
) -> None:
    bundle = factory.edited(honest, provenance={"code": {"commit": recorded, "dirty": False}})
    assert ask(factory, bundle, "DPA303", Beside(commit=released)).status == expected


def drilled(factory: ModuleType, honest: Evidence, **changes: Any) -> Drill:
    """A drill whose planted fault was seen by the noise check."""
    checks = tuple(
        factory.check(c.id, status=FAIL, detail="half the noise") if c.id == "noise.scale" else c for c in honest.checks
    )
    training = {**honest.training, "noise_factor_planted": 0.5}
    bundle = factory.edited(honest, **{"training": training, "checks": checks, **changes})
    return Drill(evidence=bundle, recomputed=factory.fresh(bundle))


def test_a_drill_that_was_caught(factory: ModuleType, honest: Evidence) -> None:
    finding = ask(factory, honest, "DPA105", Beside(drill=drilled(factory, honest)))
    assert finding.status == PASS
    quiet = factory.edited(honest, checks=tuple(c for c in honest.checks if not c.id.startswith("drill.")))
    finding = ask(factory, quiet, "DPA105", Beside(drill=drilled(factory, honest)))
    assert finding.status == PASS
    assert "caught by DPA007" in finding.message


def test_a_drill_that_was_not_caught_fails(factory: ModuleType, honest: Evidence) -> None:
    drill = drilled(factory, honest, checks=honest.checks)
    assert ask(factory, honest, "DPA105", Beside(drill=drill)).status == FAIL


@pytest.mark.parametrize(
    "training",
    [
        {"noise_factor_planted": 1.0},
        {"noise_factor_planted": None},
        {"noise_factor_planted": True},
        {"noise_factor_planted": 2.0},
        {"noise_multiplier": 0.1},
        {"rounds": 3},
        {"clip_norm": 100.0},
        {"data": "another"},
    ],
)
def test_a_drill_of_something_else_says_nothing(
    factory: ModuleType, honest: Evidence, training: dict[str, Any]
) -> None:
    facts = {**honest.training, "noise_factor_planted": 0.5, **training}
    drill = drilled(factory, honest, training={k: v for k, v in facts.items() if v is not None})
    assert ask(factory, honest, "DPA105", Beside(drill=drill)).status == UNCLEAR


@pytest.mark.parametrize(("days", "expected"), [(20, PASS), (60, UNCLEAR), (-30, UNCLEAR)])
def test_a_drill_must_be_recent(factory: ModuleType, honest: Evidence, days: int, expected: Status) -> None:
    drill = drilled(factory, honest, created=honest.created - timedelta(days=days))
    assert ask(factory, honest, "DPA105", Beside(drill=drill)).status == expected


def earlier(factory: ModuleType, honest: Evidence, number: int, **changes: Any) -> Evidence:
    return factory.edited(honest, digest=f"{number:064x}", **changes)


def budget(epsilon: float, *releases: Evidence) -> str:
    listed = ", ".join(f'"{release.digest}"' for release in releases)
    return f"[budget]\nepsilon = {epsilon}\nreleases = [{listed}]\n"


def test_budget(factory: ModuleType, honest: Evidence) -> None:
    one, other = earlier(factory, honest, 1), earlier(factory, honest, 2)
    together = replace(factory.fresh(honest), epsilon_pld=9.5)
    nothing = replace(together, epsilon_pld=None, reasons={"epsilon_pld": "no"})
    devices = earlier(factory, honest, 3, claim=replace(honest.claim, unit=Unit.CLIENT))
    beside = Beside(releases=(one, other), composed=together)
    assert ask(factory, honest, "DPA402", beside).status == IDLE
    assert ask(factory, honest, "DPA402", beside, budget(10, one, other)).status == PASS
    assert ask(factory, honest, "DPA402", beside, budget(9, one, other)).status == FAIL
    assert ask(factory, honest, "DPA402", beside, budget(9.5, one)).status == PASS
    alone = Beside(composed=factory.fresh(honest))
    assert ask(factory, honest, "DPA402", alone, budget(10)).status == PASS
    unclear = [
        (Beside(releases=(one,), composed=together), budget(10, one, other)),
        (Beside(releases=(one, other)), budget(10, one, other)),
        (Beside(releases=(one,), composed=nothing), budget(10)),
        (Beside(releases=(one,), composed=replace(together, delta=1e-3)), budget(10)),
        (Beside(releases=(honest,), composed=together), budget(10)),
        (Beside(releases=(earlier(factory, honest, 3, ledger=None),), composed=together), budget(10)),
        (Beside(releases=(devices,), composed=together), budget(10)),
    ]
    for shown, policy in unclear:
        assert ask(factory, honest, "DPA402", shown, policy).status == UNCLEAR, policy


def test_every_digest_of_what_was_judged_is_in_the_verdict(factory: ModuleType, honest: Evidence) -> None:
    beside = Beside(
        model_sha256="a" * 64,
        seal=Seal(digest="5" * 64, signer="x"),
        drill=drilled(factory, honest),
        releases=(earlier(factory, honest, 1),),
    )
    verdict = evaluate(
        honest, parse_policy("", source="x"), today=factory.TODAY, recomputed=None, baseline=honest, beside=beside
    )
    names = {"evidence", "policy", "policy_of_run", "baseline", "model", "seal", "drill", "release.1"}
    assert set(verdict.digests) == names


def test_the_command_line(
    factory: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model files and folders, earlier releases composed by the accountants, and inputs that cannot be read."""
    monkeypatch.setenv("DPAUDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DPAUDIT_NO_CACHE", raising=False)
    model = tmp_path / "model.keras"
    model.write_bytes(b"weights")
    from dpaudit.model_files import model_sha256

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    facts = {**factory.parts(tmp_path)["training"], "model_sha256": model_sha256(model)}
    bundle = factory.real(tmp_path / "a", training=facts)
    before = factory.real(tmp_path / "b", created=factory.CREATED - timedelta(days=1))
    policy = tmp_path / "p.toml"
    policy.write_text(f'[budget]\nepsilon = 9.0\nreleases = ["{before.digest}"]\n')

    def gate(*arguments: str) -> tuple[int, dict[str, str]]:
        code = run(["gate", str(bundle.root), *NOW, "--policy", str(policy), "--json", *arguments])
        document = json.loads(capsys.readouterr().out)
        return code, {finding["rule"]: finding["status"] for finding in document.get("findings", [])}

    code, found = gate("--model", str(model), "--release", str(before.root))
    assert (found["DPA302"], found["DPA402"]) == ("pass", "pass" if code == 0 else "fail")
    single = json.loads((bundle.root / "accounting.json").read_text())["epsilon_pld"]
    assert (code == 1) == (found["DPA402"] == "fail")
    policy.write_text(f'[budget]\nepsilon = {single * 1.01}\nreleases = ["{before.digest}"]\n')
    assert gate("--release", str(before.root))[1]["DPA402"] == "fail"
    assert gate()[1]["DPA402"] == "inconclusive"
    (tmp_path / "other").write_bytes(b"other weights")
    code, found = gate("--model", str(tmp_path / "other"))
    assert (code, found["DPA302"]) == (1, "fail")
    for arguments in (
        ("--model", "nowhere"), ("--release", "nowhere"), ("--drill", "nowhere"), ("--seal", "nowhere"),
        ("--commit", "main"), ("--seal", str(model)),
    ):  # fmt: skip
        assert gate(*arguments)[0] == 2, arguments


def test_model_digests(tmp_path: Path) -> None:
    from hashlib import sha256

    from dpaudit.errors import DataError
    from dpaudit.model_files import model_sha256

    folder = tmp_path / "saved"
    (folder / "variables").mkdir(parents=True)
    (folder / "b.pb").write_bytes(b"b")
    (folder / "variables" / "a").write_bytes(b"a")
    raw = [sha256(data).digest() for data in (b"b", b"a")]  # in the order of their names
    assert model_sha256(folder) == sha256(b"".join(raw)).hexdigest()
    (folder / "link").symlink_to(folder / "b.pb")
    with pytest.raises(DataError, match="link"):
        model_sha256(folder)
    (tmp_path / "empty").mkdir()
    for nothing in ("empty", "nowhere"):
        with pytest.raises(DataError):
            model_sha256(tmp_path / nothing)


@pytest.mark.parametrize("status", ["pass", "fail", "inconclusive"])
def test_quiet_prints_one_line(
    factory: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], status: str
) -> None:
    changes = {"pass": {}, "fail": {"bounds": (factory.bound(epsilon=9.0),)}, "inconclusive": {"powers": ()}}[status]
    bundle = factory.make(tmp_path, **changes)
    policy = tmp_path / "p.toml"
    policy.write_text("[claim]\nrecompute = false\n")
    code = run(["gate", str(bundle.root), *NOW, "--policy", str(policy), "-q"])
    assert code == {"pass": 0, "fail": 1, "inconclusive": 3}[status]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{status.upper()}: ")


def test_strict_can_pass_and_needs_everything(factory: ModuleType, honest: Evidence) -> None:
    """With all that it asks for, strict passes; with any of it missing the verdict is inconclusive, never a pass."""
    strict = parse_policy('profile = "strict"', source="x")
    attacks = tuple(factory.attack(a.attack, n_non_member=5000, auc=a.auc, auc_ci=a.auc_ci) for a in honest.attacks)
    full = factory.edited(honest, attacks=attacks)
    shown = Beside(model_sha256=factory.MODEL)

    def verdict(bundle: Evidence, beside: Beside = shown) -> Status:
        return evaluate(bundle, strict, today=factory.TODAY, recomputed=factory.fresh(bundle), beside=beside).status

    assert verdict(full) == PASS
    assert verdict(full, Beside()) == UNCLEAR
    assert verdict(full, Beside(model_sha256="b" * 64)) == FAIL

    def lacking(*names: str) -> dict[str, Any]:
        return {"training": {k: v for k, v in full.training.items() if k not in names}}

    missing: list[dict[str, Any]] = [
        lacking("trained_at"), lacking("seed_origin"), lacking("model_sha256"), {"provenance": None}, {"powers": ()},
        {"bounds": ()}, {"attacks": ()}, {"checks": ()},
        *({"checks": tuple(c for c in full.checks if c.id != check.id)} for check in full.checks),
    ]  # fmt: skip
    for change in missing:
        assert verdict(factory.edited(full, **change)) == UNCLEAR, change
