"""Many models at once: the same numbers as one at a time, trained on their own data, cached and resumed."""

import numpy as np
import pytest

from dpaudit.config import ModelSection
from dpaudit.errors import DataError
from dpaudit.federated import clients, models, reference
from dpaudit.federated.many import ManyModels
from dpaudit.federated.twins import epochs_of, train_twins

tf = pytest.importorskip("tensorflow")


def several(count=3, d=5, classes=3, hidden=(7,)):
    built = [models.mlp((d,), classes, hidden=hidden, root=i) for i in range(count)]
    return built, np.stack([models.get_weights(model) for model in built])


def test_outputs_equal_those_of_each_model():
    built, weights = several()
    x = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    found = ManyModels(built[0], (5,)).logits(weights, x)
    for one, model in zip(found, built, strict=True):
        np.testing.assert_allclose(one, np.asarray(model(x)), atol=1e-5)


def test_clipped_sums_equal_those_of_each_model_and_padding_adds_nothing():
    built, weights = several()
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 5)).astype(np.float32), rng.integers(0, 3, 40).astype(np.int32)
    index = np.stack([rng.permutation(40)[:12] for _ in built]).astype(np.int32)
    mask = np.ones((3, 12), np.float32)
    mask[1, 9:] = 0
    data = tf.constant(x), tf.constant(y)
    many = ManyModels(built[0], (5,))
    assert many.unclipped is None
    totals, norms = many.clipped_sums(weights, *data, index=index, mask=mask, clip_norm=0.4)
    functions = clients.ClientFunctions(built[0], (5,))
    for m in range(3):
        used = index[m, mask[m] > 0].astype(np.int64)
        total, own = functions.clipped_sum(weights[m], *data, used, clip_norm=0.4, seed=(0, 0))
        np.testing.assert_allclose(totals[m], total, atol=1e-5)
        np.testing.assert_allclose(norms[m, : used.size], own, rtol=1e-4)
        assert (norms[m] >= 0).all()


def test_epochs_hold_every_example_of_each_model_once():
    inside = np.random.default_rng(2).random((4, 30)) < 0.5
    for index, mask in epochs_of(inside, epochs=3, batch=8, rng=np.random.default_rng(0)):
        assert index.shape == mask.shape
        for m in range(4):
            assert sorted(index[m][mask[m] > 0]) == np.flatnonzero(inside[m]).tolist()


@pytest.mark.parametrize("builder", [None, "twin_models:with_normalisation"])
def test_twins_learn_their_own_data_alone(builder, tmp_path, monkeypatch):
    (tmp_path / "twin_models.py").write_text(
        "import keras\n"
        "def with_normalisation(shape, classes):\n"
        "    layers = keras.layers\n"
        "    return keras.Sequential([keras.Input(shape), layers.Dense(64, activation='relu'),"
        " layers.LayerNormalization(), layers.Dense(classes)])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(80, 20)).astype(np.float32), rng.integers(0, 4, 80).astype(np.int32)  # nothing to learn
    inside = np.argsort(rng.random((4, 80)), axis=0) < 2
    twins = train_twins(
        ModelSection(hidden=(64,), builder=builder), x, y, inside, classes=4, root=1, epochs=60, learning_rate=0.01
    )
    right = twins.logits(x).argmax(axis=2) == y
    assert right[inside].mean() > 0.95
    assert right[~inside].mean() < 0.5
    np.testing.assert_array_equal(twins.labels(2, x), twins.logits(x)[2].argmax(axis=1))
    np.testing.assert_allclose(np.asarray(twins.keras_model(1)(x)), twins.logits(x)[1], atol=1e-4)
    assert (twins.keras_model(1, at_start=True).get_weights()[0] != twins.keras_model(1).get_weights()[0]).any()
    assert (twins.together.unstacked is None) == (builder is None)


def test_a_model_without_data_is_refused():
    x, y = np.zeros((4, 5), np.float32), np.zeros(4, np.int32)
    with pytest.raises(DataError, match="an example for every model"):
        train_twins(ModelSection(), x, y, np.zeros((2, 4), bool), classes=2, root=0)


def references(config, data, **options):
    return reference.train_references(config, data, root=1, noise_multiplier=0.5, count=5, **options)


def test_models_trained_together_equal_models_trained_one_by_one(make_config, data, monkeypatch):
    config = make_config(training={"rounds": 15})
    together = references(config, data)
    monkeypatch.setattr(reference, "BLOCK", 1)
    alone = references(config, data)
    np.testing.assert_array_equal(together.inside, alone.inside)
    np.testing.assert_allclose(together.weights, alone.weights, atol=1e-4)


def test_an_interrupted_training_goes_on_after_the_last_block(make_config, data, monkeypatch, tmp_path):
    config = make_config(training={"rounds": 10})
    monkeypatch.setattr(reference, "BLOCK", 2)
    whole = references(config, data)
    start, trained = reference.balanced_masks, []

    def stops(*arguments, **options):
        if len(trained) == 3:  # once for the whole, and once for each block
            raise KeyboardInterrupt
        trained.append(1)
        return start(*arguments, **options)

    monkeypatch.setattr(reference, "balanced_masks", stops)
    with pytest.raises(KeyboardInterrupt):
        references(config, data, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    trained.clear()
    monkeypatch.setattr(reference, "balanced_masks", lambda *a, **o: trained.append(1) or start(*a, **o))
    resumed = references(config, data, cache=tmp_path)
    assert len(trained) == 2  # for the whole, and for the block that was left
    np.testing.assert_array_equal(resumed.weights, whole.weights)
    np.testing.assert_array_equal(references(config, data, cache=tmp_path).weights, whole.weights)
    assert len(trained) == 3  # nothing was left to train


def test_the_cache_knows_what_its_models_depend_on(make_config, data, tmp_path):
    config = make_config(training={"rounds": 3})
    references(config, data, cache=tmp_path)
    first = {path.name for path in tmp_path.iterdir()}
    references(make_config(training={"rounds": 4}), data, cache=tmp_path)
    reference.train_references(config, data, root=2, noise_multiplier=0.5, count=5, cache=tmp_path)
    reference.train_references(config, data, root=1, noise_multiplier=0.6, count=5, cache=tmp_path)
    assert len({path.name for path in tmp_path.iterdir()} - first) == 3
