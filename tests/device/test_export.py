"""Which models a device can train, that their numbers are those of the in-process engine, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpaudit.cli.main import run as dpaudit
from dpaudit.config import parse
from dpaudit.device import DeviceClient, LocalDp
from dpaudit.device.order import local_batches
from dpaudit.errors import DataError, DpauditError, MissingDependency, UsageError
from dpaudit.federated import device_export, models
from dpaudit.federated.device_layers import (
    _PLAIN_ACTIVATIONS,
    _rewritten,
    check_trainable,
    trainable_activations,
)

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")
layers = keras.layers


def compare(made, *, seed=0, key=1, count=11):
    """Deltas of perturbed weights in LiteRT and in process, to 1e-5 of the largest."""
    rng = np.random.default_rng(seed)
    weights = made.weights + 0.1 * rng.standard_normal(made.weights.size)
    x, y = made.data.x[:count], made.data.y[:count]
    training = made.training
    index, mask = local_batches(key, count, epochs=training.local_epochs, batch=training.local_batch_size)
    client = DeviceClient(made.file)
    delta, _ = client.train(weights.astype(np.float32), x, y, index=index, mask=mask, clip_norm=None)
    twin = made.functions.local_updates(
        weights, made.functions.place(x, y), index=index[None], mask=mask[None],
        learning_rate=training.local_learning_rate, seed=(0, 0),
    )[0]  # fmt: skip
    assert np.abs(twin).max() > 1e-4
    np.testing.assert_allclose(delta, twin, atol=1e-5 * max(1.0, np.abs(twin).max()))
    models.set_weights(made.model, weights)
    np.testing.assert_allclose(client.logits(weights, x), np.asarray(made.model(x)), atol=1e-4)
    return delta


def sizes(model):
    return [int(np.prod(v.shape)) for v in model.trainable_variables]


def test_every_activation(make_made, make_dataset, make_training):
    """One branch for each, so that none can hide behind another."""
    names = sorted(_PLAIN_ACTIVATIONS | set(_rewritten()))
    entry = keras.Input((6,))
    branches = [layers.Dense(4, activation=name, name=f"by_{name}")(entry) for name in names]
    more = [layers.Dense(4, name=f"before_{number}")(entry) for number in range(4)]
    kinds = (layers.ReLU(), layers.LeakyReLU(negative_slope=0.05), layers.ELU(alpha=0.7), layers.Softmax())
    branches += [kind(branch) for kind, branch in zip(kinds, more, strict=True)]
    model = keras.Model(entry, layers.Dense(3)(layers.Concatenate()(branches)))
    made = make_made(model, make_dataset(30, shape=(6,)), make_training(local_learning_rate=0.3))
    delta = compare(made)
    parts = np.split(delta, np.cumsum(sizes(model))[:-1])
    kernels = [part for part, v in zip(parts, model.trainable_variables, strict=True) if v.shape == (6, 4)]
    assert len(kernels) == len(names) + 4
    assert all(np.abs(kernel).max() > 1e-6 for kernel in kernels)


@pytest.mark.parametrize("name", sorted(_rewritten()))
def test_rewritten_activations_and_their_slopes_are_those_of_keras(name):
    """Also at the kinks: bias 0 and an input of zeros put a whole layer there."""
    x = tf.constant(np.r_[np.linspace(-9, 9, 181), 0.0, -0.0, 3.0, -3.0, 6.0, 30.0, -30.0].astype(np.float32))
    found = []
    for function in (_rewritten()[name], getattr(keras.activations, name)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        found.append((np.asarray(y), np.asarray(tape.gradient(y, x))))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=2e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=2e-6)


def test_the_model_is_left_as_it_was():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, activation="relu"), layers.ReLU(), layers.Dense(3)])
    before = [dict(vars(layer)) for layer in model.layers]
    with trainable_activations(model):
        assert model.layers[0].activation is not keras.activations.relu
    assert [dict(vars(layer)) for layer in model.layers] == before


def images():
    entry = keras.Input((4, 4, 2))
    wide = layers.LayerNormalization()(layers.Dense(4, activation="relu")(layers.Rescaling(0.5)(entry)))
    padded = layers.GlobalAveragePooling2D()(layers.ZeroPadding2D()(layers.GroupNormalization(2)(wide)))
    turned = layers.Dense(4)(layers.Flatten()(layers.Permute((2, 1, 3))(layers.Reshape((2, 8, 4))(wide))))
    both = [layers.Add()([padded, turned]), layers.Multiply()([padded, turned]), layers.Maximum()([padded, turned])]
    both += [layers.Average()([padded, turned]), layers.Subtract()([padded, turned]), padded + turned]
    both += [layers.GlobalMaxPooling2D()(wide), layers.Minimum()([padded, turned])]
    return keras.Model(entry, layers.Dense(3)(layers.Concatenate()(both)))


def tokens():
    entry = keras.Input((6,))
    x = layers.Embedding(9, 8, mask_zero=True)(entry)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)])
    masked = layers.GlobalAveragePooling1D()(layers.Identity()(x))
    plain = layers.EinsumDense("abc,cd->abd", output_shape=(6, 5), bias_axes="d")(layers.Embedding(9, 3)(entry))
    both = layers.Concatenate()([masked, layers.Flatten()(layers.RMSNormalization()(plain))])
    return keras.Model(entry, layers.Dense(3)(both))


def test_layers_for_images(make_made, make_dataset, make_training):
    keras.utils.set_random_seed(2)
    compare(make_made(images(), make_dataset(20, shape=(4, 4, 2)), make_training()))


def test_layers_for_sequences_of_tokens(make_made, make_dataset, make_training):
    keras.utils.set_random_seed(2)
    data = make_dataset(20, shape=(6,), tokens=9)
    data.x[:, 0] = 1.0  # a sequence of nothing but padding has no mean
    compare(make_made(tokens(), data, make_training()))


def test_a_token_outside_the_vocabulary_is_told(make_made, make_dataset, make_training):
    model = keras.Sequential([keras.Input((3,)), layers.Embedding(9, 2), layers.Flatten(), layers.Dense(3)])
    made = make_made(model, make_dataset(12, shape=(3,), tokens=9), make_training())
    compare(made)
    assert DeviceClient(made.file).description.vocabulary == 9
    for wrong in (9.0, 1e9, -1.0):
        x = made.data.x[:4].copy()
        x[2, 1] = wrong
        with pytest.raises(DataError, match=r"x must hold tokens in 0\.\.8"):
            DeviceClient(made.file).update(made.weights, x, made.data.y[:4], key=1)


def test_a_layer_that_is_used_twice_and_inner_models(make_made, make_dataset, make_training):
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, activation="gelu"), layers.Dropout(0.0)])
    entry = keras.Input((4,))
    model = keras.Model(entry, layers.Dense(3)(inner(inner(layers.UnitNormalization()(entry)))))
    compare(make_made(model, make_dataset(), make_training()))


@pytest.mark.slow
@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.data())
def test_random_models(make_made, make_dataset, make_training, data):
    draw = data.draw
    shape = draw(st.sampled_from([(5,), (3, 2), (2, 3, 2)]))
    kinds = draw(st.lists(st.sampled_from(["relu", "tanh", "gelu", "elu", "norm", "none"]), min_size=0, max_size=3))
    stack = [
        layers.LayerNormalization() if kind == "norm" else layers.Dense(4, activation=None if kind == "none" else kind)
        for kind in kinds
    ]
    classes = draw(st.integers(2, 4))
    last = layers.Dense(classes, use_bias=draw(st.booleans()))
    model = keras.Sequential([keras.Input(shape), *stack, layers.Flatten(), last])
    training = make_training(
        local_epochs=draw(st.integers(1, 3)), local_batch_size=draw(st.sampled_from([1, 2, 5, 16])),
        local_learning_rate=draw(st.sampled_from([0.01, 0.5])),
    )  # fmt: skip
    made = make_made(model, make_dataset(20, shape=shape, classes=classes), training)
    compare(made, count=draw(st.integers(1, 20)), key=draw(st.integers(0, 99)), seed=draw(st.integers(0, 99)))


REFUSED = {
    "conv1d": (lambda: layers.Conv1D(2, 2), (6, 2), "Conv1D.*no gradient of a convolution"),
    "conv2d": (lambda: layers.Conv2D(2, 2), (4, 4, 2), "Conv2D.*no gradient of a convolution"),
    "depthwise": (lambda: layers.DepthwiseConv2D(2), (4, 4, 2), "no gradient of a convolution"),
    "gru": (lambda: layers.GRU(3), (6, 2), "GRU.*Flatten and Dense"),
    "lstm": (lambda: layers.LSTM(3), (6, 2), "LSTM.*MultiHeadAttention"),
    "rnn": (lambda: layers.SimpleRNN(3), (6, 2), "SimpleRNN.*MultiHeadAttention"),
    "bidirectional": (lambda: layers.Bidirectional(layers.GRU(3)), (6, 2), "Bidirectional.*Flatten"),
    "max pooling": (layers.MaxPooling2D, (4, 4, 2), "GlobalAveragePooling"),
    "average pooling": (lambda: layers.AveragePooling1D(2), (4, 2), "GlobalAveragePooling"),
    "dropout": (lambda: layers.Dropout(0.1), (4,), "Dropout.*leave it out"),
    "noise": (lambda: layers.GaussianNoise(0.1), (4,), "GaussianNoise.*leave it out"),
    "lambda": (lambda: layers.Lambda(abs), (4,), "Lambda.*built-in"),
    "prelu": (layers.PReLU, (4,), "LeakyReLU"),
    "capped relu": (lambda: layers.ReLU(max_value=2.0), (4,), "relu6"),
    "cropping": (lambda: layers.Cropping1D(1), (4, 2), "crop the data"),
    "upsampling": (lambda: layers.UpSampling1D(2), (4, 2), "UpSampling1D"),
    "repeat": (lambda: layers.RepeatVector(2), (4,), "RepeatVector.*use other layers"),
    "own activation": (lambda: layers.Dense(4, activation=lambda x: x * x), (4,), "the activation.*use relu"),
    "half": (lambda: layers.Dense(4, dtype="mixed_float16"), (4,), "float16.*float32"),
    "dropout in attention": (None, (4, 2), "dropout=0"),
    "own layer": (None, (4,), "Mine.*class of its own"),
    "embedding of what was computed": (None, (4,), "Embedding.*must read the model's input"),
    "operation": (None, (4,), "operation.*use a layer"),
}


class Mine(layers.Dense):
    pass


def refused_model(name):
    make, shape, _ = REFUSED[name]
    entry = keras.Input(shape)
    if name == "dropout in attention":
        x = layers.MultiHeadAttention(1, 2, dropout=0.1)(entry, entry)
    elif name == "own layer":
        x = Mine(4, name="of_mine")(entry)
    elif name == "embedding of what was computed":
        x = layers.Embedding(9, 2)(layers.Dense(4)(entry))
    elif name == "operation":
        x = keras.ops.sin(entry)
    else:
        layer = make()
        layer.name = "culprit"
        x = layer(entry)
    return keras.Model(entry, layers.Dense(3)(layers.Flatten()(x)))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_by_name_with_what_to_use(name):
    with pytest.raises(UsageError, match=REFUSED[name][2]) as told:
        check_trainable(refused_model(name))
    if REFUSED[name][0] is not None:
        assert "'culprit'" in str(told.value)


def test_all_problems_are_told_at_once():
    model = keras.Sequential([
        keras.Input((6, 2)), layers.Conv1D(2, 2), layers.MaxPooling1D(), layers.GRU(3), layers.Dense(3)
    ])  # fmt: skip
    with pytest.raises(UsageError) as told:
        check_trainable(model)
    assert len(str(told.value).splitlines()) == 4


def test_subclassed_models_are_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(UsageError, match="functional or sequential"):
        check_trainable(Own())


def test_local_dp_needs_norms_in_closed_form(make_dataset, make_training):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.RMSNormalization(), layers.Dense(3)])
    with pytest.raises(UsageError, match=r"closed form.*RMSNormalization"):
        device_export.make_client(
            model, make_training(), make_dataset(), local_dp=LocalDp(noise_multiplier=1.0, clip_norm=1.0)
        )


def test_a_conversion_with_other_numbers_is_not_written(make_dataset, make_training, monkeypatch):
    """The planted fault: a step that forgets the learning rate's share of padding."""
    from dpaudit.federated.device_graph import DeviceGraph

    honest = DeviceGraph._slope
    monkeypatch.setattr(DeviceGraph, "_slope", lambda self, logits, y: honest(self, logits, y) * 1.01)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(DpauditError, match=r"local SGD in LiteRT is .* away from TensorFlow's"):
        device_export.make_client(model, make_training(local_learning_rate=1.0), make_dataset())


def test_training_that_diverges_on_the_data_is_told(make_dataset, make_training):
    data = make_dataset()
    data.x[:] *= np.float32(1e30)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(UsageError, match="diverges on the data"):
        device_export.make_client(model, make_training(), data)


def test_the_clip_is_left_to_the_server_where_it_adapts(make_made, make_dataset, make_training):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    made = make_made(model, make_dataset(), make_training(aggregator="tfp-adaptive-clip"))
    client = DeviceClient(made.file)
    assert client.description.clip_norm is None
    update = client.update(made.weights, made.data.x, made.data.y, key=1)
    np.testing.assert_allclose(np.linalg.norm(update.delta), update.norm, rtol=1e-5)
    assert update.norm > 0.1


def test_identity_is_that_of_the_training_and_not_of_the_process(make_training):
    def mlp(activation="relu", hidden=5):
        return keras.Sequential([keras.Input((4,)), layers.Dense(hidden, activation=activation), layers.Dense(3)])

    first = device_export.identity(mlp(), make_training(), (4,))
    assert first == device_export.identity(mlp(), make_training(rounds=99, clip_norm=7.0), (4,))
    others = [
        device_export.identity(mlp("tanh"), make_training(), (4,)),
        device_export.identity(mlp(hidden=6), make_training(), (4,)),
        device_export.identity(mlp(), make_training(local_epochs=3), (4,)),
        device_export.identity(mlp(), make_training(local_learning_rate=0.2), (4,)),
        device_export.identity(mlp(), make_training(local_batch_size=5), (4,)),
        device_export.identity(mlp(), make_training(), (4,), local_dp=LocalDp(noise_multiplier=1.0, clip_norm=1.0)),
    ]
    assert len({first, *others}) == 7


def frozen(input_shape, classes):
    still = layers.Dense(4, trainable=False, activation="tanh")
    return keras.Sequential([keras.Input(input_shape), still, layers.Dense(classes)])


def fixed(input_shape, classes):
    model = frozen(input_shape, classes)
    model.layers[0].set_weights([np.eye(input_shape[0], 4), np.ones(4)])
    return model


def test_weights_that_are_not_trained_are_in_the_file_and_must_be_those_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_builder", {"m:frozen": frozen, "m:fixed": fixed}.get)
    config = parse(CONFIG.replace("hidden = [6]", 'builder = "m:frozen"'))
    with pytest.raises(UsageError, match="drawn at random"):
        device_export.export_client(config, tmp_path / "c.tflite")
    assert not (tmp_path / "c.tflite").exists()
    config = parse(CONFIG.replace("hidden = [6]", 'builder = "m:fixed"'))
    about = device_export.export_client(config, tmp_path / "c.tflite")
    client, model = DeviceClient(tmp_path / "c.tflite"), fixed((24,), 6)
    assert about.parameters == 4 * 6 + 6
    x = np.random.default_rng(0).standard_normal((7, 24)).astype(np.float32)
    np.testing.assert_allclose(client.logits(models.get_weights(model), x), np.asarray(model(x)), atol=1e-5)
    same = device_export.identity(model, config.training, (24,))
    model.layers[0].set_weights([np.zeros((24, 4)), np.ones(4)])
    assert same == about.identity != device_export.identity(model, config.training, (24,))


def test_without_litert(make_dataset, make_training, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert.interpreter", None)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(MissingDependency, match="dpaudit\\[litert\\]"):
        device_export.make_client(model, make_training(), make_dataset())


CONFIG = """
[run]
name = "small"
seed = 5
[claim]
epsilon = 8.0
delta = 1e-4
unit = "client"
[data]
source = "iot"
[data.iot]
devices = 30
windows_per_device = 8
[partition]
kind = "by-client"
[model]
hidden = [6]
[training]
algorithm = "dp-fedavg"
rounds = 3
client_sampling_rate = 0.5
noise_multiplier = 1.0
local_batch_size = 5
local_epochs = 2
[canaries]
count = 0
"""


class Test_command_line:  # noqa: N801 - a heading
    @pytest.fixture
    def config(self, tmp_path):
        (tmp_path / "c.toml").write_text(CONFIG)
        return str(tmp_path / "c.toml")

    def test_a_client(self, config, tmp_path, capsys):
        out = str(tmp_path / "c.tflite")
        assert dpaudit(["export-device", config, "-o", out]) == 0
        told = capsys.readouterr().out
        assert "2 epoch(s) of batches of 5" in told
        about = DeviceClient(out).description
        assert about.identity in told
        assert (about.input_shape, about.epochs, about.batch_size, about.clip_norm) == ((24,), 2, 5, 1.0)

    def test_a_private_client(self, config, tmp_path, capsys):
        import json

        out = str(tmp_path / "c.tflite")
        assert (
            dpaudit(["export-device", config, "-o", out, "--local-dp", "2", "--local-clip-norm", "0.5", "--json"]) == 0
        )
        body = json.loads(capsys.readouterr().out)
        assert body["schema"] == "dpaudit.export-device/v1"
        assert body["description"]["local_dp"] == {"clip_norm": 0.5, "noise_multiplier": 2.0}

    def test_the_model_of_a_run_by_litert_is_exported_and_attacked(self, config, tmp_path, capsys):
        from dpaudit.attacks.targets import load_target

        run, out = str(tmp_path / "run"), str(tmp_path / "m.tflite")
        assert dpaudit(["train", config, "--out", run, "--engine", "litert", "-q"]) == 0
        assert dpaudit(["export-device", config, "-o", out, "--run", run]) == 0
        x = np.random.default_rng(0).standard_normal((40, 24)).astype(np.float32)
        model = models.load_model(tmp_path / "run" / "model.keras")
        np.testing.assert_allclose(load_target(out)(x), models.logits_of(model, x), atol=1e-5)
        for name, rows in (("a", slice(0, 20)), ("b", slice(20, 40))):
            np.savez(tmp_path / f"{name}.npz", x=x[rows], y=np.arange(20) % 6)
        files = ["--members", str(tmp_path / "a.npz"), "--non-members", str(tmp_path / "b.npz"), "--no-control"]
        capsys.readouterr()
        assert dpaudit(["attack", out, *files]) == 0
        told = capsys.readouterr().out
        assert dpaudit(["attack", str(tmp_path / "run" / "model.keras"), *files]) == 0
        same = [line for line in capsys.readouterr().out.splitlines() if "AUC" in line]
        assert same
        assert same == [line for line in told.splitlines() if "AUC" in line]

    def test_what_is_refused_leaves_no_file(self, config, tmp_path, capsys):
        out = tmp_path / "c.tflite"
        example = CONFIG.replace('"client"', '"example"').replace("dp-fedavg", "dp-fedsgd")
        (tmp_path / "e.toml").write_text(example)
        local = example.replace("dp-fedsgd", "dp-local").replace("local_batch_size = 5\n", "")
        (tmp_path / "l.toml").write_text(local)
        cases = [
            ([str(tmp_path / "e.toml"), "-o", str(out)], "Use dp-fedavg or dp-ftrl"),
            ([str(tmp_path / "l.toml"), "-o", str(out)], "export-device --local-dp"),
            ([config, "-o", str(tmp_path / "c.bin")], "ends in .tflite"),
            ([config, "-o", str(out), "--run", str(tmp_path / "none")], "no trained model"),
            ([config, "-o", str(out), "--run", "r", "--local-dp", "1"], "choose one"),
            ([config, "-o", str(out), "--local-dp", "0"], "noise_multiplier must be finite and greater than 0"),
        ]
        for options, told in cases:
            assert dpaudit(["export-device", *options]) == 2
            assert told in capsys.readouterr().err
        assert (
            dpaudit(["train", str(tmp_path / "e.toml"), "--out", str(tmp_path / "r"), "-q", "--engine", "litert"]) == 2
        )
        assert "Use dp-fedavg or dp-ftrl" in capsys.readouterr().err
        assert not out.exists()
