import numpy as np
import pytest
from scipy.stats import binom, norm

from dpaudit.estimation import summarise_attack, tpr_at_fpr
from dpaudit.records import ScoreSet


def draw(rng, n1, n0, shift=1.0, decimals=None):
    member, other = rng.normal(shift, 1, n1), rng.normal(0, 1, n0)
    if decimals is not None:
        member, other = member.round(decimals), other.round(decimals)
    return ScoreSet(member=member, non_member=other)


@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("fpr", [0.5, 0.1, 0.01])
def test_threshold_keeps_the_empirical_rate(fpr, decimals):
    scores = draw(np.random.default_rng(0), 300, 257, decimals=decimals)
    point = tpr_at_fpr(scores, fpr)
    allowed = [t for t in np.unique(scores.non_member) if np.mean(scores.non_member > t) <= fpr]
    assert point.tpr == np.mean(scores.member > min(allowed))
    assert point.ci[0] <= point.tpr <= point.ci[1]


def test_too_few_non_members_are_refused():
    scores = draw(np.random.default_rng(0), 5000, 999)
    point = tpr_at_fpr(scores, 0.001)
    assert point.tpr is None
    assert "999" in point.reason
    assert tpr_at_fpr(draw(np.random.default_rng(0), 50, 1000), 0.001).tpr is not None


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize(
    ("n1", "n0", "fpr"), [(100, 100, 0.1), (400, 100, 0.01), (50, 1000, 0.01), (1000, 1000, 0.001)]
)
def test_interval_holds_the_true_rate(n1, n0, fpr):
    rng = np.random.default_rng(n1 + n0)
    truth, trials, missed = norm.cdf(1 + norm.ppf(fpr)), 1500, 0
    for _ in range(trials):
        low, high = tpr_at_fpr(draw(rng, n1, n0), fpr).ci
        missed += not low <= truth <= high
    assert missed <= binom.isf(1e-6 / 4, trials, 0.05)


@pytest.mark.statistical(failure_probability=1e-6)
def test_advantage_is_not_inflated_by_the_choice_of_the_threshold():
    rng = np.random.default_rng(2)
    found = [
        summarise_attack(draw(rng, 40, 40, 0.0), attack="a", threat_model="t", seed=i).advantage for i in range(500)
    ]
    assert abs(np.mean(found)) < 5 * np.std(found) / np.sqrt(500)
    assert np.mean([max(f, 0) for f in found]) > 0  # it does vary


def test_summary_of_a_good_attack():
    result = summarise_attack(
        draw(np.random.default_rng(1), 2000, 3000, 2.0), attack="loss", threat_model="black-box", details={"x": 1}
    )
    assert result.auc_ci[0] < result.auc < result.auc_ci[1]
    assert result.advantage == pytest.approx(2 * norm.cdf(1) - 1, abs=0.05)
    assert result.balanced_accuracy == pytest.approx((1 + result.advantage) / 2)
    assert [point.fpr for point in result.tpr_at_fpr] == [0.1, 0.01, 0.001]
    assert result.details["auc_interval"] == "delong-logit"
    assert result.details["x"] == 1
    assert (result.n_member, result.n_non_member) == (2000, 3000)


@pytest.mark.parametrize("side", ["member", "non_member"])
def test_an_empty_side_gives_a_reason(side):
    sides = {"member": np.arange(5.0), "non_member": np.arange(5.0), side: np.zeros(0)}
    result = summarise_attack(ScoreSet(**sides), attack="a", threat_model="t")
    assert result.auc is None
    assert result.advantage is None
    assert ("non-members" if side == "non_member" else "members") in result.reason
    assert all(point.tpr is None and point.reason for point in result.tpr_at_fpr)


def test_constant_scores_say_nothing():
    scores = ScoreSet(member=np.ones(200), non_member=np.ones(200))
    result = summarise_attack(scores, attack="a", threat_model="t")
    assert result.auc == 0.5
    assert result.advantage == 0.0
    assert result.tpr_at_fpr[0].tpr == 0.0
    assert result.tpr_at_fpr[0].ci[1] == 1.0
