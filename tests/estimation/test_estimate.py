import dataclasses

import numpy as np
import pytest

from dpaudit.errors import DataError, UsageError
from dpaudit.estimation import METHODS, CurveFamily, estimate, reference
from dpaudit.estimation.curves import gaussian_curve
from dpaudit.gdp import gdp_epsilon
from dpaudit.records import Bound, BoundStatus, Family, Relation
from dpaudit.serialize import dumps, from_jsonable, loads

DELTA = 1e-5


@pytest.fixture(scope="module")
def scores():
    return reference.gaussian(2.0).draw(2000, np.random.default_rng(0))


def bound(scores, method, **options):
    return estimate(scores.member, scores.non_member, method=method, delta=DELTA, **options)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_complete_record(scores, method):
    found = bound(scores, method, seed=3, relation=Relation.REPLACE_ONE)
    assert found.status is BoundStatus.OK
    assert 0 < found.epsilon < 9.9973
    assert (found.method, found.delta, found.confidence, found.seed) == (method, DELTA, 0.95, 3)
    assert (found.n_member, found.n_non_member) == (scores.member.size, scores.non_member.size)
    assert found.relation is Relation.REPLACE_ONE
    assert found.assumptions
    assert from_jsonable(Bound, loads(dumps(found))) == found


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_bound(scores, method):
    assert bound(scores, method, seed=1) == bound(scores, method, seed=1)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("mean-shift", "one-shot", "independent-canaries")])
def test_only_the_order_of_the_scores_counts(scores, method):
    """A strictly increasing transform of the scores changes nothing."""
    options = {"method": method, "delta": DELTA, "declared": ["independent-runs"]}
    found = estimate(scores.member, scores.non_member, **options)
    other = estimate(np.exp(scores.member) - 7, np.exp(scores.non_member) - 7, **options)
    assert other.epsilon == found.epsilon


def test_gdp_on_scores_of_one_run_wants_them_gaussian(scores):
    """A magnitude shared by all canaries, its ties hidden, can only be seen by the shape of the scores."""
    assert bound(scores, "gdp").status is BoundStatus.OK
    other = estimate(np.exp(scores.member), np.exp(scores.non_member), method="gdp", delta=DELTA)
    assert other.status is BoundStatus.ASSUMPTION_REFUTED
    assert "gaussian-scores" in other.reason


@pytest.mark.parametrize(
    "method", ["one-run", "one-run-fdp", "one-run-max", "independent-canaries", "mean-shift", "bayes"]
)
def test_swapping_the_labels_and_the_sign_changes_little(scores, method):
    """Exactly nothing for the symmetric methods without ties; the threshold of bayes has another rank."""
    other = estimate(-scores.non_member, -scores.member, method=method, delta=DELTA)
    assert other.epsilon == pytest.approx(bound(scores, method).epsilon, rel=1e-9 if method != "bayes" else 0.35)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "bayes"])  # whose region is two-sided
def test_wrong_direction_gives_no_evidence(scores, method):
    found = estimate(-scores.member, -scores.non_member, method=method, delta=DELTA)
    assert found.epsilon == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_less_confidence_or_more_delta_never_lowers_or_raises_wrongly(scores, method):
    options = {} if method in ("mean-shift", "one-shot") else {"guesses": 150}
    values = [bound(scores, method, confidence=c, **options).epsilon for c in (0.999, 0.95, 0.5)]
    assert values == sorted(values)
    values = [
        estimate(scores.member, scores.non_member, method=method, delta=d, **options).epsilon
        for d in (1e-3, 1e-5, 1e-7)
    ]
    assert values == sorted(values)


def test_families(scores):
    assert bound(scores, "one-run").family is Family.ASSUMPTION_FREE
    assert bound(scores, "one-run-max").family is Family.ASSUMPTION_FREE
    assert bound(scores, "one-run-fdp").family is Family.ASSUMPTION_FREE
    assert bound(scores, "one-run-fdp", curve="gaussian").family is Family.GAUSSIAN
    assert bound(scores, "clopper-pearson").family is Family.INDEPENDENT_CANARIES
    assert bound(scores, "clopper-pearson", declared=["independent-runs"]).family is Family.ASSUMPTION_FREE
    assert bound(scores, "gdp", declared=["independent-runs"]).family is Family.GAUSSIAN
    assert bound(scores, "mean-shift").family is Family.INDEPENDENT_CANARIES
    assert bound(scores, "independent-canaries").family is Family.INDEPENDENT_CANARIES
    assert bound(scores, "bayes", declared=["independent-runs"]).family is Family.CREDIBLE
    assert bound(scores, "bayes").family is Family.CREDIBLE


def test_the_larger_of_two_is_the_larger_of_two(scores):
    several = {m: bound(scores, m, guesses=150).epsilon for m in ("one-run", "one-run-fdp", "one-run-max")}
    assert several["one-run-max"] == max(several["one-run"], several["one-run-fdp"])


def test_a_family_of_curves_from_outside(scores):
    own = CurveFamily(name="pld", curve=gaussian_curve, epsilon=gdp_epsilon, high=20.0, parameter="mu")
    found = bound(scores, "one-run-fdp", curve=own, guesses=150)
    expected = bound(scores, "one-run-fdp", curve="gaussian", guesses=150)
    assert found.epsilon == pytest.approx(expected.epsilon, abs=1e-6)
    assert found.details["mu"] == pytest.approx(expected.mu, abs=1e-7)
    assert found.family is Family.GAUSSIAN
    assert any("pld" in a.text for a in found.assumptions)
    half = bound(scores, "one-run-fdp", curve=own, guesses=150, group_size=2)
    assert half.details["mu"] == pytest.approx(found.details["mu"] / 2, abs=1e-6)


def test_selection_is_part_of_the_result(scores):
    assert bound(scores, "one-run").threshold_selection == "planned:4"
    assert bound(scores, "one-run", interest_epsilon=2.5).threshold_selection == "planned:2.5"
    assert bound(scores, "one-run", threshold_selection="planned:8").threshold_selection == "planned:8"
    found = bound(scores, "one-run", guesses=77)
    assert (found.threshold_selection, found.guesses) == ("fixed:77", 77)
    assert bound(scores, "gdp", threshold_selection="split").threshold_selection == "split"
    assert bound(scores, "mean-shift").threshold_selection is None


def test_a_large_claim_is_a_fine_interest(scores):
    assert bound(scores, "one-run", interest_epsilon=1e4).epsilon > 0
    assert bound(scores, "gdp", interest_epsilon=1e4).epsilon > 0


def test_bonferroni_pays_for_its_choices(scores):
    best = max(bound(scores, "one-run", guesses=r).epsilon for r in (10, 57, 95, 160, 267, 447, 747, 2000))
    assert bound(scores, "one-run", threshold_selection="bonferroni:8").epsilon < best


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "best"}, "method"),
        ({"delta": 1.0}, "delta"),
        ({"delta": -0.1}, "delta"),
        ({"delta": float("nan")}, "delta"),
        ({"confidence": 1.0}, "confidence"),
        ({"group_size": 0}, "group_size"),
        ({"guesses": 0}, "threshold_selection"),
        ({"guesses": 2001}, "number of canaries"),
        ({"guesses": 5, "threshold_selection": "split"}, "contradicts"),
        ({"threshold_selection": "best"}, "threshold_selection"),
        ({"threshold_selection": "fixed:x"}, "threshold_selection"),
        ({"threshold_selection": "split"}, "not valid"),
        ({"interest_epsilon": 0.0}, "interest"),
        ({"curve": "laplace"}, "curve"),
        ({"declared": ["trust-me"]}, "declared"),
        ({"method": "gdp", "delta": 0.0}, "delta = 0"),
        ({"method": "one-run-fdp", "curve": "gaussian", "delta": 0.0}, "delta = 0"),
        ({"method": "mean-shift", "delta": 0.0}, "delta = 0"),
        ({"method": "mean-shift", "guesses": 4}, "no threshold"),
        ({"method": "bayes", "threshold_selection": "bonferroni:4"}, "bonferroni"),
        ({"method": "gdp", "guesses": 1500}, "rank"),
    ],
)
def test_impossible_requests_are_refused(scores, options, message):
    arguments = {"method": "one-run", "delta": DELTA, **options}
    with pytest.raises(UsageError, match=message):
        estimate(scores.member, scores.non_member, **arguments)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [[1.0, np.nan], [np.inf], ["a"], [[1.0, 2.0]]])
def test_unusable_scores_are_refused(method, bad):
    with pytest.raises(DataError, match="scores"):
        estimate(bad, [1.0, 2.0], method=method, delta=DELTA)


def test_records_are_frozen(scores):
    with pytest.raises(dataclasses.FrozenInstanceError):
        bound(scores, "one-run").epsilon = 0.0
