"""Gradients of a Keras model against the closed form of softmax regression, and what the two attacks find."""

import numpy as np
import pytest
from scipy.special import softmax

from dpaudit.attacks.base import Observed
from dpaudit.attacks.comparable import auc
from dpaudit.attacks.registry import make
from dpaudit.errors import DataError

keras = pytest.importorskip("keras")
from dpaudit.attacks.gradients import gradient_facts  # noqa: E402


def linear(d, classes, *, activation=None, seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((d,)), keras.layers.Dense(classes, activation=activation)])


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_gradients_of_softmax_regression(activation):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(70, 5)).astype(np.float32), rng.integers(0, 3, 70)
    model, earlier = linear(5, 3, activation=activation), linear(5, 3, activation=activation, seed=1)
    facts = gradient_facts(model, x, y, earlier=earlier)
    residual = softmax(x @ np.asarray(model.layers[0].kernel), axis=1) - np.eye(3)[y]
    np.testing.assert_allclose(
        facts["gradient_norm"], np.linalg.norm(residual, axis=1) * np.sqrt(1 + (x**2).sum(1)), rtol=1e-4
    )
    kernels = [np.asarray(m.layers[0].kernel, np.float64) for m in (earlier, model)]
    residual = softmax(x @ kernels[0], axis=1) - np.eye(3)[y]
    whole = np.concatenate([np.einsum("ni,nj->nij", x, residual).reshape(70, -1), residual], axis=1)
    way = np.concatenate([(kernels[1] - kernels[0]).ravel(), np.zeros(3)])
    expected = -(whole @ way) / np.linalg.norm(whole, axis=1) / np.linalg.norm(way)
    np.testing.assert_allclose(facts["gradient_alignment"], expected, atol=1e-5)


def test_both_attacks_find_the_members_of_an_overfitted_model():
    rng = np.random.default_rng(1)
    x, y, member = rng.normal(size=(120, 60)).astype(np.float32), rng.integers(0, 3, 120), np.arange(120) < 60
    earlier, model = linear(60, 3, seed=2), linear(60, 3, seed=2)
    model.compile(keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x[:60], y[:60], epochs=30, batch_size=60, verbose=0)
    seen = Observed(logits=np.asarray(model(x)), labels=y, **gradient_facts(model, x, y, earlier=earlier))
    assert auc(make("gradient-norm").score(seen), member) > 0.8
    assert auc(make("gradient-alignment").score(seen), member) > 0.7


def test_models_that_do_not_fit_together_are_refused():
    x, y = np.zeros((4, 5), np.float32), np.zeros(4, int)
    with pytest.raises(DataError, match="equals the released one"):
        gradient_facts(linear(5, 3), x, y, earlier=linear(5, 3))
    with pytest.raises(DataError, match="parameters"):
        gradient_facts(linear(5, 3), x, y, earlier=linear(5, 4))
    with pytest.raises(DataError, match="one output per class"):
        gradient_facts(linear(5, 1), x, y)
    broken = linear(5, 3)
    broken.layers[0].kernel.assign(np.full((5, 3), np.nan))
    with pytest.raises(DataError, match="NaN"):
        gradient_facts(broken, x, y)
