"""The fallback: any model, one example at a time where TensorFlow cannot vectorise; subclassed models included."""

import numpy as np
import pytest

from dpaudit.federated import per_example
from dpaudit.federated.keras_functions import LossFunctions

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
layers = keras.layers
N = 7


class Subclassed(keras.Model):
    """What people write: layers made in __init__, used in call."""

    def __init__(self, middle):
        super().__init__()
        self.embed, self.middle = layers.Embedding(9, 8), middle
        self.pool, self.out = layers.GlobalAveragePooling1D(), layers.Dense(3)

    def call(self, tokens, training=None):
        x = self.embed(tokens)
        x = self.middle(x, x) if isinstance(self.middle, layers.MultiHeadAttention) else self.middle(x)
        return self.out(self.pool(x))


MIDDLE = {
    "attention": lambda: layers.MultiHeadAttention(2, 4),
    "lstm": lambda: layers.LSTM(4, return_sequences=True),
    "dense": lambda: layers.Dense(5, activation="relu"),
    "transposed convolution": lambda: layers.Conv1DTranspose(4, 3),
    "separable convolution": lambda: layers.SeparableConv1D(4, 3),
    "distributed": lambda: layers.TimeDistributed(layers.Dense(4)),
}


@pytest.mark.parametrize("name", list(MIDDLE))
def test_rows_of_any_model_equal_those_of_single_examples(name):
    keras.utils.set_random_seed(1)
    model = Subclassed(MIDDLE[name]())
    rng = np.random.default_rng(0)
    x, y = rng.integers(9, size=(N, 6)).astype(np.int32), rng.integers(3, size=N).astype(np.int32)
    model(x)
    functions = LossFunctions(model, keras.losses.SparseCategoricalCrossentropy(from_logits=True), x=x, y=y)
    said = "the model is a Subclassed, neither functional nor sequential"
    assert functions.no_bookkeeping.startswith(said)
    assert ("one example at a time" in functions.no_bookkeeping) is (name in {"attention", "lstm"})
    weights = np.concatenate([np.asarray(v.value, np.float64).ravel() for v in model.trainable_variables])
    wanted = np.array([5, 0, 6])
    rows = functions.per_example_gradients(weights, tf.constant(x), tf.constant(y), wanted, seed=(1, 2))
    for row, unit in zip(rows, wanted, strict=True):
        with tf.GradientTape() as tape:
            logits = model(x[unit : unit + 1], training=True)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y[unit : unit + 1], logits=logits)
        parts = tape.gradient(loss, [v.value for v in model.trainable_variables])
        truth = np.concatenate([np.asarray(tf.convert_to_tensor(part)).ravel() for part in parts])
        np.testing.assert_allclose(row, truth, rtol=1e-4, atol=1e-6)


def test_loops_and_batched_products_are_seen_before_they_are_mapped():
    spec = tf.TensorSpec([3, 3])
    assert per_example.not_vectorised(lambda x: tf.tanh(x) @ x, spec) is None
    assert "BatchMatMulV2" in per_example.not_vectorised(lambda x: x[None] @ x[None], spec)
    loop = per_example.not_vectorised(lambda x: tf.while_loop(lambda a: a[0, 0] < 9, lambda a: [a + 1], [x])[0], spec)
    assert "While" in loop
    nested = tf.function(lambda x: x[None] @ x[None])
    assert "BatchMatMulV2" in per_example.not_vectorised(nested, spec)


def test_mapping_one_at_a_time_gives_what_the_function_gives():
    x = tf.constant(np.random.default_rng(0).standard_normal((5, 3, 3)), tf.float32)
    mapped = tf.function(lambda x: per_example.map_examples(lambda one: (one[None] @ one[None])[0], x))(x)
    np.testing.assert_allclose(mapped, np.asarray(x) @ np.asarray(x), rtol=1e-5)
