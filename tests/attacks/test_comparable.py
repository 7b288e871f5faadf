"""Members against non-members without the model: honest splits pass, shifted ones fail, tiny ones say nothing."""

import sys

import numpy as np
import pytest
from scipy.stats import binom

from dpaudit.attacks.comparable import auc, check_comparable
from dpaudit.errors import DataError, MissingDependency
from dpaudit.records import Status


def data(rng, n=600, d=6):
    x = rng.normal(size=(n, d))
    return x, rng.integers(0, 3, n), rng.random(n) < 0.6


def test_auc_by_ranks_with_ties():
    rng = np.random.default_rng(0)
    scores, side = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.5
    a, b = scores[side][:, None], scores[~side][None]
    assert auc(scores, side) == pytest.approx(np.mean((a > b) + 0.5 * (a == b)))


@pytest.mark.statistical(failure_probability=1e-6)
def test_honest_splits_pass():
    """FAIL also needs AUC > 0.55, so the false-alarm rate is below the significance."""
    failures = 0
    for seed in range(40):
        x, y, member = data(np.random.default_rng(seed), n=300)
        failures += check_comparable(x, y, member, significance=0.05, seed=seed).status == Status.FAIL
    assert failures <= binom.isf(1e-6, 40, 0.05)


@pytest.mark.parametrize("where", ["feature", "label", "missing values"])
def test_differences_are_found(where):
    x, y, member = data(np.random.default_rng(1))
    if where == "feature":
        x[member, 2] += 1.0
    if where == "label":
        y[member & (np.random.default_rng(2).random(len(y)) < 0.5)] = 0
    if where == "missing values":
        x[np.ix_(member & (np.random.default_rng(3).random(len(y)) < 0.5), [0])] = np.nan
    result = check_comparable(x, y, member)
    assert result.status == Status.FAIL
    assert result.refuted
    assert result.p_value < 0.01
    assert result.statistic > result.threshold


def test_units_are_never_split_between_the_halves():
    """Records of one device look alike: without whole units the classifier would recognise devices."""
    rng = np.random.default_rng(4)
    devices, per_device = 120, 20
    centre = 3 * rng.normal(size=(devices, 5))
    unit = np.repeat(np.arange(devices), per_device)
    member = (rng.permutation(devices) < 80)[unit]
    x = centre[unit] + 0.3 * rng.normal(size=(len(unit), 5))
    y = np.zeros(len(unit), int)
    assert check_comparable(x, y, member).status == Status.FAIL
    assert check_comparable(x, y, member, unit=unit).status == Status.PASS
    with pytest.raises(DataError, match="same side"):
        check_comparable(x, y, np.arange(len(unit)) % 2 == 0, unit=unit)


def test_too_few_is_inconclusive():
    x, y, member = data(np.random.default_rng(5), n=30)
    result = check_comparable(x, y, member)
    assert result.status == Status.INCONCLUSIVE
    assert "20 units" in result.detail
    assert check_comparable(x[:0], y[:0], member[:0]).status == Status.INCONCLUSIVE


def test_bad_shapes_and_text_are_refused():
    x, y, member = data(np.random.default_rng(6))
    with pytest.raises(DataError, match="same length"):
        check_comparable(x[:5], y, member)
    with pytest.raises(DataError, match="numbers"):
        check_comparable(np.full((len(y), 2), "a"), y, member)


def test_large_data_are_sub_sampled(monkeypatch):
    from dpaudit.attacks import comparable

    monkeypatch.setattr(comparable, "_MOST_EXAMPLES", 200)
    x, y, member = data(np.random.default_rng(7), n=3000)
    assert check_comparable(x, y, member).status == Status.PASS
    x[member] += 2
    assert check_comparable(x, y, member).status == Status.FAIL


def test_without_scikit_learn_the_remedy_is_named(monkeypatch):
    for name in ("sklearn", "sklearn.ensemble", "sklearn.model_selection"):
        monkeypatch.setitem(sys.modules, name, None)
    x, y, member = data(np.random.default_rng(8))
    with pytest.raises(MissingDependency, match="pip install"):
        check_comparable(x, y, member)
