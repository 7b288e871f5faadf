"""Attacks on a federation: planted signals are found, by the right statistic, and the wrong shapes are refused."""

import numpy as np
import pytest
from scipy.stats import kstest

from dpaudit.attacks.client_updates import ClientUpdateAttack, took_part, whose
from dpaudit.attacks.comparable import auc
from dpaudit.attacks.one_shot import absence_p_values, canary_directions, one_shot_scores
from dpaudit.attacks.rounds import ObservedRounds, RoundsAttack, alignments
from dpaudit.attacks.source_inference import SourceInference, judge_sources
from dpaudit.attacks.trajectory import TrajectoryAttack, round_ratios
from dpaudit.errors import DataError

P, CLIENTS, ROUNDS = 400, 6, 12


def federation(rng, n=120, *, rate=0.5):
    """Each client's update in a round is the sum of its sampled records' directions and noise; half are members."""
    directions = rng.normal(size=(n, P)) / np.sqrt(P)
    member, holder = rng.random(n) < 0.5, rng.integers(0, CLIENTS, n)
    sampled = (rng.random((ROUNDS, n)) < rate) & member
    one_hot = np.eye(CLIENTS)[holder]
    updates = np.einsum("tn,nc,np->tcp", sampled, one_hot, directions) + rng.normal(size=(ROUNDS, CLIENTS, P)) / 8
    return directions, member, holder, sampled, updates


@pytest.fixture(scope="module")
def seen():
    rng = np.random.default_rng(0)
    directions, member, holder, sampled, updates = federation(rng)
    shadow_directions, _, _, shadow_sampled, shadow_updates = federation(rng)
    own = np.concatenate([alignments(directions, total[None]) for total in updates.sum(axis=1)])
    shadow = np.concatenate([alignments(shadow_directions, t[None]) for t in shadow_updates.sum(axis=1)])
    observed = ObservedRounds(
        alignment=own,
        client_alignment=np.stack([alignments(directions, one) for one in updates]),
        local_loss=-np.stack([alignments(directions, one) for one in updates]).sum(axis=0),
        shadow_alignment=shadow,
        shadow_in=shadow_sampled,
    )
    return observed, member, holder, sampled


def test_which_example_took_part_in_a_round_and_whose_it_is(seen):
    observed, member, holder, sampled = seen
    scores = took_part(observed)
    assert scores.shape == sampled.shape
    assert min(auc(scores[t], sampled[t]) for t in range(ROUNDS)) > 0.9
    assert np.mean(whose(observed)[member] == holder[member]) > 0.95
    assert auc(ClientUpdateAttack().score(observed), member) > 0.95


@pytest.mark.parametrize("kind", ["sum", "max", "llr"])
def test_trajectories_find_members(seen, kind):
    observed, member, _, _ = seen
    attack = TrajectoryAttack(kind)
    assert isinstance(attack, RoundsAttack)
    assert attack.name == f"trajectory-{kind}"
    assert attack.needs <= observed.has
    assert auc(attack.score(observed), member) > 0.8


def test_the_round_ratio_is_the_gaussian_one():
    rng = np.random.default_rng(1)
    inside = rng.random((3, 4000)) < 0.5
    values = rng.normal(size=(3, 4000)) + inside * np.array([[1.0], [2.0], [0.0]])
    ratios = round_ratios(ObservedRounds(alignment=np.zeros((3, 1)), shadow_alignment=values, shadow_in=inside))
    np.testing.assert_allclose(ratios[:, 0], [-0.5, -2.0, 0.0], atol=0.15)  # log N(0; m, 1) - log N(0; 0, 1)


def test_one_shot_scores_are_normal_for_absent_canaries_and_high_for_present_ones():
    rng = np.random.default_rng(2)
    d = 2000
    canaries = canary_directions(400, d, rng=rng)
    first = rng.normal(size=d)
    last = first + 2.0 * canaries[:20].sum(axis=0) + rng.normal(size=d) / 10
    scores = one_shot_scores(first, last, canaries)
    assert absence_p_values(scores, d)[:20].max() < 1e-8
    assert kstest(np.sqrt(d) * scores[20:], "norm").pvalue > 1e-3
    np.testing.assert_allclose(one_shot_scores(first, last, canaries, direction=-1.0), -scores)
    with pytest.raises(DataError, match="did not move"):
        one_shot_scores(first, first, canaries)
    with pytest.raises(DataError, match="one width"):
        one_shot_scores(first, last, canaries[:, :5])


def test_source_inference_beats_the_baseline(seen):
    observed, member, holder, _ = seen
    result = judge_sources(SourceInference().sources(observed)[member], holder[member])
    assert result.accuracy_ci[0] < result.accuracy <= result.accuracy_ci[1]
    assert result.accuracy_ci[0] > 0.8 > result.baseline
    assert SourceInference().score(observed).shape == (observed.records,)
    with pytest.raises(DataError, match="one length"):
        judge_sources(np.zeros(3, int), np.zeros(4, int))


def test_what_was_not_seen_is_named():
    alone = ObservedRounds(alignment=np.zeros((2, 3)))
    for attack, words in [
        (ClientUpdateAttack(), "secure aggregation"),
        (TrajectoryAttack("llr"), "shadow federation"),
        (SourceInference(), "local models"),
    ]:
        assert not attack.needs <= alone.has
        with pytest.raises(DataError, match=words):
            attack.score(alone)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"alignment": np.zeros((0, 3))}, "rounds, records"),
        ({"alignment": np.full((2, 3), np.nan)}, "NaN"),
        ({"client_alignment": np.zeros((2, 4, 5))}, "client_alignment"),
        ({"local_loss": np.zeros((4, 5))}, "local_loss"),
        ({"shadow_alignment": np.zeros((3, 4)), "shadow_in": np.zeros((3, 4), bool)}, "shadow_alignment"),
        ({"shadow_alignment": np.zeros((2, 4))}, "belong together"),
        ({"shadow_alignment": np.zeros((2, 4)), "shadow_in": np.zeros((2, 4))}, "bool"),
    ],
)
def test_rounds_that_do_not_fit_are_refused(changes, what):
    with pytest.raises(DataError, match=what):
        ObservedRounds(**{"alignment": np.zeros((2, 3)), **changes})
    with pytest.raises(DataError, match="one width"):
        alignments(np.zeros((2, 3)), np.zeros((1, 4)))
