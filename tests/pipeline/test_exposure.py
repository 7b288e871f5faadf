"""Groups and records: simultaneous intervals hold, a leaking group is found, and false names stay rare."""

import numpy as np
import pytest
from scipy.stats import binom

from dpaudit.errors import DataError
from dpaudit.estimation.auc import exact_auc
from dpaudit.pipeline.exposure import CHECK_ID, exposed_records, group_results, worst_group
from dpaudit.records import ScoreSet, Status


def sides(rng, n=600, groups=6, leak=0.0):
    member, group = rng.random(n) < 0.5, rng.integers(0, groups, n)
    return rng.normal(size=n) + leak * (member & (group == 2)), member, group


@pytest.mark.statistical(failure_probability=1e-6)
def test_intervals_hold_together():
    """All of 14 intervals hold the truth (AUC 1/2) but with probability 0.2; by Hoeffding far less often."""
    misses = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        (one, member, group), (two, *_) = sides(rng), sides(rng)
        found = group_results({"a": one, "b": two}, member, {"class": group}, significance=0.2)
        assert len(found) == 14
        misses += any(not r.auc_ci[0] <= 0.5 <= r.auc_ci[1] for r in found)
    assert misses <= binom.isf(1e-6, 60, 0.2)


def test_a_leaking_group_refutes_a_ceiling_that_the_average_hides():
    rng = np.random.default_rng(1)
    scores, member, group = sides(rng, n=3000, leak=4.0)
    found = group_results({"a": scores}, member, {"class": group})
    everyone = next(result for result in found if result.grouping == "everyone")
    assert everyone.auc_ci[0] < 0.62
    check = worst_group(found, 0.62)
    assert (check.id, check.status) == (CHECK_ID, Status.FAIL)
    assert "class 2" in check.detail
    assert check.statistic > check.threshold == 0.62
    assert check.refuted
    assert check.p_value is None
    assert worst_group(found, 0.999).status == Status.PASS
    assert worst_group(found, 0.999).refuted is None
    unknown = worst_group(found, None)
    assert (unknown.status, unknown.threshold) == (Status.INCONCLUSIVE, None)


def test_small_groups_are_left_out_with_a_reason():
    rng = np.random.default_rng(2)
    scores, member, group = sides(rng, n=40, groups=8)
    found = group_results({"a": scores}, member, {"class": group})
    small = [result for result in found if result.auc is None]
    assert small
    assert all("fewer than 10" in result.reason for result in small)
    nothing = worst_group(small, 0.9)
    assert nothing.status == Status.INCONCLUSIVE
    assert worst_group((), 0.9).status == Status.INCONCLUSIVE
    with pytest.raises(DataError, match="grouping"):
        group_results({"a": scores}, member, {"class": group[:5]})


@pytest.mark.statistical(failure_probability=1e-6)
def test_named_records_are_rarely_named_falsely():
    """Without any leak, a name appears with probability at most the false-discovery rate."""
    named = 0
    for seed in range(80):
        scores, member, _ = sides(np.random.default_rng(seed), n=400)
        named += any(record.discovered for record in exposed_records({"a": scores}, member))
    assert named <= binom.isf(1e-6, 80, 0.1)


def test_the_worst_client_is_not_named_in_what_is_published():
    member = np.arange(400) % 2 == 0
    group = np.array([f"person-{index % 4}" for index in np.arange(400) // 2])
    scores = np.random.default_rng(3).standard_normal(400) + 3.0 * (member & (group == "person-2"))
    results = group_results({"a": scores}, member, {"client": group})
    assert "one client" in worst_group(results, 0.6).detail
    assert "person" not in worst_group(results, 0.6).detail


def test_exposed_members_are_named_with_limits():
    rng = np.random.default_rng(3)
    scores, member, _ = sides(rng, n=2000)
    victims = np.flatnonzero(member)[:30]
    scores[victims] += 9.0
    found = exposed_records({"a": scores}, member, most=40)
    assert set(victims) <= {record.index for record in found if record.discovered}
    first = found[0]
    assert first.p_value == pytest.approx(1 / (1 + (~member).sum()))
    assert first.fpr_upper == pytest.approx(1 - 0.05 ** (1 / (~member).sum()))
    assert len(found) == 40


def test_groups_of_any_type_and_number_are_those_that_a_mask_would_choose():
    rng = np.random.default_rng(4)
    scores, member, group = sides(rng, n=500, groups=9)
    named = np.array([f"client {g}" for g in group])
    found = group_results({"a": scores}, member, {"client": named, "number": group, "each": np.arange(500)})
    assert len(found) == 1 + 9 + 9 + 500
    for result in found[1:10]:
        inside = named == result.group
        own = ScoreSet(member=scores[inside & member], non_member=scores[inside & ~member])
        assert (result.n_member, result.n_non_member) == (own.member.size, own.non_member.size)
        assert result.auc == exact_auc(own)
    assert [r.auc for r in found[1:10]] == [r.auc for r in found[10:19]]
    assert all(r.auc is None and r.n_member + r.n_non_member == 1 for r in found[19:])
