"""What `import dpaudit` promises, and the question of the title."""

import pytest

import dpaudit
from dpaudit import PrivacyLedger, Status, is_differentially_private
from dpaudit.errors import UsageError


def test_every_promised_name_exists():
    for name in dpaudit.__all__:
        assert getattr(dpaudit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dpaudit.nothing


def test_increment_epsilon_composes_and_the_answer_has_three_values():
    ledger = PrivacyLedger(unit="client")
    ledger.increment_epsilon(0.5)
    ledger.increment_epsilon(0.25, delta=1e-7)
    assert ledger.epsilon(1e-6) == pytest.approx(0.75, rel=1e-3)
    alone = is_differentially_private(ledger, epsilon=1.0, delta=1e-6)
    assert alone.status == Status.INCONCLUSIVE
    assert [f.status for f in alone.findings] == [Status.PASS, Status.INCONCLUSIVE]
    assert "no audit" in alone.findings[1].message
    assert is_differentially_private(ledger, 1.0, 1e-6, require_audit=False).status == Status.PASS
    over = is_differentially_private(ledger, 0.7, 1e-6, require_audit=False)
    assert over.status == Status.FAIL
    assert over.findings[0].measured > 0.7
    with pytest.raises(UsageError, match="three values"):
        bool(alone)


def test_a_delta_that_is_spent_has_no_bound():
    ledger = PrivacyLedger()
    ledger.increment_epsilon(0.1, delta=1e-3)
    assert is_differentially_private(ledger, 1.0, 1e-6, require_audit=False).status == Status.INCONCLUSIVE


def test_a_ledger_file_is_judged_like_a_ledger(tmp_path):
    ledger = PrivacyLedger(tmp_path / "l.jsonl")
    ledger.increment_epsilon(2.0)
    assert is_differentially_private(tmp_path / "l.jsonl", 1.0, 1e-6).status == Status.FAIL
