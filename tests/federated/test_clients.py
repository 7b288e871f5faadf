"""What clients compute, against slow twins that loop in eager Keras."""

import numpy as np
import pytest

from dpaudit.federated import engine as engines
from dpaudit.federated import models
from dpaudit.federated.clients import ClientFunctions
from dpaudit.federated.sampling import Cohort

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
layers = keras.layers


def networks():
    mlp = [keras.Input((16,)), layers.Dense(5, activation="relu"), layers.Dense(3)]
    cnn = [
        keras.Input((16,)), layers.Reshape((4, 4, 1)), layers.Conv2D(3, 2, activation="tanh"),
        layers.MaxPooling2D(), layers.Flatten(), layers.Dense(3),
    ]  # fmt: skip
    norm = [
        keras.Input((16,)),
        layers.Dense(6),
        layers.LayerNormalization(),
        layers.Activation("gelu"),
        layers.Dense(3),
    ]
    recurrent = [keras.Input((16,)), layers.Reshape((4, 4)), layers.GRU(4, unroll=True), layers.Dense(3)]
    embedding = [keras.Input((16,)), layers.Lambda(abs), layers.Embedding(9, 2), layers.Flatten(), layers.Dense(3)]
    return {"mlp": mlp, "cnn": cnn, "norm": norm, "recurrent": recurrent, "embedding": embedding}


def loss_of(model, x, y):
    logits = model(x, training=True)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))


def flat_gradient(model, x, y):
    with tf.GradientTape() as tape:
        loss = loss_of(model, x, y)
    variables = [v.value for v in model.trainable_variables]
    return [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]


def cohort_of(units, number=0):
    nobody = np.zeros(6, bool)
    return Cohort(number=number, sampled=nobody, answered=nobody, units=np.asarray(units, np.int64))


@pytest.mark.parametrize("name", ["mlp", "cnn", "norm", "recurrent", "embedding"])
def test_per_example_gradients_equal_one_gradient_tape_per_example(name, blobs):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(networks()[name])
    data = blobs(12, features=16)
    functions = ClientFunctions(model, (16,))
    weights = models.get_weights(model)
    assert functions.parameters == weights.size
    index = np.array([3, 0, 7, 7, 11])
    rows = functions.per_example_gradients(weights, tf.constant(data.x), tf.constant(data.y), index, seed=(1, 2))
    for row, position in zip(rows, index, strict=True):
        parts = flat_gradient(model, data.x[position : position + 1], data.y[position : position + 1])
        twin = np.concatenate([np.asarray(part).ravel() for part in parts])
        np.testing.assert_allclose(row, twin, rtol=1e-4, atol=1e-6)


def test_dropout_masks_change_from_round_to_round_and_repeat_within_one(blobs):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(30), layers.Dropout(0.5), layers.Dense(3)])
    data = blobs(20)
    runner = engines.FedSgdEngine(ClientFunctions(model, (4,)), data, root=1)
    weights = models.get_weights(model)

    def rows(number):
        (block,) = runner.run_cohort(weights, cohort_of([0, 1, 2], number))
        return np.asarray(block.rows)

    np.testing.assert_array_equal(rows(0), rows(0))
    assert np.abs(rows(0) - rows(1)).max() > 1e-3


def test_an_empty_cohort_computes_nothing(make_config, blobs):
    model = keras.Sequential(networks()["mlp"])
    data = blobs(24, features=16)
    functions = ClientFunctions(model, (16,))
    weights = models.get_weights(model)
    for level in (False, True):
        training = make_config(client_level=level).training
        assert list(engines.make_engine(functions, data, training, root=1).run_cohort(weights, cohort_of([]))) == []


def slow_update(model, weights, data, index, mask, *, rate):
    """Local SGD of one client in eager Keras: batches in order, padding left out."""
    models.set_weights(model, weights)
    for batch, present in zip(index, mask, strict=True):
        chosen = batch[present == 1]
        if chosen.size:
            for variable, step in zip(
                model.trainable_variables, flat_gradient(model, data.x[chosen], data.y[chosen]), strict=True
            ):
                variable.assign_sub(rate * step)
    return models.get_weights(model) - weights


def test_local_updates_equal_a_loop_over_clients_and_batches(make_config, blobs):
    training = make_config(client_level=True, training={"local_epochs": 2, "local_learning_rate": 0.3}).training
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, activation="relu"), layers.Dense(3)])
    data = blobs(41, clients=6)  # sizes 7 and 6: the last batch of 4 is partly padding
    runner = engines.FedAvgEngine(ClientFunctions(model, (4,)), data, training, root=1)
    weights = models.get_weights(model)
    units = np.array([0, 2, 5])
    index, mask = runner._batches(0, units)
    assert index.shape == (3, 4, 4)
    rows = runner._functions.local_updates(
        weights, runner._examples, index=index, mask=mask, learning_rate=0.3, seed=(0, 0)
    )
    for row, client, of_client, present in zip(rows, units, index, mask, strict=True):
        used = of_client[present == 1]
        assert sorted(used.tolist()) == sorted(2 * np.flatnonzero(data.client == client).tolist())
        np.testing.assert_allclose(
            row, slow_update(model, weights, data, of_client, present, rate=0.3), rtol=1e-4, atol=1e-6
        )


def stackable():
    inputs = keras.Input((4,))
    x = layers.Dense(4, activation="gelu")(layers.Reshape((2, 2))(inputs))
    x = layers.Add()([layers.Flatten()(x), layers.Dense(8, use_bias=False)(inputs)])
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize("bad", [None, np.nan])
def test_stacked_and_mapped_clients_compute_the_same(make_config, blobs, monkeypatch, bad):
    training = make_config(client_level=True, training={"local_epochs": 2, "local_learning_rate": 0.3}).training
    keras.utils.set_random_seed(2)
    model, data = stackable(), blobs(41, clients=6)
    weights = models.get_weights(model)
    if bad is not None:
        data.x[data.client == 2, 0] = bad
    found = {}
    for name, reason in (("stacked", None), ("mapped", "switched off")):
        if reason is not None:
            monkeypatch.setattr(ClientFunctions, "unstacked", reason)
        runner = engines.FedAvgEngine(ClientFunctions(model, (4,)), data, training, root=1)
        assert name in runner.clipping_path
        (block,) = runner.run_cohort(weights, cohort_of([0, 2, 5]))
        found[name] = block.rows
    assert np.isfinite(found["stacked"][[0, 2]]).all()
    assert np.isfinite(found["stacked"][1]).all() == (bad is None)
    assert np.abs(found["stacked"][0]).max() > 1e-2
    np.testing.assert_allclose(found["stacked"], found["mapped"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("no_chain", [None, "switched off"])
def test_padding_never_points_at_the_example_of_another_client(make_config, blobs, monkeypatch, no_chain):
    model, data = keras.Sequential([keras.Input((4,)), layers.Dense(3)]), blobs(41, clients=6)
    data.x[0] = np.nan  # of client 0, and what index 0 means
    if no_chain is not None:
        monkeypatch.setattr(ClientFunctions, "no_chain", no_chain)
    runner = engines.FedAvgEngine(ClientFunctions(model, (4,)), data, make_config(client_level=True).training, root=1)
    (block,) = runner.run_cohort(models.get_weights(model), cohort_of([0, 1, 5]))  # 7, 7 and 6 examples in fours
    assert not np.isfinite(block.rows[0]).all()
    assert np.isfinite(block.rows[1:]).all()


@pytest.mark.parametrize("name", ["cnn", "norm", "recurrent", "embedding"])
def test_models_with_other_parameters_are_mapped_or_run_one_by_one(make_config, blobs, name):
    keras.utils.set_random_seed(3)
    model, data = keras.Sequential(networks()[name]), blobs(24, features=16)
    training = make_config(client_level=True).training
    runner = engines.FedAvgEngine(ClientFunctions(model, (16,)), data, training, root=1)
    how = "one after the other" if name == "cnn" else "mapped"
    assert f"clients {how}: " in runner.clipping_path
    weights, units = models.get_weights(model), np.array([0, 3])
    index, mask = runner._batches(0, units)
    rows = runner._functions.local_updates(
        weights, runner._examples, index=index, mask=mask, learning_rate=0.1, seed=(0, 0)
    )
    for row, of_client, present in zip(rows, index, mask, strict=True):
        twin = slow_update(model, weights, data, of_client, present, rate=0.1)
        np.testing.assert_allclose(row, twin, rtol=1e-3, atol=1e-5)


def test_chunks_do_not_change_what_clients_compute(blobs, monkeypatch):
    model = keras.Sequential(networks()["mlp"])
    data = blobs(40, features=16)
    functions = ClientFunctions(model, (16,))
    weights = models.get_weights(model)
    runner = engines.FedSgdEngine(functions, data, root=1)
    (whole,) = runner.run_cohort(weights, cohort_of(range(10)))
    monkeypatch.setattr(engines, "CHUNK_BYTES", 3 * 32 * functions.parameters)
    parts = list(runner.run_cohort(weights, cohort_of(range(10))))
    assert [len(part.rows) for part in parts] == [3, 3, 3, 1]
    np.testing.assert_allclose(np.concatenate([part.rows for part in parts]), whole.rows, rtol=1e-5, atol=1e-7)


def test_every_client_uses_each_of_its_examples_once_per_epoch_in_a_new_order(make_config, blobs):
    training = make_config(client_level=True, training={"local_epochs": 3, "local_batch_size": 5}).training
    data = blobs(60, clients=6, features=16)
    runner = engines.FedAvgEngine(ClientFunctions(keras.Sequential(networks()["mlp"]), (16,)), data, training, root=1)
    index, mask = runner._batches(0, np.arange(6))
    orders = index.reshape(6, 3, 10)
    assert mask.all()
    for client in range(6):
        own = np.flatnonzero(data.client == client)
        for epoch in range(3):
            assert sorted(orders[client, epoch].tolist()) == own.tolist()
        assert len({tuple(order) for order in orders[client].tolist()}) == 3


def test_the_table_lists_every_example_under_its_client():
    client = np.array([2, 0, 2, 1, 2, 0], np.int32)
    table, sizes = engines.example_table(client)
    assert sizes.tolist() == [2, 1, 3]
    assert [sorted(table[c, : sizes[c]].tolist()) for c in range(3)] == [[1, 5], [3], [0, 2, 4]]


TRACED = ("_gradients", "_clipped", "_updates")


@pytest.mark.parametrize(
    ("name", "level"), [("norm", "rows"), ("cnn", "sums"), ("cnn", "clients"), ("norm", "clients")]
)
def test_cohorts_of_any_size_share_one_trace(make_config, blobs, name, level):
    """Poisson cohorts have another size in every round; a graph that is traced again costs more than the round."""
    model, data = keras.Sequential(networks()[name]), blobs(30, features=16)
    functions, weights = ClientFunctions(model, (16,)), models.get_weights(model)
    if level == "clients":
        engine = engines.FedAvgEngine(functions, data, make_config(client_level=True).training, root=3)
    else:
        engine = engines.FedSgdEngine(functions, data, root=3, clip_norm=1.0 if level == "sums" else None)
    for size in (5, 1, 3, 4, 2, 6):
        blocks = list(engine.run_cohort(weights, cohort_of(range(size), number=size)))
        assert sum(block.units.size for block in blocks) == size
    counts = {attribute: getattr(functions, attribute).experimental_get_tracing_count() for attribute in TRACED}
    used = {"rows": "_gradients", "sums": "_clipped", "clients": "_updates"}[level]
    assert counts == {attribute: int(attribute == used) for attribute in TRACED}
