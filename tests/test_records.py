"""Records refuse what must not exist; JSON carries them both ways and refuses NaN."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpaudit import serialize
from dpaudit.errors import DataError, UsageError
from dpaudit.records import AttackResult, Bound, Claim, Direction, Family, Finding, ScoreSet, Status, Verdict


def bound(**changes):
    values = {"method": "m", "family": Family.GAUSSIAN, "direction": Direction.LOWER, "epsilon": 1.0, "delta": 1e-5}
    return Bound(**{**values, **changes})


def test_a_bound_without_a_number_needs_a_reason():
    with pytest.raises(UsageError, match="must say why"):
        bound(epsilon=None)
    assert bound(epsilon=None, reason="one side is empty").epsilon is None


@pytest.mark.parametrize("epsilon", [math.nan, math.inf, -0.1])
def test_a_bound_is_never_nan_infinite_or_negative(epsilon):
    with pytest.raises(UsageError, match="epsilon must be finite"):
        bound(epsilon=epsilon)


def test_an_attack_without_auc_needs_a_reason():
    with pytest.raises(UsageError, match="must say why"):
        AttackResult(attack="a", threat_model="t", auc=None)


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 1e-5), (math.inf, 1e-5), (1, 0), (1, 1), (1, math.nan)])
def test_a_claim_is_finite_and_delta_is_inside_the_unit_interval(epsilon, delta):
    with pytest.raises(UsageError):
        Claim(epsilon=epsilon, delta=delta)


def test_scores_must_be_finite_vectors():
    with pytest.raises(DataError, match="NaN or infinite"):
        ScoreSet(member=np.array([0.0, np.nan]), non_member=np.zeros(2))
    with pytest.raises(DataError, match="one-dimensional"):
        ScoreSet(member=np.zeros((2, 2)), non_member=np.zeros(2))


def test_a_verdict_is_not_a_boolean_and_has_an_exit_code():
    verdicts = {status: Verdict(status=status, findings=()) for status in Status}
    assert verdicts[Status.PASS].exit_code == 0
    assert verdicts[Status.FAIL].exit_code == 1
    assert {verdicts[s].exit_code for s in Status if s not in (Status.PASS, Status.FAIL)} == {3}
    with pytest.raises(UsageError, match="three values"):
        bool(verdicts[Status.INCONCLUSIVE])


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)


@given(
    epsilon=st.floats(0, 1e6),
    delta=st.floats(1e-300, 0.5),
    details=st.dictionaries(st.text(), scalars, max_size=3),
    reason=st.text(),
)
def test_bounds_survive_json(epsilon, delta, details, reason):
    before = bound(epsilon=epsilon, delta=delta, details=details, reason=reason)
    after = serialize.from_jsonable(Bound, serialize.loads(serialize.dumps(before)))
    assert after == before


def test_verdicts_survive_json():
    before = Verdict(
        status=Status.FAIL,
        findings=(Finding(rule="DPA001", title="t", status=Status.FAIL, message="m", measured=1.5, limit="x"),),
        digests={"evidence": "0" * 64},
    )
    assert serialize.from_jsonable(Verdict, serialize.loads(serialize.dumps(before))) == before


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan"), {"a": [math.nan]}, object()])
def test_json_refuses_what_it_cannot_carry(value):
    with pytest.raises(DataError):
        serialize.dumps(value)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a":1,"a":2}', "{", "[" * 100_000, b"\xff\xfe"])
def test_json_that_is_refused(text):
    with pytest.raises(DataError):
        serialize.loads(text)


def test_unknown_fields_and_wrong_types_are_named():
    body = serialize.to_jsonable(Claim(epsilon=1.0, delta=1e-5))
    with pytest.raises(DataError, match="epsilon"):
        serialize.from_jsonable(Claim, {**body, "epsilon": "much"})
    with pytest.raises(DataError, match="surprise"):
        serialize.from_jsonable(Claim, {**body, "surprise": 1})


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    target = tmp_path / "f"
    serialize.write_atomic(target, "old")

    def broken(*_):
        raise OSError("no")

    monkeypatch.setattr(serialize.os, "replace", broken)
    with pytest.raises(OSError, match="no"):
        serialize.write_atomic(target, "new")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
