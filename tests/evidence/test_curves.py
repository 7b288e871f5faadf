"""Thinned curves say what the scores say, with few points and no raw counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_curve

from dpaudit.errors import DataError
from dpaudit.evidence import curve_of
from dpaudit.evidence_curves import MAX_POINTS
from dpaudit.records import ScoreSet

scores = arrays(np.float64, st.integers(1, 80), elements=st.integers(-5, 5).map(float))


@settings(max_examples=200, deadline=None)
@given(member=scores, non_member=scores)
def test_small_rocs_are_complete(member: np.ndarray, non_member: np.ndarray) -> None:
    curve = curve_of(ScoreSet(member=member, non_member=non_member))
    labels = np.r_[np.ones(member.size), np.zeros(non_member.size)]
    fpr, tpr, _ = roc_curve(labels, np.r_[member, non_member], drop_intermediate=False)
    np.testing.assert_allclose(np.array(curve.roc), np.c_[fpr, tpr], atol=1e-12)
    assert sum(curve.member) == pytest.approx(1)
    assert sum(curve.non_member) == pytest.approx(1)
    assert len(curve.edges) == len(curve.member) + 1 == len(curve.non_member) + 1


def test_large_rocs_are_thinned_to_points_that_were_reached() -> None:
    rng = np.random.default_rng(0)
    member, non_member = rng.standard_normal(20_000) + 1, rng.standard_normal(30_000)
    curve = np.array(curve_of(ScoreSet(member=member, non_member=non_member)).roc)
    assert len(curve) <= MAX_POINTS
    assert tuple(curve[0]) == (0, 0)
    assert tuple(curve[-1]) == (1, 1)
    assert np.all(np.diff(curve, axis=0) >= 0)
    for fpr, tpr in curve[1:-1:20]:
        next_flagged = np.sort(non_member)[::-1][round(fpr * non_member.size)]
        assert tpr == pytest.approx(np.mean(member > next_flagged), abs=1e-9)
    assert np.count_nonzero(curve[:, 0] < 0.01) > 50  # where the interest is


@pytest.mark.parametrize("value", [0.0, 1e300, -1e-300, 5e-324])
def test_one_value_makes_a_curve(value: float) -> None:
    curve = curve_of(ScoreSet(member=np.full(5, value), non_member=np.full(3, value)))
    assert curve.roc == ((0.0, 0.0), (1.0, 1.0))
    assert all(np.isfinite(curve.edges))
    assert all(np.diff(curve.edges) > 0)


def test_no_scores_make_no_curve() -> None:
    with pytest.raises(DataError, match="members and non-members"):
        curve_of(ScoreSet(member=np.array([1.0]), non_member=np.array([])))
