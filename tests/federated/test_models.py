import sys
import types

import numpy as np
import pytest

from dpaudit.errors import DataError, UsageError
from dpaudit.federated import models, run_files

keras = pytest.importorskip("keras")
layers = keras.layers


@pytest.fixture
def builder(make_config, monkeypatch):
    def with_function(function):
        module = types.ModuleType("a_users_module")
        module.build = function
        monkeypatch.setitem(sys.modules, "a_users_module", module)
        return make_config(model={"builder": "a_users_module:build"}).model

    return with_function


def sequential(*middle):
    return lambda shape, classes: keras.Sequential([keras.Input(shape), *middle, layers.Dense(classes)])


def test_the_built_in_network_outputs_logits_and_repeats_its_start(make_config):
    section = make_config(model={"hidden": [7, 5]}).model
    first, again, other = (models.build_model(section, (2, 3), 4, root=root) for root in (1, 1, 2))
    assert models.get_weights(first).size == 6 * 7 + 7 + 7 * 5 + 5 + 5 * 4 + 4
    np.testing.assert_array_equal(models.get_weights(first), models.get_weights(again))
    assert (models.get_weights(first) != models.get_weights(other)).any()
    logits = models.logits_of(first, np.random.default_rng(0).random((5, 2, 3), np.float32))
    assert (logits < 0).any()
    assert not np.allclose(logits.sum(axis=1), 1.0)


def test_batch_normalisation_is_refused_with_the_reason_and_the_replacement(builder):
    with pytest.raises(UsageError, match=r"mixes the examples of a batch.*GroupNormalization"):
        models.build_model(builder(sequential(layers.BatchNormalization())), (4,), 3, root=1)


def test_batch_normalisation_is_found_inside_nested_models(builder):
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.BatchNormalization()])
    with pytest.raises(UsageError, match="BatchNormalization"):
        models.build_model(builder(sequential(inner)), (4,), 3, root=1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda shape, classes: keras.Sequential([keras.Input(shape), layers.Dense(classes, activation="softmax")]),
            "softmax",
        ),
        (
            lambda shape, classes: keras.Sequential([keras.Input(shape), layers.Dense(classes), layers.Softmax()]),
            "softmax",
        ),
        (
            lambda shape, classes: keras.Sequential([keras.Input(shape), layers.Dense(classes + 1)]),
            "its output has shape",
        ),
        (
            lambda shape, classes: keras.Sequential([keras.Input(shape), layers.Dense(classes, dtype="float64")]),
            "float32",
        ),
        (lambda shape, classes: "a model", "must be a Keras 3 model"),
        (
            lambda shape, classes: keras.Sequential(
                [keras.Input(shape), layers.Dense(classes, kernel_regularizer="l2")]
            ),
            "a regularizer",
        ),
        (
            lambda shape, classes: keras.Sequential(
                [
                    keras.Input(batch_shape=(1, *shape)),
                    layers.Reshape((2, 2)),
                    layers.GRU(classes, stateful=True),
                ]
            ),
            "carries one batch into the next",
        ),
    ],
)
def test_unfit_models_are_refused(builder, function, message):
    with pytest.raises(UsageError, match=message):
        models.build_model(builder(function), (4,), 3, root=1)


@pytest.mark.parametrize("name", ["no_such_module:build", "json:nothing", "json", "json:__name__"])
def test_builders_that_cannot_be_called_are_refused(make_config, name):
    with pytest.raises(UsageError, match=r"model\.builder"):
        models.build_model(make_config(model={"builder": name}).model, (4,), 3, root=1)


def test_a_users_model_starts_from_the_root_seed(builder):
    section = builder(sequential(layers.Dense(6, activation="relu"), layers.Dropout(0.1)))
    first, again = (models.build_model(section, (4,), 3, root=1) for _ in range(2))
    np.testing.assert_array_equal(models.get_weights(first), models.get_weights(again))


def test_weights_travel_through_one_vector_and_the_file(make_config, tmp_path):
    model = models.build_model(make_config().model, (4,), 3, root=1)
    weights = np.linspace(-1, 1, models.get_weights(model).size)
    models.set_weights(model, weights)
    np.testing.assert_allclose(models.get_weights(model), weights, rtol=1e-6)
    with pytest.raises(UsageError, match="parameters"):
        models.set_weights(model, weights[:-1])
    path = tmp_path / "model.keras"
    models.save_model(model, path)
    assert [item.name for item in tmp_path.iterdir()] == ["model.keras"]
    x = np.random.default_rng(0).random((9, 4), np.float32)
    np.testing.assert_allclose(run_files.predict_logits(path, x), models.logits_of(model, x, batch=2), rtol=1e-5)


def test_an_unreadable_model_is_a_data_error(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"not a readable \.keras model"):
        run_files.predict_logits(tmp_path / "model.keras", np.zeros((1, 4), np.float32))
