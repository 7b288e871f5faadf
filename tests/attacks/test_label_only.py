"""Label-only attacks: distances that are known, what they find on a model that remembers, and how they fail."""

import numpy as np
import pytest

from dpaudit.attacks.augment import augmented
from dpaudit.attacks.base import Observed
from dpaudit.attacks.boundary_distance import boundary_distances
from dpaudit.attacks.comparable import auc
from dpaudit.attacks.oracle import Oracle
from dpaudit.attacks.registry import make
from dpaudit.errors import DataError, UsageError


def seen(x, y, oracle):
    return Observed(logits=np.zeros((len(x), 2)), labels=y, x=x, label_oracle=oracle)


def test_distance_to_a_plane_is_found():
    """Features are measured in their spread; with unit spread the distance to w x = 0 is |w x| / |w|."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 8)).astype(np.float32)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    w = rng.normal(size=8)
    asked = []

    def oracle(records):
        asked.append(len(records))
        return (records @ w > 0).astype(np.int64)

    truth = np.abs(x @ w) / np.linalg.norm(w)
    labels = oracle(x)
    labels[:20] = 1 - labels[:20]  # records that the model gets wrong
    found = boundary_distances(Oracle(seen(x, labels, oracle), "test"), labels, iterations=4, probes=64)
    assert (found[:20] == 0).all()
    assert (found[20:] >= truth[20:] - 1e-3).all()  # what was crossed cannot be nearer than the plane
    assert np.median(found[20:] / np.maximum(truth[20:], 0.05)) < 1.2
    assert np.corrcoef(found[20:], truth[20:])[0, 1] > 0.97
    assert sum(asked) < 300 * (30 + 4 * (64 + 20))


def remembering(rng, n=400, d=6):
    """A nearest-neighbour model: around members it answers their label, elsewhere it guesses from afar."""
    x, y, member = rng.normal(size=(n, d)).astype(np.float32), rng.integers(0, 2, n), rng.random(n) < 0.5
    own, labels = x[member], y[member]

    def oracle(records):
        squared = (records**2).sum(1)[:, None] - 2 * records @ own.T + (own**2).sum(1)
        return labels[np.argmin(squared, axis=1)]

    return x, y, member, oracle


@pytest.mark.parametrize("name", ["label-robustness", "boundary-distance"])
def test_label_only_attacks_find_the_members_of_a_model_that_remembers(name):
    x, y, member, oracle = remembering(np.random.default_rng(1))
    assert auc(make(name).score(seen(x, y, oracle)), member) > 0.75


def test_a_constant_model_gives_no_boundary_and_no_infinity():
    x = np.random.default_rng(2).normal(size=(30, 3)).astype(np.float32)
    same = seen(x, np.zeros(30, int), lambda records: np.zeros(len(records), dtype=np.int64))
    for name in ("label-robustness", "boundary-distance"):
        assert np.isfinite(make(name).score(same)).all()
    wrong = seen(x, np.ones(30, int), lambda records: np.zeros(len(records), dtype=np.int64))
    assert (make("boundary-distance").score(wrong) == 0).all()


@pytest.mark.parametrize(
    ("oracle", "what"),
    [
        (lambda x: np.zeros(3, int), "one class per record"),
        (lambda x: np.zeros(len(x)), "one class per record"),
        (lambda x: 1 // 0, "ZeroDivisionError"),
    ],
)
@pytest.mark.parametrize("name", ["label-robustness", "boundary-distance"])
def test_bad_oracles_are_told(name, oracle, what):
    x = np.zeros((5, 2), np.float32)
    with pytest.raises(DataError, match=what):
        make(name).score(seen(x, np.zeros(5, int), oracle))


def test_records_that_are_no_numbers_are_refused():
    x = np.array([["a"], ["b"]])
    with pytest.raises(DataError, match="numbers"):
        make("label-robustness").score(seen(x, np.zeros(2, int), lambda r: np.zeros(len(r), int)))
    with pytest.raises(DataError, match="numbers"):
        next(augmented(x, copies=1))
    with pytest.raises(UsageError, match="copies"):
        next(augmented(np.zeros((2, 2)), copies=0))


def test_images_are_shifted_and_tables_get_noise():
    image = np.zeros((3, 8, 8), np.float32)
    image[:, 4, 3] = 1.0
    for copy in augmented(image, copies=6):
        assert copy.shape == image.shape
        assert (copy.sum(axis=(1, 2)) == 1).all()
    table = np.random.default_rng(3).normal(size=(500, 4)) * np.array([1.0, 10.0, 0.0, 5.0])
    one, two = augmented(table, copies=2, noise=0.1)
    assert (one != two)[:, [0, 1, 3]].all()
    np.testing.assert_allclose((one - table).std(axis=0), 0.1 * table.std(axis=0), rtol=0.15, atol=1e-6)
