"""The verdict: three values, waivers that speak, a pure function; a crash is never a pass."""

from dataclasses import replace
from datetime import date, timedelta
from types import ModuleType
from typing import Any

import pytest

from dpaudit.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, UsageError
from dpaudit.evidence import Evidence
from dpaudit.gate import evaluate, overall
from dpaudit.policy import load_policy, parse_policy
from dpaudit.policy_model import CODES
from dpaudit.records import Finding, Status, Verdict
from dpaudit.rules import RULES

PASS, FAIL, UNCLEAR, WAIVED, IDLE = (
    Status.PASS,
    Status.FAIL,
    Status.INCONCLUSIVE,
    Status.WAIVED,
    Status.NOT_RUN,
)


@pytest.fixture(scope="module")
def honest(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return factory.make(tmp_path_factory.mktemp("honest"))


def judge(factory: ModuleType, bundle: Evidence, policy: str = "", today: date | None = None) -> Verdict:
    chosen = parse_policy(policy, source="test")
    return evaluate(bundle, chosen, today=today or factory.TODAY, recomputed=factory.fresh(bundle))


def found(verdict: Verdict, rule: str) -> list[Finding]:
    return [finding for finding in verdict.findings if finding.rule == rule]


def waiver(rule: str, **changes: Any) -> str:
    values = {
        "rule": f'"{rule}"',
        "reason": '"Canaries are being enlarged."',
        "ticket": '"PRIV-142"',
        "owner": '"privacy@corp.example"',
        "expires": "2026-12-20",
        **changes,
    }
    return "[[waiver]]\n" + "\n".join(f"{key} = {value}" for key, value in values.items()) + "\n"


def test_an_honest_bundle_passes(factory: ModuleType, honest: Evidence) -> None:
    verdict = judge(factory, honest)
    assert verdict.status == PASS
    assert verdict.exit_code == EXIT_PASS
    standard = load_policy("standard").digest
    assert verdict.digests == {"evidence": honest.digest, "policy": standard, "policy_of_run": standard}
    assert verdict.date == "2026-11-23"
    assert verdict.profile == "standard"
    assert [finding.rule for finding in verdict.findings] == list(CODES)
    with pytest.raises(UsageError):
        bool(verdict)


@pytest.mark.parametrize(
    ("statuses", "expected", "code"),
    [
        ([PASS, PASS], PASS, EXIT_PASS),
        ([PASS, IDLE], PASS, EXIT_PASS),
        ([PASS, WAIVED], PASS, EXIT_PASS),
        ([PASS, UNCLEAR], UNCLEAR, EXIT_INCONCLUSIVE),
        ([PASS, UNCLEAR, FAIL, WAIVED], FAIL, EXIT_FAIL),
        ([], UNCLEAR, EXIT_INCONCLUSIVE),
        ([IDLE, IDLE], UNCLEAR, EXIT_INCONCLUSIVE),
    ],
)
def test_overall(statuses: list[Status], expected: Status, code: int) -> None:
    findings = tuple(Finding(rule="X", title="x", status=status, message="") for status in statuses)
    assert overall(findings) == expected
    assert Verdict(status=expected, findings=findings).exit_code == code


def test_without_rules_there_is_no_pass(factory: ModuleType, honest: Evidence) -> None:
    verdict = evaluate(honest, load_policy("standard"), today=factory.TODAY, recomputed=None, rules=())
    assert verdict.status == UNCLEAR


def test_a_rule_that_crashes_is_inconclusive(factory: ModuleType, honest: Evidence) -> None:
    def crash(_: object) -> None:
        raise ZeroDivisionError("planted")

    rules = [replace(rule, judge=crash) if rule.code == "DPA101" else rule for rule in RULES]
    verdict = evaluate(
        honest, load_policy("standard"), today=factory.TODAY, recomputed=factory.fresh(honest), rules=rules
    )
    assert verdict.status == UNCLEAR
    assert "planted" in found(verdict, "DPA101")[0].message


def test_the_same_inputs_give_the_same_verdict(factory: ModuleType, honest: Evidence) -> None:
    assert judge(factory, honest) == judge(factory, honest)
    assert judge(factory, honest, today=factory.TODAY + timedelta(days=200)).status == FAIL


@pytest.fixture
def weak(factory: ModuleType, honest: Evidence) -> Evidence:
    """Inconclusive by DPA103 alone."""
    return factory.edited(honest, powers=(factory.power(power=0.5, power_ci=(0.4, 0.6)),))


def test_a_waiver_turns_a_finding_into_waived(factory: ModuleType, weak: Evidence) -> None:
    assert judge(factory, weak).status == UNCLEAR
    verdict = judge(factory, weak, waiver("DPA103"))
    assert verdict.status == PASS
    (finding,) = found(verdict, "DPA103")
    assert finding.status == WAIVED
    for part in ("inconclusive", "2026-12-20", "privacy@corp.example", "PRIV-142", "Canaries are being enlarged."):
        assert part in finding.message
    assert not found(verdict, "DPA901")
    assert not found(verdict, "DPA902")


@pytest.mark.parametrize(
    ("changes", "today", "code"),
    [
        ({"expires": "2026-11-22"}, None, "DPA901"),
        ({"expires": "2027-02-22"}, None, "DPA903"),
        ({"model": '"other*"'}, None, "DPA902"),
    ],
)
def test_waivers_that_do_not_hold(
    factory: ModuleType, weak: Evidence, changes: dict[str, Any], today: date | None, code: str
) -> None:
    verdict = judge(factory, weak, waiver("DPA103", **changes), today)
    assert found(verdict, "DPA103")[0].status == UNCLEAR
    assert found(verdict, code)
    assert verdict.status == (UNCLEAR if code == "DPA902" else FAIL)


def test_an_expired_waiver_names_itself_beside_what_it_hid(factory: ModuleType, weak: Evidence) -> None:
    finding = found(judge(factory, weak, waiver("DPA103", expires="2026-11-22")), "DPA103")[0]
    assert "it ended on 2026-11-22" in finding.message
    assert "PRIV-142" in finding.message


def test_the_last_day_of_a_waiver_counts(factory: ModuleType, weak: Evidence) -> None:
    assert found(judge(factory, weak, waiver("DPA103", expires="2026-11-23")), "DPA103")[0].status == WAIVED


@pytest.mark.parametrize(("limit", "expected"), [(0.5, WAIVED), (0.3, UNCLEAR)])
def test_a_waiver_is_a_ratchet(factory: ModuleType, weak: Evidence, limit: float, expected: Status) -> None:
    verdict = judge(factory, weak, waiver("DPA103", until_value=limit))
    assert found(verdict, "DPA103")[0].status == expected  # measured: the lower limit of the power, 0.4


def test_a_ratchet_needs_something_measured(factory: ModuleType, honest: Evidence) -> None:
    bundle = factory.edited(honest, powers=())
    assert found(judge(factory, bundle, waiver("DPA103", until_value=1.0)), "DPA103")[0].status == UNCLEAR


@pytest.mark.parametrize("rule", ["DPA001", "DPA003", "DPA101"])
@pytest.mark.parametrize("extra", ["", "[waivers]\nnever = []\n"])
def test_some_rules_can_never_be_waived(factory: ModuleType, honest: Evidence, rule: str, extra: str) -> None:
    broken = factory.edited(
        honest,
        claim=replace(honest.claim, epsilon=1.0),
        ledger=factory.write_ledger(None, sampler="shuffle"),
    )
    verdict = judge(factory, broken, extra + waiver(rule))
    assert found(verdict, rule)[0].status in (FAIL, UNCLEAR)
    assert found(verdict, "DPA903")[0].status == FAIL
    assert verdict.status == FAIL


def test_a_policy_can_forbid_more(factory: ModuleType, weak: Evidence) -> None:
    verdict = judge(factory, weak, '[waivers]\nnever = ["DPA103"]\n' + waiver("DPA103"))
    assert found(verdict, "DPA103")[0].status == UNCLEAR


def test_unused_and_ending_waivers_are_notes(factory: ModuleType, honest: Evidence, weak: Evidence) -> None:
    verdict = judge(factory, honest, waiver("DPA103"))
    assert verdict.status == PASS
    assert "matches no finding" in found(verdict, "DPA902")[0].message
    verdict = judge(factory, weak, waiver("DPA103", expires="2026-11-30"))
    assert verdict.status == PASS
    assert "ends in 7 days" in found(verdict, "DPA904")[0].message


def test_a_waiver_for_a_model(factory: ModuleType, weak: Evidence) -> None:
    assert judge(factory, weak, waiver("DPA103", model='"digits*"')).status == PASS
    nameless = factory.edited(weak, claim=replace(weak.claim, model=None))
    assert judge(factory, nameless, waiver("DPA103", model='"digits*"')).status == UNCLEAR


def test_a_passing_finding_is_never_waived(factory: ModuleType, honest: Evidence) -> None:
    assert found(judge(factory, honest, waiver("DPA103")), "DPA103")[0].status == PASS
