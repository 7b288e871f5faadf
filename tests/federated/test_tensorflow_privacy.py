"""Beside tensorflow-privacy under tf_keras: the same clipped gradients, and ledgers for its optimizers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dpaudit import events as ev
from dpaudit.errors import UsageError
from dpaudit.federated import models
from dpaudit.federated.keras_functions import LossFunctions
from dpaudit.federated.keras_ledger import OptimizerLedger
from dpaudit.ledger import PrivacyLedger

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
pytest.importorskip("tf_keras")
layers = keras.layers
CLIP = 0.4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What tfp_worker.py leaves: gradients, norms and ledgers, made under Keras 2 in a process of its own."""
    sys.skip_tf_privacy_import = True
    pytest.importorskip("tensorflow_privacy")
    out = tmp_path_factory.mktemp("tfp")
    script = Path(__file__).with_name("tfp_worker.py")
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(script), str(out)], env=env, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def network(name):
    tokens = keras.Input((5,))
    embedded = layers.Embedding(9, 4)(tokens)
    image = keras.Input((6, 6, 2))
    depth = layers.DepthwiseConv2D(2, depth_multiplier=2)(layers.Conv2D(3, 3, padding="same")(image))
    attended = layers.MultiHeadAttention(2, 3)(embedded, embedded)
    return {
        "mlp": lambda: keras.Sequential([keras.Input((7,)), layers.Dense(5, activation="relu"), layers.Dense(3)]),
        "cnn": lambda: keras.Model(image, layers.Dense(3)(layers.Flatten()(layers.LayerNormalization()(depth)))),
        "conv1d": lambda: keras.Model(
            tokens, layers.Dense(3)(layers.Flatten()(layers.Conv1D(3, 2, strides=2)(embedded)))
        ),
        "lstm": lambda: keras.Model(tokens, layers.Dense(3)(layers.LSTM(4)(embedded))),
        "gru": lambda: keras.Model(tokens, layers.Dense(3)(layers.GRU(4)(embedded))),
        "attention": lambda: keras.Model(tokens, layers.Dense(3)(layers.GlobalAveragePooling1D()(attended))),
    }[name]()


@pytest.mark.parametrize("name", ["mlp", "cnn", "conv1d", "lstm", "gru", "attention"])
def test_clipped_sums_equal_those_of_tensorflow_privacy(folder, name):
    with np.load(folder / "tfp.npz") as found:
        x, y, theirs, weights = (found[f"{name}_{what}"] for what in ("x", "y", "sum", "weights"))
        norms = found["mlp_norms"] if name == "mlp" else None
    model = network(name)
    functions = LossFunctions(model, keras.losses.SparseCategoricalCrossentropy(from_logits=True), x=x, y=y)
    assert functions.no_bookkeeping is None
    assert functions.parameters == weights.size
    models.set_weights(model, weights.astype(np.float64))
    everyone = np.arange(len(y))
    ours, lengths = functions.clipped_sum(
        weights.astype(np.float64), tf.constant(x), tf.constant(y), everyone, clip_norm=CLIP, seed=(0, 0)
    )
    assert lengths.max() > CLIP, "nothing was clipped: not a test"
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)
    if norms is not None:
        np.testing.assert_allclose(lengths, norms, rtol=2e-5)


def test_ledgers_of_their_optimizers_say_what_ran(folder):
    about = json.loads((folder / "about.json").read_text())
    gaussian = ev.Gaussian(noise_multiplier=1.25)
    shuffled = PrivacyLedger.open(folder / "vectorised.jsonl")
    assert about["vectorised"]["steps"] == 15
    assert [entry.event for entry in shuffled.events()] == [ev.ShuffledBatches(event=gaussian, batches=5)] * 3
    assert {key: shuffled.facts[key] for key in ("clip_norm", "noise_multiplier", "units", "microbatch_size")} == {
        "clip_norm": 0.5, "noise_multiplier": 1.25, "units": 40, "microbatch_size": 1,
    }  # fmt: skip
    poisson = PrivacyLedger.open(folder / "poisson.jsonl")
    assert [e.event for e in poisson.events()] == [ev.PoissonSampled(sampling_rate=0.2, event=gaussian)] * 15
    wide = PrivacyLedger.open(folder / "microbatches.jsonl")
    assert wide.facts["microbatch_size"] == 4
    half = ev.ShuffledBatches(event=ev.Gaussian(noise_multiplier=0.625), batches=5)
    assert [entry.event for entry in wide.events()] == [half] * 3
    assert wide.epsilon(1e-5) > 1.5 * shuffled.epsilon(1e-5) > 1.5 * poisson.epsilon(1e-5)


class Fake:
    """An optimizer whose steps are counted by hand."""

    _l2_norm_clip, _noise_multiplier, _num_microbatches = 1.0, 2.0, None

    def __init__(self, *, private=True):
        self.iterations, self._was_dp_gradients_called = 0, private


def test_a_step_is_paid_for_before_it_runs_and_what_ran_unseen_after():
    optimizer = Fake()
    record = OptimizerLedger(optimizer, examples=10, batch_size=4)  # three batches a pass
    with record.step():
        assert len(list(record.ledger.events())) == 1
        optimizer.iterations += 1
    with record.step():
        optimizer.iterations += 3  # steps_per_execution = 3: the fourth step is of another pass
    assert len(list(record.ledger.events())) == 2
    coins = OptimizerLedger(optimizer, examples=10, batch_size=10, sampler="poisson")
    optimizer.iterations += 2
    coins.settle()
    assert [entry.event for entry in coins.ledger.events()] == [ev.Gaussian(noise_multiplier=2.0)] * 2


def test_gradients_that_went_past_the_optimizer_are_recorded_as_not_private():
    optimizer = Fake(private=False)
    record = OptimizerLedger(optimizer, examples=10, batch_size=5)
    with record.step():
        optimizer.iterations += 1
    assert isinstance(list(record.ledger.events())[-1].event, ev.NonPrivate)


def test_other_optimizers_are_refused():
    with pytest.raises(UsageError, match="SGD is not a tensorflow-privacy optimizer"):
        OptimizerLedger(keras.optimizers.SGD(), examples=10, batch_size=5)
    with pytest.raises(UsageError, match="at most the number of examples"):
        OptimizerLedger(Fake(), examples=4, batch_size=5)
