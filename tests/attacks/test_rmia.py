"""RMIA: the known answers of its reference implementation, sorting against the matrix, memory, and the two modes."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from dpaudit.attacks.base import Observed
from dpaudit.attacks.registry import make
from dpaudit.attacks.rmia import RmiaAttack, population_probability, rmia_scores
from dpaudit.errors import DataError, UsageError

KNOWN = Path(__file__).parents[1] / "known_answers" / "lower_bounds.json"


def known():
    entries = json.loads(KNOWN.read_text())["from_tools"]
    return next(entry for entry in entries if entry["id"] == "rmia_scores")


@pytest.mark.parametrize("offline_a", [0.3, 1.0])
def test_known_answers_of_privacy_meter(offline_a):
    """z records are seen by out models alone; the reference mixes p(x) and p(z) alike."""
    given = known()["inputs"]
    tool = next(value for key, value in known()["outputs"].items() if f"offline_a={offline_a}" in key)
    ratios = []
    for target, reference, member in (("target", "ref", given["ref_member"]), ("z_target", "z_ref", None)):
        log_p = np.log(np.array(given[reference]).T)
        inside = np.zeros(log_p.shape, bool) if member is None else np.array(member, dtype=bool).T
        mean = population_probability(log_p, inside, mode="offline", offline_a=offline_a)
        ratios.append(np.log(given[target]) - mean)
    np.testing.assert_allclose(rmia_scores(*ratios), tool, rtol=1e-9)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_sorting_equals_the_matrix(gamma):
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=300).round(1), rng.normal(size=200).round(1)  # with ties
    matrix = (x[:, None] - z[None] > np.log(gamma)).mean(axis=1)
    np.testing.assert_allclose(rmia_scores(x, z, gamma=gamma), matrix)


def test_memory_grows_with_n_plus_z_not_with_their_product():
    rng = np.random.default_rng(1)
    x, z = rng.normal(size=200_000), rng.normal(size=200_000)
    tracemalloc.start()
    rmia_scores(x, z)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * (x.size + z.size)  # a matrix of bits would take 5 GB


def test_online_is_the_mean_of_both_means_and_offline_of_out_models():
    rng = np.random.default_rng(2)
    p = rng.random((6, 30))
    inside = np.argsort(rng.random((6, 30)), axis=0) < 3
    inside[:, 0], inside[:, 1] = True, False  # one kind only
    online = np.exp(population_probability(np.log(p), inside, mode="online", offline_a=0.3))
    for u in range(30):
        means = [p[chosen, u].mean() for chosen in (inside[:, u], ~inside[:, u]) if chosen.any()]
        assert online[u] == pytest.approx(np.mean(means))
    with pytest.raises(DataError, match="1 record"):
        population_probability(np.log(p), inside, mode="offline", offline_a=0.3)
    offline = np.exp(population_probability(np.log(p[:, 1:]), inside[:, 1:], mode="offline", offline_a=0.4))
    assert offline[0] == pytest.approx((1.4 * p[:, 1].mean() + 0.6) / 2)


def seen(**changes):
    rng = np.random.default_rng(3)
    values = {
        "logits": rng.normal(size=(50, 4)), "labels": rng.integers(0, 4, 50),
        "reference_logits": rng.normal(size=(6, 50, 4)), "reference_in": np.argsort(rng.random((6, 50)), axis=0) < 3,
    }  # fmt: skip
    return Observed(**{**values, **changes})


def test_a_population_changes_scores_but_not_the_ranking():
    rng = np.random.default_rng(4)
    known_records = Observed(
        logits=rng.normal(size=(500, 4)), labels=rng.integers(0, 4, 500),
        reference_logits=rng.normal(size=(6, 500, 4)), reference_in=np.zeros((6, 500), bool),
    )  # fmt: skip
    alone, beside = make("rmia").score(seen()), make("rmia").score(seen(population=known_records))
    order = np.argsort(alone, kind="stable")
    assert (np.diff(beside[order]) >= 0).all()
    assert (alone != beside).any()


def test_augmented_queries_are_averaged():
    rng = np.random.default_rng(5)
    one, many = rng.normal(size=(1, 50, 4)), rng.normal(size=(6, 1, 50, 4))
    plain = seen()
    copied = seen(augmented_logits=plain.logits[None], reference_augmented=plain.reference_logits[:, None])
    np.testing.assert_allclose(make("rmia").score(copied), make("rmia").score(plain))
    np.testing.assert_allclose(make("lira").score(copied), make("lira").score(plain))
    different = seen(augmented_logits=one, reference_augmented=many)
    assert (make("rmia").score(different) != make("rmia").score(plain)).any()


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UsageError, match="gamma"):
        rmia_scores(np.zeros(3), np.zeros(3), gamma=0.0)
    with pytest.raises(DataError, match="at least 1"):
        rmia_scores(np.zeros(3), np.zeros(0))
    assert RmiaAttack(gamma=2.0).score(seen()).max() < 1
