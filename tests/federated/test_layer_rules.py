"""Norms and weighted sums of per-example gradients, rule by rule, against a gradient tape per example."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpaudit.federated import bookkeeping, layer_rules

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
layers = keras.layers
BATCH = 4
quick = settings(max_examples=40, derandomize=True, deadline=None)


def values(shape, seed, scale=1.0):
    return tf.constant((scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32))


def twin(layer, inputs, gradient):
    """Per-example gradients of sum(layer(x_i) * g_i), one example at a time, one list entry per variable."""
    found = [[] for _ in layer.trainable_variables]
    for one, g in zip(inputs, gradient, strict=True):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(one[None]) * g[None])
        wanted = [variable.value for variable in layer.trainable_variables]
        for rows, row in zip(found, tape.gradient(loss, wanted), strict=True):
            rows.append(np.asarray(tf.convert_to_tensor(row), np.float64))
    return [np.stack(rows) for rows in found]


def check(layer, inputs, rule, *, rule_inputs=None, seed=1):
    output = layer(inputs)
    gradient = values(output.shape, seed)
    parts = rule(layer, inputs if rule_inputs is None else rule_inputs, gradient)
    factors = np.random.default_rng(seed).random(len(inputs)).astype(np.float32)
    factors[0] = 0.0
    assert [id(part.variable) for part in parts] == [id(variable) for variable in layer.trainable_variables]
    for part, rows in zip(parts, twin(layer, inputs, gradient), strict=True):
        flat = rows.reshape(len(rows), -1)
        np.testing.assert_allclose(np.asarray(part.squares()), (flat**2).sum(axis=1), rtol=2e-5, atol=1e-30)
        summed = np.asarray(part.weighted(tf.constant(factors))).reshape(rows.shape[1:])
        np.testing.assert_allclose(summed, np.tensordot(factors, rows, 1), rtol=1e-4, atol=1e-4)


@quick
@given(st.lists(st.integers(1, 5), max_size=2), st.integers(1, 6), st.integers(1, 6), st.booleans(), st.integers(0, 99))
def test_dense_at_any_number_of_positions(middle, width, units, bias, seed):
    check(layers.Dense(units, use_bias=bias), values((BATCH, *middle, width), seed), layer_rules.dense_parts)


@quick
@given(st.data())
def test_conv2d_kernels_strides_padding_dilation(data):
    draw, small = data.draw, st.integers(1, 3)
    kernel, strides = (draw(small), draw(small)), (draw(small), draw(small))
    dilation = (draw(small), draw(small)) if strides == (1, 1) else 1
    layer = layers.Conv2D(
        draw(st.integers(1, 5)), kernel, strides, draw(st.sampled_from(["same", "valid"])), dilation_rate=dilation,
        use_bias=draw(st.booleans()),
    )  # fmt: skip
    shape = (BATCH, draw(st.integers(7, 10)), draw(st.integers(7, 10)), draw(st.integers(1, 4)))
    check(layer, values(shape, draw(st.integers(0, 99))), layer_rules.conv_parts)


@quick
@given(st.data())
def test_conv1d_kernels_strides_padding_dilation(data):
    draw, small = data.draw, st.integers(1, 3)
    strides = draw(small)
    layer = layers.Conv1D(
        draw(st.integers(1, 5)), draw(small), strides, draw(st.sampled_from(["same", "valid", "causal"])),
        dilation_rate=draw(small) if strides == 1 else 1, use_bias=draw(st.booleans()),
    )  # fmt: skip
    shape = (BATCH, draw(st.integers(7, 12)), draw(st.integers(1, 4)))
    check(layer, values(shape, draw(st.integers(0, 99))), layer_rules.conv_parts)


@quick
@given(st.data())
def test_depthwise_convolutions(data):
    draw, small = data.draw, st.integers(1, 3)
    two, stride = draw(st.booleans()), draw(small)
    kind = layers.DepthwiseConv2D if two else layers.DepthwiseConv1D
    layer = kind(
        (draw(small), draw(small)) if two else draw(small), stride, draw(st.sampled_from(["same", "valid"])),
        depth_multiplier=draw(small), use_bias=draw(st.booleans()),
        dilation_rate=draw(st.integers(1, 2)) if stride == 1 else 1,
    )  # fmt: skip
    shape = (BATCH, *[draw(st.integers(5, 8)) for _ in range(1 + two)], draw(st.integers(1, 4)))
    check(layer, values(shape, draw(st.integers(0, 99))), layer_rules.depthwise_parts)


@quick
@given(st.integers(1, 7), st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_embedding_adds_up_equal_tokens_first(length, vocabulary, width, seed):
    rng = np.random.default_rng(seed)
    tokens = tf.constant(rng.integers(-vocabulary, vocabulary, (BATCH, length)).astype(np.int32))
    check(layers.Embedding(vocabulary, width), tokens, layer_rules.embedding_parts)


@pytest.mark.parametrize(
    ("equation", "shape", "output", "bias"),
    [
        ("ab,bc->ac", (3,), 4, "c"),
        ("abc,cde->abde", (3, 4), (None, 2, 5), "de"),
        ("abde,dec->abc", (3, 2, 4), (None, 5), "c"),
        ("abc,cd->abd", (3, 4), (None, 6), None),
    ],
)
def test_einsum_dense(equation, shape, output, bias):
    layer = layers.EinsumDense(equation, output_shape=output, bias_axes=bias, bias_initializer="ones")
    check(layer, values((BATCH, *shape), 0), layer_rules.einsum_parts)


@pytest.mark.parametrize("equation", ["...b,bc->...c", "ab,bc->ca"])
def test_an_equation_that_is_not_understood_is_not_guessed(equation):
    layer = layers.EinsumDense(equation, output_shape=BATCH if equation.endswith("ca") else 4)
    inputs = values((BATCH, 3), 0)
    output = layer(inputs)
    with pytest.raises(layer_rules.Unsupported, match="not understood"):
        layer_rules.einsum_parts(layer, inputs, output)


def test_a_sum_of_squares_is_not_smaller_than_the_truth_when_squares_underflow():
    tiny = tf.constant(np.full((1, 50), 1e-21, np.float32))
    huge = tf.constant(np.full((1, 50), 1e17, np.float32))
    part = layer_rules.rank_one_part(None, huge, tiny)
    truth = 50 * 50 * (1e17 * 1e-21) ** 2
    assert float(part.squares()[0]) >= truth


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e6, 1e12])
def test_no_clipped_row_is_longer_than_the_clip_norm(scale):
    rng = np.random.default_rng(5)
    for seed in range(30):
        inputs, gradient = values((BATCH, 37), seed, scale), values((BATCH, 23), seed + 50, 1 / scale)
        part = layer_rules.rank_one_part(None, inputs, gradient)
        clip = float(10.0 ** rng.uniform(-3, 2))
        alone = [bookkeeping.clipped_sum([part], clip_norm=clip, mask=mask)[0] for mask in tf.eye(BATCH)]
        truth = np.einsum("bi,bj->bij", np.asarray(inputs, np.float64), np.asarray(gradient, np.float64))
        norms = np.linalg.norm(truth.reshape(BATCH, -1), axis=1)
        lengths = np.linalg.norm(np.asarray(alone, np.float64), axis=1)
        assert (lengths <= clip).all()
        np.testing.assert_allclose(lengths, np.minimum(norms, clip), rtol=1e-5)


def test_padding_counts_exactly_nothing():
    inputs, gradient = values((BATCH, 5), 0), values((BATCH, 3), 1)
    mask = tf.constant([1.0, 1.0, 0.0, 0.0])
    part, half = (layer_rules.rank_one_part(None, inputs[:n], gradient[:n]) for n in (BATCH, 2))
    padded, norms = bookkeeping.clipped_sum([part], clip_norm=0.7, mask=mask)
    alone, _ = bookkeeping.clipped_sum([half], clip_norm=0.7)
    assert norms.shape == (BATCH,)
    np.testing.assert_allclose(padded, alone, rtol=1e-6, atol=1e-7)
    nothing, _ = bookkeeping.clipped_sum([part], clip_norm=0.7, mask=tf.zeros(BATCH))
    np.testing.assert_array_equal(nothing, 0.0)
