"""Replayed cohorts: an engine that computes on other units than recorded is found."""

import numpy as np
import pytest

from dpaudit.records import Status
from dpaudit.verification import check_cohort

ROWS = np.random.default_rng(0).normal(size=(50, 30))
COHORTS = [np.arange(3, 20), np.arange(20, 41), np.array([1, 49])]


def alone(units):
    return ROWS[units].sum(axis=0)


def test_an_honest_engine_passes():
    result = check_cohort(lambda units: alone(units) * (1 + 1e-5), alone, COHORTS)
    assert result.status == Status.PASS
    assert result.statistic == pytest.approx(1e-5, rel=0.01)


@pytest.mark.parametrize(
    "engine",
    [
        lambda units: alone(np.arange(len(units))),
        lambda units: alone(units[:-1]),
        lambda units: alone(np.append(units, 0)),
        lambda units: alone(units + 1) if units.max() < 49 else alone(units),
        lambda units: alone(units) * np.nan,
        lambda units: alone(units)[:-1],
    ],
    ids=["first units", "one missing", "one more", "next ones", "nan", "shape"],
)
def test_engines_that_compute_on_others_fail(engine):
    result = check_cohort(engine, alone, COHORTS)
    assert result.status == Status.FAIL
    assert result.refuted


def test_what_cannot_tell_is_inconclusive():
    def same(units):
        return np.ones(30)

    def crashes(units):
        raise RuntimeError("out of memory")

    assert check_cohort(same, same, COHORTS).status == Status.INCONCLUSIVE
    assert check_cohort(crashes, alone, COHORTS).status == Status.INCONCLUSIVE
    assert check_cohort(alone, alone, [np.arange(3), np.array([], int)]).status == Status.INCONCLUSIVE
    assert check_cohort(lambda units: np.zeros(3), lambda units: np.zeros(3), COHORTS).status == Status.INCONCLUSIVE
