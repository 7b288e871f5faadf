"""Attribute inference and gradient inversion, each against its baselines on the same records."""

import numpy as np
import pytest

from dpaudit.attacks.attribute_inference import attribute_inference, infer
from dpaudit.attacks.gradient_inversion import invert, invert_dense, judge_inversion
from dpaudit.errors import DataError


def people(rng, n):
    """Column 0 is the attribute: column 1 gives it away in part; the label is partly the attribute."""
    x = rng.normal(size=(n, 6))
    x[:, 0] = (x[:, 1] + rng.normal(size=n) > 0).astype(float)
    return x, rng.integers(0, 2, n)


def remembering(x, y):
    """A model that answers a record it was trained on with its label, and is unsure of anything else."""

    def model(records):
        squared = (records**2).sum(1)[:, None] - 2 * records @ x.T + (x**2).sum(1)
        nearest, close = np.argmin(squared, axis=1), squared.min(axis=1) < 1e-6
        p = np.where(close[:, None], np.eye(2)[y[nearest]] * 0.9 + 0.05, 0.5)
        return p / p.sum(axis=1, keepdims=True)

    return model


def test_a_model_that_remembers_leaks_the_attribute_beyond_the_baselines():
    rng = np.random.default_rng(0)
    members, others, known = people(rng, 300), people(rng, 300), people(rng, 1000)
    result = attribute_inference(remembering(*members), members, others, known, column=0)
    assert result.members.share == 1.0
    assert 0.6 < result.baseline.share < 0.9  # column 1 tells that much without any model
    assert result.gain_ci[0] > 0.05
    assert result.member_gain_ci[0] > 0.05
    assert result.gain_ci[0] <= result.gain <= result.gain_ci[1]
    assert result.baseline.ci[0] < result.baseline.share < result.baseline.ci[1]


def test_a_model_that_learnt_the_population_leaks_nothing_beyond_it():
    """It answers from the attribute itself: the attack is right often, but no more than without membership."""
    rng = np.random.default_rng(1)
    members, others, known = people(rng, 400), people(rng, 400), people(rng, 1000)

    def model(records):
        return np.stack([0.4 + 0.2 * records[:, 0], 0.6 - 0.2 * records[:, 0]], axis=1)

    result = attribute_inference(model, members, others, known, column=0)
    assert result.gain < 0
    assert result.member_gain_ci[0] < 0 < result.member_gain_ci[1]


def test_the_attribute_is_not_read():
    rng = np.random.default_rng(2)
    x, y = people(rng, 50)
    hidden = x.copy()
    hidden[:, 0] = np.nan
    options = {"column": 0, "values": np.array([0.0, 1.0]), "prior": np.array([0.5, 0.5])}
    model = remembering(x, y)
    np.testing.assert_array_equal(infer(model, hidden, y, **options), infer(model, x, y, **options))


def test_attributes_that_cannot_be_tried_are_refused():
    rng = np.random.default_rng(3)
    members = people(rng, 40)
    for column, words in [(1, "2 to 32 values"), (9, "column")]:
        with pytest.raises(DataError, match=words):
            attribute_inference(remembering(*members), members, members, members, column=column)


def test_a_dense_layer_gives_one_record_away_exactly():
    rng = np.random.default_rng(4)
    x, slope = rng.normal(size=12), rng.normal(size=5) * np.array([1, 1, 0, 1, 1])
    found = invert_dense(np.outer(x, slope), slope)
    assert found.shape == (4, 12)
    np.testing.assert_allclose(found, np.tile(x, (4, 1)))
    with pytest.raises(DataError, match="no unit"):
        invert_dense(np.zeros((12, 5)), np.zeros(5))
    with pytest.raises(DataError, match="kernel"):
        invert_dense(np.zeros((12, 5)), np.zeros(4))


def digits_model():
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(5)
    return keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10)])


def gradient_of(model, x, y):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=model(x))
        loss = tf.reduce_mean(losses)
    return np.concatenate([np.asarray(g).ravel() for g in tape.gradient(loss, model.trainable_variables)])


def test_inversion_and_what_aggregation_and_noise_take_away():
    """One client with 2 images is rebuilt; a sum over 60 images, or clipped and noised, is not."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = (data.data / 16).astype(np.float32), data.target
    model, public, rng = digits_model(), x[500:], np.random.default_rng(6)
    alone = gradient_of(model, x[:2], y[:2])
    crowd = gradient_of(model, x[:60], y[:60])
    noised = alone / np.linalg.norm(alone) + rng.normal(size=alone.size) * 1.0
    results = [
        judge_inversion(invert(model, g, y[:2], low=0, high=1, steps=250), x[:2], public)
        for g in (alone, crowd, noised)
    ]
    plain, aggregated, private = results
    assert plain.better >= 0.5
    assert plain.error < 0.5 * min(plain.mean_baseline, plain.population_baseline)
    assert aggregated.better == private.better == 0.0
    assert private.error > private.population_baseline
    again = invert(model, alone, y[:2], low=0, high=1, steps=3)
    np.testing.assert_array_equal(again, invert(model, alone, y[:2], low=0, high=1, steps=3))
    with pytest.raises(DataError, match="one entry per parameter"):
        invert(model, alone[:-1], y[:2], low=0, high=1)


def test_judging_matches_records_in_any_order_and_refuses_too_few():
    rng = np.random.default_rng(7)
    truth, public = rng.normal(size=(4, 6)), rng.normal(size=(50, 6))
    assert judge_inversion(truth[::-1] + 1e-4, truth, public).error < 1e-6
    assert judge_inversion(public[:4], truth, public).better == 0.0
    with pytest.raises(DataError, match="no fewer"):
        judge_inversion(truth[:3], truth, public)
