import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpaudit.estimation.guessing import correct_guesses
from dpaudit.estimation.sources import ArraySource
from dpaudit.records import ScoreSet


def by_sorting(member, non_member, guesses, rng):
    """The obvious way: shuffle the canaries, sort by score, guess the two ends."""
    scores = np.concatenate([member, non_member])
    bits = np.concatenate([np.ones(member.size, bool), np.zeros(non_member.size, bool)])
    order = rng.permutation(scores.size)
    order = order[np.argsort(scores[order], kind="stable")]
    top, bottom = guesses - guesses // 2, guesses // 2
    return int(bits[order[order.size - top :]].sum() + (~bits[order[:bottom]]).sum())


def scores_of(rng, n1, n0):
    return ScoreSet(member=rng.normal(size=n1) + 0.5, non_member=rng.normal(size=n0))


@pytest.mark.parametrize("guesses", [1, 2, 3, 10, 77, 100])
def test_without_ties_it_is_sorting(guesses):
    rng = np.random.default_rng(0)
    scores = scores_of(rng, 60, 40)
    found = correct_guesses(ArraySource(scores), guesses, rng)
    assert found == by_sorting(scores.member, scores.non_member, guesses, rng)


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("guesses", [3, 8, 14, 20])
def test_ties_are_broken_like_a_shuffle(guesses):
    rng = np.random.default_rng(1)
    scores = ScoreSet(member=rng.integers(0, 3, 11).astype(float), non_member=rng.integers(0, 3, 9).astype(float))
    ours = [correct_guesses(ArraySource(scores), guesses, rng) for _ in range(4000)]
    oracle = [by_sorting(scores.member, scores.non_member, guesses, rng) for _ in range(4000)]
    for v in range(guesses + 1):
        p, q = np.mean(np.equal(ours, v)), np.mean(np.equal(oracle, v))
        assert abs(p - q) < 6.2 * np.sqrt((p * (1 - p) + q * (1 - q) + 1e-4) / 4000)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_counts_are_possible_and_every_canary_is_guessed_at_most_once(data):
    member = np.array(data.draw(st.lists(st.integers(-2, 2), min_size=1, max_size=12)), float)
    other = np.array(data.draw(st.lists(st.integers(-2, 2), min_size=1, max_size=12)), float)
    total = member.size + other.size
    guesses = data.draw(st.integers(1, total))
    scores = ArraySource(ScoreSet(member=member, non_member=other))
    found = correct_guesses(scores, guesses, np.random.default_rng(0))
    assert 0 <= found <= guesses
    assert found <= min(member.size, guesses - guesses // 2) + min(other.size, guesses // 2)
