"""Random models of known layers by book-keeping, and one tape per example: shapes, strides, padding, masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpaudit.federated import models
from dpaudit.federated.keras_functions import LossFunctions

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
layers = keras.layers
BATCH, CLASSES = 4, 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def check(model, x, seed, *, clip_norm):
    """Norms and clipped sum of the whole model equal those of one tape per example, to float precision."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1 * rng.standard_normal(variable.shape))
    y = rng.integers(CLASSES, size=len(x)).astype(np.int32)
    functions = LossFunctions(model, LOSS, x=x, y=y)
    assert functions.no_bookkeeping is None
    weights = models.get_weights(model)
    total, norms = functions.clipped_sum(
        weights, tf.constant(x), tf.constant(y), np.arange(len(y)), clip_norm=clip_norm, seed=(0, 0)
    )
    rows = []
    for i in range(len(y)):
        with tf.GradientTape() as tape:
            logits = model(x[i : i + 1], training=True)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y[i : i + 1], logits=logits)
        parts = tape.gradient(loss, [v.value for v in model.trainable_variables], unconnected_gradients="zero")
        rows.append(np.concatenate([np.asarray(tf.convert_to_tensor(part), np.float64).ravel() for part in parts]))
    truth = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(norms, truth, rtol=5e-5, atol=1e-6)
    clipped = (np.array(rows) * np.minimum(1.0, clip_norm / np.maximum(truth, 1e-30))[:, None]).sum(axis=0)
    np.testing.assert_allclose(total, clipped, rtol=1e-3, atol=1e-5 * max(1.0, np.abs(clipped).max()))


def attention_model(*, length, heads, key, value, causal, masked, kind):
    tokens = keras.Input((length,))
    x = layers.Embedding(7, 4 * heads, mask_zero=masked)(tokens)
    if kind == "grouped":
        x = layers.GroupQueryAttention(key, 2 * heads, heads)(x, x, use_causal_mask=causal)
    else:
        attend = layers.MultiHeadAttention(heads, key, value_dim=value)
        x = attend(x, x, use_causal_mask=causal)
    return keras.Model(tokens, layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(x)))


def test_an_attention_with_all_its_masks():
    model = attention_model(length=4, heads=2, key=3, value=2, causal=True, masked=True, kind="multi-head")
    x = np.array([[1, 2, 0, 0], [3, 3, 3, 3], [1, 0, 0, 0], [5, 6, 1, 0]], np.float32)
    check(model, x, 1, clip_norm=0.3)


def test_biases_that_keras_adds_along_another_axis_are_not_guessed():
    """With one number per head and as many heads as steps, Keras 3.15 adds the bias of heads along the steps."""
    model = attention_model(length=2, heads=2, key=1, value=None, causal=False, masked=False, kind="multi-head")
    x = np.ones((BATCH, 2), np.float32)
    functions = LossFunctions(model, LOSS, x=x, y=np.zeros(BATCH, np.int32))
    assert "add a bias of shape (2, 1) elsewhere" in functions.no_bookkeeping


@pytest.mark.slow
@settings(max_examples=25, derandomize=True, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 3), st.integers(2, 3), st.sampled_from([None, 2, 3]), st.booleans(),
    st.booleans(), st.sampled_from(["multi-head", "grouped"]), st.integers(0, 99), st.sampled_from([0.1, 50.0]),
)  # fmt: skip
def test_attention_over_heads_widths_and_masks(length, heads, key, value, causal, masked, kind, seed, clip_norm):
    masked = masked and kind == "multi-head"  # grouped attention takes no mask from the embedding
    model = attention_model(
        length=length, heads=heads, key=key, value=value, causal=causal, masked=masked, kind=kind
    )  # fmt: skip
    x = np.random.default_rng(seed).integers(0 if masked else 1, 7, (BATCH, length)).astype(np.float32)
    x[:, 0] = 1  # a first token: a sequence of nothing but padding has no mean
    check(model, x, seed, clip_norm=clip_norm)


def image_layer(draw):
    small, padding = st.integers(1, 3), st.sampled_from(["same", "valid"])
    kind = draw(st.sampled_from(["conv", "depthwise", "layer norm", "group norm", "pool", "activation"]))
    if kind == "conv":
        kernel, strides = (draw(small), draw(small)), (draw(small), draw(small))
        return layers.Conv2D(draw(st.sampled_from([2, 4])), kernel, strides, padding="same", activation="tanh")
    if kind == "depthwise":
        return layers.DepthwiseConv2D(draw(small), depth_multiplier=draw(st.integers(1, 2)), padding="same")
    if kind == "pool":
        return layers.AveragePooling2D(2, 1, padding=draw(padding) if draw(st.booleans()) else "same")
    if kind == "activation":
        return layers.Activation(draw(st.sampled_from(["relu", "gelu", "elu"])))
    return layers.LayerNormalization() if kind == "layer norm" else layers.GroupNormalization(1)


@pytest.mark.slow
@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.data())
def test_stacks_of_image_layers(data):
    draw = data.draw
    size = draw(st.integers(5, 7))
    stack = [image_layer(draw) for _ in range(draw(st.integers(1, 3)))]
    model = keras.Sequential([
        keras.Input((size, size, 2)), *stack, layers.Flatten(), layers.Dense(CLASSES, use_bias=draw(st.booleans()))
    ])  # fmt: skip
    seed = draw(st.integers(0, 99))
    x = np.random.default_rng(seed).standard_normal((BATCH, size, size, 2)).astype(np.float32)
    check(model, x, seed, clip_norm=draw(st.sampled_from([0.2, 20.0])))


@pytest.mark.slow
@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.data())
def test_stacks_of_sequence_layers_with_masks(data):
    draw = data.draw
    length, masked = draw(st.integers(2, 5)), draw(st.booleans())
    tokens = keras.Input((length,))
    x = layers.Embedding(6, 4, mask_zero=masked)(tokens)
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from(["lstm", "gru", "simple", "both", "norm", "dense", "residual"]))
        if kind in {"lstm", "gru", "simple"}:
            make = {"lstm": layers.LSTM, "gru": layers.GRU, "simple": layers.SimpleRNN}[kind]
            x = make(4, return_sequences=True)(x)
        elif kind == "both":
            x = layers.Bidirectional(layers.GRU(2, return_sequences=True))(x)
        elif kind == "norm":
            x = layers.LayerNormalization()(x)
        elif kind == "dense":
            x = layers.Dense(4, activation="tanh")(x)
        else:
            x = layers.Add()([x, layers.MultiHeadAttention(2, 2)(x, x)])
    model = keras.Model(tokens, layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(x)))
    seed = draw(st.integers(0, 99))
    values = np.random.default_rng(seed).integers(0, 6, (BATCH, length)).astype(np.float32)
    values[:, 0] = 1
    check(model, values, seed, clip_norm=draw(st.sampled_from([0.2, 20.0])))
