"""Adapters: our own server passes the step test, and so do a DPQuery and a Keras train step that deserve it."""

import subprocess
import sys
import textwrap
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest

from dpaudit.records import Status
from dpaudit.verification import check_step
from dpaudit.verification.adapters_federated import server_step

needs_tensorflow_privacy = pytest.mark.skipif(
    find_spec("tensorflow_privacy") is None, reason="tensorflow-privacy is not installed"
)


def failed(results):
    return {result.id for result in results if result.status == Status.FAIL}


def statuses(results):
    return {result.id: result.status for result in results}


@pytest.mark.parametrize("clip_norm", [0.3, 5.0])
@pytest.mark.parametrize("noise_multiplier", [0.7, 3.0])
def test_our_server_is_what_it_claims(clip_norm, noise_multiplier):
    step = partial(server_step, clip_norm=clip_norm, noise_multiplier=noise_multiplier)
    results = check_step(step, noise_multiplier)
    assert set(statuses(results).values()) == {Status.PASS}, [r for r in results if r.status != Status.PASS]


def test_our_server_with_a_planted_fault_is_refuted():
    assert failed(check_step(partial(server_step, noise_factor=0.5), 1.0)) == {"step.sensitivity"}


@pytest.mark.slow
@needs_tensorflow_privacy
def test_our_server_with_tensorflow_privacy_inside():
    results = check_step(partial(server_step, aggregator="tfp-gaussian", dimension=3000), 1.0)
    assert not failed(results), [r for r in results if r.status == Status.FAIL]
    assert statuses(results)["step.sensitivity"] == Status.PASS
    broken = check_step(partial(server_step, aggregator="tfp-gaussian", dimension=3000, noise_factor=0.5), 1.0)
    assert "step.sensitivity" in failed(broken)


@pytest.mark.slow
@needs_tensorflow_privacy
def test_queries_of_tensorflow_privacy():
    from dpaudit.verification.adapters_tfp import query_step

    make = partial(query_step, clip_norm=1.0, units=6, shapes=((40, 50), (50,)))
    make(lambda: None)  # sets their import switch
    from tensorflow_privacy.privacy.dp_query.gaussian_query import GaussianSumQuery

    honest = check_step(lambda: make(lambda: GaussianSumQuery(1.0, 1.0)), 1.0)
    assert statuses(honest)["step.sensitivity"] == Status.PASS
    assert statuses(honest)["step.noise-reuse"] == Status.PASS
    # A NaN in a record passes the clip of the query: callers must screen their records, as our server does.
    assert failed(honest) <= {"step.robust"}
    half = check_step(lambda: make(lambda: GaussianSumQuery(1.0, 0.5)), 1.0)
    assert "step.sensitivity" in failed(half)


KERAS = """
import sys
import numpy as np, keras, tensorflow as tf
from dpaudit.verification import check_step
from dpaudit.verification.adapters_keras import keras_step

FIXED = 16.0

class Private(keras.Model):
    def __init__(self, noise, clip_each=True):
        super().__init__()
        self.hidden, self.out = keras.layers.Dense(40, activation="relu"), keras.layers.Dense(4)
        self.noise, self.clip_each = noise, clip_each

    def call(self, x):
        return self.out(self.hidden(x))

    def one(self, example):
        x, y = example
        with tf.GradientTape() as tape:
            loss = keras.losses.sparse_categorical_crossentropy(y[None], self(x[None]), from_logits=True)[0]
        gradients = tape.gradient(loss, self.trainable_variables)
        size = tf.linalg.global_norm(gradients)
        size = tf.where(tf.math.is_finite(size), size, np.inf)
        factor = tf.minimum(1.0, 1.0 / tf.maximum(size, 1e-12)) if self.clip_each else 1.0
        return [tf.where(tf.math.is_finite(g), g, 0.0) * factor for g in gradients]

    def train_step(self, data):
        rows = tuple(tf.convert_to_tensor(part) for part in data[:2])
        sums = [tf.reduce_sum(g, axis=0) for g in tf.vectorized_map(self.one, rows)]
        noisy = [(g + self.noise * tf.random.normal(tf.shape(g))) / FIXED for g in sums]
        self.optimizer.apply_gradients(zip(noisy, self.trainable_variables))
        return {}

def build(**options):
    keras.utils.set_random_seed(1)
    model = Private(**options)
    model(np.zeros((1, 30), "f4"))
    model.compile(keras.optimizers.SGD(1.0))
    return model

rng = np.random.default_rng(0)
batch = rng.normal(size=(16, 30)).astype("f4"), rng.integers(0, 4, 16)
for options in ({"noise": 1.0}, {"noise": 0.5}, {"noise": 1.0, "clip_each": False}):
    results = check_step(lambda: keras_step(lambda: build(**options), batch, clip_norm=1.0), 1.0)
    print(" ".join(sorted(f"{r.id}={r.status.value}" for r in results)))
"""

TENSORFLOW_PRIVACY = """
import os, sys
os.environ["TF_USE_LEGACY_KERAS"] = "1"
sys.skip_tf_privacy_import = True
import numpy as np, tensorflow as tf, tf_keras
from tensorflow_privacy.privacy.optimizers import dp_optimizer_keras, dp_optimizer_keras_vectorized
from dpaudit.verification import check_step
from dpaudit.verification.adapters_keras import keras_step

rng = np.random.default_rng(0)
batch = rng.normal(size=(16, 30)).astype("f4"), rng.integers(0, 4, 16)

def build(optimizer, **options):
    tf_keras.utils.set_random_seed(1)
    layers = [tf_keras.Input((30,)), tf_keras.layers.Dense(40, activation="relu"), tf_keras.layers.Dense(4)]
    model = tf_keras.Sequential(layers)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    model.compile(optimizer(l2_norm_clip=1.0, noise_multiplier=1.0, learning_rate=1.0, **options), loss)
    return model

for optimizer in (dp_optimizer_keras.DPKerasSGDOptimizer, dp_optimizer_keras_vectorized.VectorizedDPKerasSGDOptimizer):
    for options in ({}, {"num_microbatches": 1}):
        results = check_step(lambda: keras_step(lambda: build(optimizer, **options), batch, clip_norm=1.0), 1.0)
        print(" ".join(sorted(f"{r.id}={r.status.value}" for r in results)))
"""


def run_apart(code):
    """Run in a process of its own: Keras 3 and tf_keras cannot share one."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return [dict(item.split("=") for item in line.split()) for line in done.stdout.strip().splitlines()]


@pytest.mark.slow
def test_a_keras_train_step():
    honest, half, unclipped = run_apart(KERAS)
    assert set(honest.values()) == {"pass"}
    assert {name for name, status in half.items() if status == "fail"} == {"step.sensitivity"}
    assert "fail" in unclipped["step.sensitivity"]


@pytest.mark.slow
@needs_tensorflow_privacy
def test_optimizers_of_tensorflow_privacy():
    """0.9.0 under tf_keras: clip and noise hold; the mean is over the realised batch, and NaN passes the clip."""
    plain, one_microbatch, vectorized, vectorized_one = run_apart(TENSORFLOW_PRIVACY)
    for found in (plain, vectorized):
        assert found["step.sensitivity"] == "pass"
        assert found["step.noise"] == "pass"
        assert found["step.denominator"] == "fail"
        assert found["step.robust"] == "fail"
    for found in (one_microbatch, vectorized_one):  # documented: the sensitivity is then twice the clip norm
        assert found["step.sensitivity"] == "fail"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # flwr 1.41 with click 8.3
@pytest.mark.skipif(find_spec("flwr") is None, reason="flwr is not installed")
def test_strategies_of_flower():
    """1.41.0 without an accountant, on the default path: what a client says of its weight decides, and more."""
    import flwr.serverapp.strategy as strategies

    from dpaudit.verification.adapters_flower import flower_step

    def fixed():
        return strategies.DifferentialPrivacyServerSideFixedClipping(
            strategies.FedAvg(), noise_multiplier=1.0, clipping_norm=0.5, num_sampled_clients=20
        )

    def adaptive():
        return strategies.DifferentialPrivacyServerSideAdaptiveClipping(
            strategies.FedAvg(), noise_multiplier=1.0, num_sampled_clients=20, initial_clipping_norm=0.5
        )

    found = {result.id: result for result in check_step(lambda: flower_step(fixed, clip_norm=0.5), 1.0)}
    assert found["step.sensitivity"].status == Status.FAIL
    assert "heavy weight" in found["step.sensitivity"].detail
    assert "ZeroDivisionError" in found["step.robust"].detail
    assert found["step.noise"].status == Status.PASS
    found = {r.id: r for r in check_step(lambda: flower_step(adaptive, clip_norm=0.5, adaptive=True), 1.0)}
    assert found["step.adaptive-clip"].status == Status.FAIL


def test_batches_of_a_step_are_arrays():
    step = server_step(units=4, dimension=50)
    assert len(step.batch) == 1
    assert isinstance(step.batch[0], np.ndarray)
