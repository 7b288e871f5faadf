"""LiRA against a plain loop over the formulas of the paper, its limits, and its advantage over the loss."""

import numpy as np
import pytest
from scipy.stats import norm

from dpaudit.attacks.base import Observed
from dpaudit.attacks.comparable import auc
from dpaudit.attacks.lira import ENOUGH_FOR_OWN_VARIANCE, lira_scores, offline_scores
from dpaudit.attacks.registry import make
from dpaudit.errors import DataError


def balanced(rng, models, units):
    return np.argsort(rng.random((models, units)), axis=0) < models // 2


def plain_online(target, reference, inside, *, own_variance):
    """Carlini et al. 2022, algorithm 1, one unit at a time; pooled variance around the units' own means."""
    units = range(len(target))
    groups = [(reference[inside[:, u], u], reference[~inside[:, u], u]) for u in units]
    pooled = [
        np.sqrt(sum(((g[k] - g[k].mean()) ** 2).sum() for g in groups) / sum(len(g[k]) - 1 for g in groups))
        for k in (0, 1)
    ]
    scores = []
    for u, sides in zip(units, groups, strict=True):
        spread = [side.std(ddof=1) for side in sides] if own_variance else pooled
        logs = [norm.logpdf(target[u], side.mean(), sd) for side, sd in zip(sides, spread, strict=True)]
        scores.append(logs[0] - logs[1])
    return np.array(scores)


@pytest.mark.parametrize("variance", ["fixed", "per-unit"])
def test_online_equals_the_formula(variance):
    rng = np.random.default_rng(3)
    inside = balanced(rng, 10, 25)
    reference = rng.normal(size=(10, 25)) + 2.0 * inside
    target = rng.normal(1, 1, 25)
    expected = plain_online(target, reference, inside, own_variance=variance == "per-unit")
    np.testing.assert_allclose(lira_scores(target, reference, inside, variance=variance), expected, rtol=1e-10)


@pytest.mark.parametrize("variance", ["per-unit", "fixed"])
def test_known_answers_of_tensorflow_privacy(variance):
    """compute_score_lira of tensorflow-empirical-privacy 0.1.0 (means, option "both"), sign turned.

    It divides squares by the number of models, we by one less: with 4 in and 4 out models the quadratic part of the
    log-ratio is 3/4 of theirs, and the part with the logarithms of the spreads is the same.
    """
    theirs = {
        "per-unit": [1.3034721688974114, 8.149704725528892, 7.358459756892322, 3.5928261032165945, -1.27079206027729,
                     -0.22521813367701427],
        "fixed": [1.8695840550489689, 5.559564862776354, 5.287459513877989, 5.1533187692443345, -0.5789129008060596,
                  -0.2484265171598219],
    }  # fmt: skip
    rng = np.random.default_rng(0)
    inside = np.argsort(rng.random((8, 6)), axis=0) < 4
    reference = rng.normal(size=(8, 6)).round(3) + inside
    target = rng.normal(size=6).round(3)
    spreads = [np.array([reference[chosen[:, u], u].std() for u in range(6)]) for chosen in (inside, ~inside)]
    if variance == "fixed":
        spreads = [np.sqrt(np.mean(one**2)) for one in spreads]
    logs = np.log(spreads[1] / spreads[0])
    ours = lira_scores(target, reference, inside, variance=variance)
    np.testing.assert_allclose((ours - logs) * 4 / 3 + logs, -np.array(theirs[variance]), rtol=1e-9)


def test_offline_with_own_variances_and_auto():
    rng = np.random.default_rng(8)
    reference, target = rng.normal(3, 2, (ENOUGH_FOR_OWN_VARIANCE, 40)), rng.normal(3, 2, 40)
    inside = np.zeros(reference.shape, bool)
    own = (target - reference.mean(axis=0)) / reference.std(axis=0, ddof=1)
    np.testing.assert_allclose(offline_scores(target, reference, inside, variance="per-unit"), own, rtol=1e-10)
    np.testing.assert_allclose(offline_scores(target, reference, inside), own, rtol=1e-10)
    with pytest.raises(DataError, match="2 out models"):
        offline_scores(target, reference[:1], inside[:1], variance="per-unit")


def test_auto_takes_own_variances_from_64_models_on():
    rng = np.random.default_rng(4)
    for models in (2 * ENOUGH_FOR_OWN_VARIANCE - 2, 2 * ENOUGH_FOR_OWN_VARIANCE):
        inside = balanced(rng, models, 30)
        reference, target = rng.normal(size=(models, 30)) + inside, rng.normal(size=30)
        kind = "per-unit" if models == 2 * ENOUGH_FOR_OWN_VARIANCE else "fixed"
        np.testing.assert_array_equal(
            lira_scores(target, reference, inside), lira_scores(target, reference, inside, variance=kind)
        )


def test_offline_is_the_z_score_of_the_out_models():
    rng = np.random.default_rng(5)
    reference, target = rng.normal(3, 2, (12, 40)), rng.normal(3, 2, 40)
    scores = lira_scores(target, reference, np.zeros((12, 40), bool))
    mean = reference.mean(axis=0)
    sd = np.sqrt(((reference - mean) ** 2).sum() / (11 * 40))
    np.testing.assert_allclose(scores, (target - mean) / sd, rtol=1e-12)


def test_a_unit_without_in_models_is_judged_by_the_average_shift():
    rng = np.random.default_rng(6)
    inside = balanced(rng, 8, 50)
    inside[:, 0], inside[:, 1] = False, True
    reference = rng.normal(size=(8, 50)) + 3.0 * inside
    shift = np.mean([reference[inside[:, u], u].mean() - reference[~inside[:, u], u].mean() for u in range(2, 50)])
    target = np.zeros(50)
    target[0] = reference[:, 0].mean() + shift / 2  # half way between "out" and the predicted "in"
    target[1] = reference[:, 1].mean() - shift / 2
    scores = lira_scores(target, reference, inside, variance="fixed")
    assert np.isfinite(scores).all()
    assert abs(scores[0]) < 0.5
    assert abs(scores[1]) < 0.5


@pytest.mark.parametrize(
    ("inside", "variance", "what"),
    [
        (np.array([[True] * 4, [False] * 4]), "auto", "at least 2 reference models"),
        (np.array([[True] * 4, [False] * 4]), "per-unit", "2 in and 2 out"),
        (np.array([[True, True, True, False], [True, True, True, False]]), "auto", "out model for every unit"),
    ],
)
def test_too_few_reference_models_are_refused(inside, variance, what):
    rng = np.random.default_rng(7)
    with pytest.raises(DataError, match=what):
        lira_scores(rng.normal(size=4), rng.normal(size=(2, 4)), inside, variance=variance)


def test_models_that_agree_to_the_last_bit_give_no_infinity():
    inside = np.array([[True, False], [False, True]] * 2)
    assert np.isfinite(lira_scores(np.array([0.0, 1.0]), np.zeros((4, 2)), inside)).all()


def overfitted(rng, *, units, models, per_unit=1, gain=2.0):
    """Outputs of an over-fitted model: hard and easy records, members gain `gain` on the label's logit."""
    examples, classes = units * per_unit, 10
    unit, labels = np.repeat(np.arange(units), per_unit), rng.integers(0, classes, units * per_unit)
    difficulty = 3 * rng.normal(size=examples)
    inside = np.concatenate([rng.random((1, units)) < 0.5, balanced(rng, models, units)])
    logits = rng.normal(size=(models + 1, examples, classes))
    own = difficulty + gain * inside[:, unit] + 0.7 * rng.normal(size=(models + 1, examples))
    np.put_along_axis(logits, np.broadcast_to(labels, own.shape)[..., None], own[..., None], axis=2)
    seen = Observed(
        logits=logits[0], labels=labels, unit=unit if per_unit > 1 else None,
        reference_logits=logits[1:], reference_in=inside[1:],
    )  # fmt: skip
    return seen, inside[0]


def tpr_at_one_percent(scores, member):
    return float(np.mean(scores[member] > np.quantile(scores[~member], 0.99)))


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("per_unit", [1, 4])
def test_lira_beats_the_loss_on_an_overfitted_model(per_unit):
    gaps = []
    for seed in range(5):
        seen, member = overfitted(np.random.default_rng(seed), units=2000, models=16, per_unit=per_unit)
        scores = {name: make(name).score(seen) for name in ("loss", "calibrated-loss", "lira")}
        assert auc(scores["lira"], member) > auc(scores["loss"], member) + 0.05
        assert auc(scores["calibrated-loss"], member) > auc(scores["loss"], member) + 0.05
        gaps.append(tpr_at_one_percent(scores["lira"], member) - tpr_at_one_percent(scores["loss"], member))
    assert min(gaps) > 0.1


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("name", ["loss", "confidence-margin", "modified-entropy", "calibrated-loss", "lira"])
def test_every_attack_is_chance_on_a_model_that_learnt_nothing_of_its_members(name):
    seen, member = overfitted(np.random.default_rng(11), units=4000, models=8, gain=0.0)
    spread = np.sqrt(4001 / (12 * member.sum() * (~member).sum()))
    assert abs(auc(make(name).score(seen), member) - 0.5) < 4.9 * spread  # 2 Phi(-4.9) = 1e-6 for each of 5
