"""A file read in batches gives the bounds of its scores in memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpaudit.estimation import METHODS, estimate_source, reference
from dpaudit.estimation.sources import ArraySource, StreamSource
from dpaudit.records import ScoreSet

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=64)


def streamed(scores, size):
    def read():
        member, other = scores.member, scores.non_member
        for start in range(0, max(member.size, other.size), size):
            yield ScoreSet(member=member[start : start + size], non_member=other[start : start + size])

    return StreamSource(read)


def vectors(low, high):
    return st.lists(FINITE, min_size=low, max_size=high).map(lambda v: np.array(v, dtype=np.float64))


@settings(max_examples=40, deadline=None)
@given(member=vectors(1, 20), other=vectors(1, 20), size=st.integers(1, 7), data=st.data())
def test_order_statistics_and_counts(member, other, size, data):
    scores = ScoreSet(member=member, non_member=other)
    array, batches = ArraySource(scores), streamed(scores, size)
    for side, n in (("pooled", member.size + other.size), ("non_member", other.size)):
        ranks = data.draw(st.lists(st.integers(1, n), min_size=1, max_size=4))
        found = array.largest(side, ranks)
        pool = np.sort(np.concatenate([member, other]) if side == "pooled" else other)[::-1]
        assert found == [pool[rank - 1] for rank in ranks]
        assert batches.largest(side, ranks) == found
        tally, other_tally = array.tally(found), batches.tally(found)
        for i, threshold in enumerate(found):
            assert tally.member_above[i] == np.sum(member > threshold)
            assert tally.member_at[i] == np.sum(member == threshold)
            assert tally.other_above[i] == np.sum(other > threshold)
            assert tally.other_at[i] == np.sum(other == threshold)
        for name in ("member_above", "member_at", "other_above", "other_at"):
            assert np.array_equal(getattr(tally, name), getattr(other_tally, name))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rule", [None, "bonferroni:5"])
def test_every_method_gives_the_same_bound(method, rule):
    if rule and method in ("mean-shift", "one-shot", "bayes"):
        pytest.skip("has no such rule")
    scores = reference.gaussian(1.5).draw(3000, np.random.default_rng(0))
    options = {"method": method, "delta": 1e-5, "threshold_selection": rule}
    found = estimate_source(ArraySource(scores), **options)
    again = estimate_source(streamed(scores, 250), **options)
    assert again.epsilon == pytest.approx(found.epsilon, rel=1e-9)
    assert again.status is found.status
    assert [a.status for a in again.assumptions] == [a.status for a in found.assumptions]


def test_split_halves_of_a_stream_are_the_same_on_every_pass():
    scores = reference.gaussian(1.0).draw(1000, np.random.default_rng(0))
    first, second = streamed(scores, 100).halves(seed=5)
    assert first.members + second.members == scores.member.size
    assert 0.4 < first.members / scores.member.size < 0.6
    assert first.largest("non_member", [3]) == first.largest("non_member", [3])
    together = np.sort(np.concatenate([first.sample(0).non_member, second.sample(0).non_member]))
    assert np.array_equal(together, np.sort(scores.non_member))


def test_samples_are_bounded_and_keep_the_order(monkeypatch):
    monkeypatch.setattr("dpaudit.estimation.sources.SAMPLE", 50)
    scores = ScoreSet(member=np.arange(1000.0), non_member=np.arange(30.0))
    for source in (ArraySource(scores), streamed(scores, 100)):
        sample = source.sample(seed=1)
        assert 20 < sample.member.size < 90
        assert np.all(np.diff(sample.member) > 0)
        assert sample.member.max() > 500
        assert np.array_equal(sample.non_member, scores.non_member)
        assert np.array_equal(source.prefix().member, np.arange(50.0))
