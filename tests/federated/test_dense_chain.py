"""Chains of Dense layers by hand, against one gradient tape per example in float64 and the paths of TensorFlow."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpaudit.errors import DataError
from dpaudit.federated import dense_local, models
from dpaudit.federated import engine as engines
from dpaudit.federated.clients import ClientFunctions
from dpaudit.federated.dense_chain import DenseChain
from dpaudit.federated.dense_links import Link
from dpaudit.federated.dense_local import DenseLocal
from dpaudit.federated.layer_rules import Unsupported
from dpaudit.federated.sampling import Cohort

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
layers = keras.layers
ACTIVATIONS = ["linear", "relu", "tanh", "sigmoid", "elu"]


def chain_of(widths, *, bias=True, activation="relu"):
    hidden = [activation] * (len(widths) - 2) + ["linear"]
    return DenseChain(
        tuple(
            Link(inputs=a, units=b, bias=bias, activation=name)
            for (a, b), name in zip(itertools.pairwise(widths), hidden, strict=True)
        )
    )


def local_updates(chain, start, x, y, *, index, shares):
    local = DenseLocal(chain)
    return local.descend(start, local.place(x, y), index=index, shares=shares)


def tape_rows(chain, weights, x, y):
    """The gradient of every example's loss in float64, one tape each: (batch, parameters)."""
    rows = []
    for example, label in zip(x, y, strict=True):
        with tf.GradientTape() as tape:
            flat = tf.constant(weights, tf.float64)
            tape.watch(flat)
            out, at = tf.constant(example[None], tf.float64), 0
            for link in chain.links:
                size = link.inputs * link.units
                out = out @ tf.reshape(flat[at : at + size], (link.inputs, link.units))
                if link.bias:
                    out += flat[at + size : at + size + link.units]
                out = getattr(keras.activations, link.activation)(out)
                at += link.parameters
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=[int(label)], logits=out)[0]
        rows.append(tape.gradient(loss, flat).numpy())
    return np.reshape(rows, (len(x), chain.parameters))


def inputs_of(chain, *, stacks, batch, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((stacks, chain.parameters)).astype(np.float32) / np.float32(2)
    x = (scale * rng.standard_normal((stacks, batch, chain.links[0].inputs))).astype(np.float32)
    return weights, x, rng.integers(chain.links[-1].units, size=(stacks, batch)).astype(np.int32)


def clip(rows, clip_norm):
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows * np.minimum(1.0, clip_norm / np.maximum(norms, 1e-300))).sum(axis=0), norms[:, 0]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    widths=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    bias=st.booleans(),
    activation=st.sampled_from(ACTIVATIONS),
    stacks=st.integers(1, 3),
    batch=st.integers(0, 4),
    clip_norm=st.sampled_from([0.01, 0.7, 100.0]),
    seed=st.integers(0, 1000),
)
def test_clipped_sums_equal_one_tape_per_example(widths, bias, activation, stacks, batch, clip_norm, seed):
    chain = chain_of(widths, bias=bias, activation=activation)
    weights, x, y = inputs_of(chain, stacks=stacks, batch=batch, seed=seed)
    mask = np.random.default_rng(seed).integers(2, size=(stacks, batch)).astype(np.float32)
    x[mask == 0] = np.nan  # padding may point at anything
    sums, norms = chain.clipped_sums(weights, x, y, mask=mask, clip_norm=clip_norm)
    assert sums.shape == (stacks, chain.parameters)
    assert norms.dtype == sums.dtype == np.float32
    for position in range(stacks):
        there = mask[position] == 1
        rows = tape_rows(chain, weights[position], x[position][there], y[position][there])
        truth, lengths = clip(rows, clip_norm)
        np.testing.assert_allclose(sums[position], truth, rtol=1e-3, atol=3e-6 * min(clip_norm, 10) + 1e-6)
        np.testing.assert_allclose(norms[position][there], lengths, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(norms[position][~there], 0.0)
        shares = np.where(there, np.float32(0.3), np.float32(0.0))[None]
        one = slice(position, position + 1)
        plain = chain.gradients(weights[one], x[one], y[one], shares)[0]
        np.testing.assert_allclose(plain, 0.3 * rows.sum(axis=0), rtol=1e-3, atol=3e-6)


@pytest.mark.parametrize("widths", [(64, 32, 10), (3, 3000, 4), (5000, 3)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_no_contribution_exceeds_the_clip_norm(widths, scale):
    """Every example is a stack of its own, so that its share in the sum can be measured, in float64."""
    chain, clip_norm = chain_of(widths), 0.125
    weights, x, y = inputs_of(chain, stacks=1, batch=60, scale=scale)
    weights = np.repeat(weights, 60, axis=0)
    sums, norms = chain.clipped_sums(weights, x.swapaxes(0, 1), y.T, clip_norm=clip_norm)
    lengths = np.linalg.norm(sums.astype(np.float64), axis=1)
    assert lengths.max() <= clip_norm
    clipped = norms[:, 0] > clip_norm
    assert clipped.any() or scale == 1e-12
    np.testing.assert_allclose(lengths[clipped], clip_norm, rtol=1e-3)


@pytest.mark.parametrize("batch", [64, 65, 131])
def test_pieces_of_a_batch_are_put_together(batch):
    chain = chain_of((64, 64, 10))
    assert chain._rows == 64
    weights, x, y = inputs_of(chain, stacks=2, batch=batch, scale=0.2)
    whole = chain_of((64, 64, 10))
    whole._rows = 10**6
    mask = np.random.default_rng(1).integers(2, size=y.shape).astype(np.float32)
    index = np.random.default_rng(2).integers(batch, size=(3, 2, batch))
    shares = np.random.default_rng(3).integers(2, size=index.shape).astype(np.float32) / 64
    for (sums, norms), (truth, lengths) in (
        (of.clipped_sums(weights, x, y, mask=held, clip_norm=0.5) for of in (chain, whole)) for held in (mask, None)
    ):
        np.testing.assert_allclose(norms, lengths, rtol=1e-5)
        np.testing.assert_allclose(sums, truth, rtol=1e-4, atol=1e-5)
    for pair in (
        [of.gradients(weights, x, y, mask) for of in (chain, whole)],
        [local_updates(of, weights[0], x[0], y[0], index=index, shares=shares) for of in (chain, whole)],
    ):
        assert np.abs(pair[0]).max() > 0.01
        np.testing.assert_allclose(pair[0], pair[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e25, -1e38])
def test_a_bad_example_shows_in_its_own_norm_and_no_other_stack(bad):
    chain = chain_of((6, 5, 3))
    weights, x, y = inputs_of(chain, stacks=3, batch=4)
    good, lengths = chain.clipped_sums(weights, x, y, clip_norm=1.0)
    x[1, 2, 0] = bad
    sums, norms = chain.clipped_sums(weights, x, y, clip_norm=1.0)
    assert not np.isfinite(norms[1, 2])
    others = np.ones((3, 4), bool)
    others[1, 2] = False
    np.testing.assert_array_equal(norms[others], lengths[others])
    np.testing.assert_array_equal(sums[[0, 2]], good[[0, 2]])


def test_large_inputs_are_clipped_and_not_lost():
    chain = chain_of((6, 5, 3))
    weights, x, y = inputs_of(chain, stacks=1, batch=4)
    x[0, 2] *= np.float32(1e15)
    sums, norms = chain.clipped_sums(weights, x, y, clip_norm=1.0)
    truth, lengths = clip(tape_rows(chain, weights[0], x[0], y[0]), 1.0)
    np.testing.assert_allclose(norms[0], lengths, rtol=1e-4)
    np.testing.assert_allclose(sums[0], truth, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_refused(label):
    chain = chain_of((6, 5, 3))
    weights, x, y = inputs_of(chain, stacks=1, batch=4)
    y[0, 1] = label
    with pytest.raises(DataError, match=r"labels must lie in 0\.\.2"):
        chain.clipped_sums(weights, x, y, clip_norm=1.0)
    index, shares = np.zeros((1, 1, 2), int), np.ones((1, 1, 2), np.float32)
    with pytest.raises(DataError, match=r"labels must lie in 0\.\.2"):
        local_updates(chain, weights[0], x[0], y[0] * 0 + label, index=index, shares=shares)


def test_nothing_is_computed_for_nobody():
    chain = chain_of((6, 5, 3))
    weights, x, y = inputs_of(chain, stacks=2, batch=0)
    sums, norms = chain.clipped_sums(weights, x, y, clip_norm=1.0)
    np.testing.assert_array_equal(sums, 0.0)
    assert norms.shape == (2, 0)
    empty = np.zeros((2, 0, 4), int)
    updates = local_updates(
        chain, weights[0], np.zeros((3, 6), np.float32), np.zeros(3, int), index=empty, shares=empty.astype(np.float32)
    )
    np.testing.assert_array_equal(updates, 0.0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_local_updates_equal_a_loop_over_clients_and_steps(activation, monkeypatch):
    chain, rng = chain_of((6, 5, 3), activation=activation), np.random.default_rng(5)
    weights, x, y = inputs_of(chain, stacks=1, batch=30)
    start, x, y = weights[0], x[0], y[0]
    index = rng.integers(1, 30, size=(11, 3, 4))
    shares = (rng.integers(3, size=(11, 3, 4)) / 8).astype(np.float32)
    shares[3, 1] = 0
    index[shares == 0] = 0
    x[0] = np.nan  # where padding points
    updates = local_updates(chain, start, x, y, index=index, shares=shares)
    for update, of_client, weight in zip(updates, index, shares, strict=True):
        local = start.astype(np.float64)
        for batch, share in zip(of_client, weight, strict=True):
            there = share > 0
            local = local - share[there] @ tape_rows(chain, local, x[batch[there]], y[batch[there]])
        np.testing.assert_allclose(update, local - start, rtol=1e-3, atol=1e-6)
    monkeypatch.setattr(dense_local, "_PLAIN_BYTES", 1)  # one client after the other
    np.testing.assert_array_equal(local_updates(chain, start, x, y, index=index, shares=shares), updates)


def sequential(*middle, shape=(16,)):
    return keras.Sequential([keras.Input(shape), *middle, layers.Dense(3)])


def functional():
    inputs = keras.Input((16,))
    return keras.Model(inputs, layers.Dense(3, use_bias=False)(layers.Dense(5, activation="tanh")(inputs)))


KNOWN = {
    "linear model": sequential,
    "hidden layers": lambda: sequential(layers.Dense(7, activation="relu"), layers.Dense(5, use_bias=False)),
    "functional": functional,
    "sigmoid, elu": lambda: sequential(layers.Dense(7, activation="sigmoid"), layers.Dense(5, activation="elu")),
    "images": lambda: sequential(
        layers.Rescaling(2.0, offset=-0.5), layers.Reshape((8, 2)), layers.Rescaling(0.25), layers.Flatten(),
        layers.Dense(5, activation="relu"), shape=(4, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(KNOWN))
@pytest.mark.parametrize("clip_norm", [0.3, 50.0])
def test_a_chain_and_tensorflow_compute_the_same(name, clip_norm, blobs, make_config, monkeypatch):
    keras.utils.set_random_seed(4)
    model = KNOWN[name]()
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1)
    data = blobs(41, features=16)
    data = dataclasses.replace(data, x=data.x.reshape(-1, *model.input_shape[1:]))
    weights, everyone = models.get_weights(model), np.ones(6, bool)
    training = make_config(client_level=True, training={"local_epochs": 2}).training
    examples = Cohort(number=0, sampled=everyone, answered=everyone, units=np.array([3, 0, 7, 11, 4]))
    people = dataclasses.replace(examples, units=np.array([0, 2, 5]))  # sizes 7 and 6: the last batch of 4 is padded
    found = {}
    for path in ("chain", "tensorflow"):
        if path == "tensorflow":
            monkeypatch.setattr(ClientFunctions, "no_chain", "switched off")
        functions = ClientFunctions(model, data.x.shape[1:])
        one = engines.FedSgdEngine(functions, data, root=3, clip_norm=clip_norm)
        two = engines.FedAvgEngine(functions, data, training, root=3)
        assert one.clipping_path == "book-keeping" + " (dense chain)" * (path == "chain")
        assert two.clipping_path.endswith("clients stacked" + " (dense chain)" * (path == "chain"))
        found[path] = *one.run_cohort(weights, examples), *two.run_cohort(weights, people)
    (left, rows), (right, others) = found["chain"], found["tensorflow"]
    np.testing.assert_allclose(left.norms, right.norms, rtol=1e-5)
    np.testing.assert_allclose(left.total, right.total, rtol=1e-4, atol=1e-6 * np.abs(right.total).max())
    np.testing.assert_allclose(rows.rows, others.rows, rtol=1e-4, atol=1e-6)
    assert np.abs(rows.rows).max() > 1e-3


def twice():
    inputs, one = keras.Input((16,)), layers.Dense(16, activation="relu")
    return keras.Model(inputs, layers.Dense(3)(one(one(inputs))))


def branched():
    inputs = keras.Input((16,))
    return keras.Model(inputs, layers.Dense(3)(layers.Add()([layers.Dense(4)(inputs), layers.Dense(4)(inputs)])))


def skipping():
    inputs = keras.Input((16,))
    hidden = layers.Dense(16)(inputs)
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(16)(hidden) + hidden))


def inner_output():
    inputs = keras.Input((16,))
    hidden = layers.Dense(3)(inputs)
    layers.Dense(3)(hidden)
    return keras.Model(inputs, [hidden, layers.Dense(3)(hidden)])


def frozen():
    model = sequential(layers.Dense(5))
    model.layers[0].trainable = False
    return model


def adapted():
    model = sequential(layers.Dense(6))
    model.layers[0].enable_lora(2)
    return model


def patched():
    model = sequential(layers.Dense(6))
    model.layers[0].call = lambda inputs, training=None: inputs[:, :6]
    return model


class Halved(layers.Dense):
    def call(self, inputs, training=None):
        return super().call(inputs) / 2


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.one = layers.Dense(3)
        self(np.zeros((1, 16), np.float32))

    def call(self, inputs, training=None):
        return self.one(inputs)


class OwnSequential(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs)


UNKNOWN = {
    "'gelu' is not written out": lambda: sequential(layers.Dense(5, activation="gelu")),
    "activation of its own": lambda: sequential(layers.Dense(4, activation=lambda x: x / 2)),
    "an activation of its own": lambda: sequential(layers.Dense(4, activation=layers.ReLU(max_value=0.1))),
    "(Dropout) stands in a chain": lambda: sequential(layers.Dropout(0.5)),
    "(ReLU) stands in a chain": lambda: sequential(layers.Dense(5), layers.ReLU(0.1)),
    "(LayerNormalization) stands in": lambda: sequential(layers.LayerNormalization()),
    "several positions": lambda: sequential(layers.Reshape((4, 4)), layers.Dense(2), layers.Flatten()),
    "has a kernel_regularizer": lambda: sequential(layers.Dense(5, kernel_regularizer="l2")),
    "has a activity_regularizer": lambda: sequential(layers.Dense(5, activity_regularizer="l2")),
    "has a bias_constraint": lambda: sequential(layers.Dense(5, bias_constraint="non_neg")),
    "computes in": lambda: sequential(layers.Dense(4, dtype="mixed_bfloat16")),
    "each used once": twice,
    "not one after the other": branched,
    "the layers are not one after": skipping,
    "some variables are not": frozen,
    "is adapted": adapted,
    "a call of its own": patched,
    "Halved": lambda: sequential(Halved(4)),
    "the model is a Own": Own,
    "the model is a OwnSequential": lambda: OwnSequential([keras.Input((16,)), layers.Dense(3)]),
    "that gives logits": lambda: keras.Sequential([keras.Input((16,)), layers.Dense(3, activation="relu")]),
    "more than two numbers": lambda: sequential(layers.Rescaling(np.arange(16) / 16)),
    "(Sequential) stands in": lambda: sequential(keras.Sequential([keras.Input((16,)), layers.Dense(4)])),
    "the output is not": inner_output,
    "a layer is so large": lambda: sequential(layers.Dense(129), layers.Dense(129)),
    "a layer is so large that": lambda: sequential(layers.Dense(1000)),
}


@pytest.mark.parametrize("reason", list(UNKNOWN))
def test_everything_else_is_declined_with_the_reason(reason):
    with pytest.raises(Unsupported) as declined:
        DenseChain.of(UNKNOWN[reason]())
    assert reason in str(declined.value)


def test_a_gpu_is_left_to_tensorflow(monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: ["one"] if kind == "GPU" else [])
    functions = ClientFunctions(sequential(), (16,))
    assert functions.chain is None
    assert functions.no_chain == "TensorFlow has a GPU"
