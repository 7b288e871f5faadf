"""`fit` with privacy for somebody's Keras model: same steps as by hand, ledger, canaries, resume, refusals."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dpaudit import _rng
from dpaudit import events as ev
from dpaudit.errors import DataError, OutputExists, UsageError
from dpaudit.federated import models
from dpaudit.federated.keras_functions import LossFunctions
from dpaudit.federated.keras_trainer import PrivateTrainer
from dpaudit.federated.run_files import load_coins, open_run
from dpaudit.ledger import PrivacyLedger
from dpaudit.pipeline.keras_fit import private_fit

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
layers = keras.layers
N, SEED = 40, 11


@pytest.fixture
def xy(blobs):
    data = blobs(N, features=4)
    return data.x, data.y


def compiled(*, optimizer=None, loss=None, middle=(), outputs=3):
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, activation="relu"), *middle, layers.Dense(outputs)])
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer or keras.optimizers.SGD(0.5), loss=loss, metrics=["accuracy"])
    return model


def by_hand(model, x, y, *, steps, rate, clip_norm, noise):
    """The same training from the definitions: coins, one tape per example, clip, sum, noise, fixed divisor."""
    weights = models.get_weights(model)
    for number in range(steps):
        chosen = np.flatnonzero(_rng.stream(SEED, "examples", number).random(N) < rate)
        total = np.zeros(weights.size)
        models.set_weights(model, weights)
        for unit in chosen:
            with tf.GradientTape() as tape:
                logits = model(x[unit : unit + 1], training=True)
                loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y[unit : unit + 1], logits=logits)
            parts = tape.gradient(loss, [v.value for v in model.trainable_variables])
            row = np.concatenate([np.asarray(part, np.float64).ravel() for part in parts])
            total += row * min(1.0, clip_norm / np.linalg.norm(row))
        drawn = _rng.stream(SEED, "noise", number, 0).standard_normal(weights.size)
        weights = weights - 0.5 * (total + noise * clip_norm * drawn) / (rate * N)
    return weights


def test_a_training_equals_the_definition(xy, tmp_path):
    x, y = xy
    model, twin = compiled(), compiled()
    trainer = PrivateTrainer(model, noise_multiplier=1.5, clip_norm=0.3, out=tmp_path, seed=SEED)
    history = trainer.fit(x, y, batch_size=10, epochs=2)
    assert trainer.clipping_path == "book-keeping"
    truth = by_hand(twin, x, y, steps=8, rate=0.25, clip_norm=0.3, noise=1.5)
    np.testing.assert_allclose(models.get_weights(model), truth, rtol=1e-3, atol=1e-4)
    step = ev.PoissonSampled(sampling_rate=0.25, event=ev.Gaussian(noise_multiplier=1.5))
    assert [entry.event for entry in trainer.ledger.events()] == [step] * 8
    assert {entry.facts["expected"] for entry in trainer.ledger.events()} == {10.0}
    assert trainer.ledger.digest == PrivacyLedger.open(trainer.ledger.path).digest
    assert len(history.epoch) == 2
    assert not any(name in history.history for name in ("loss", "accuracy")), "metrics of private data"


def test_a_dataset_an_optimizer_with_state_callbacks_and_validation(xy, tmp_path):
    x, y = xy
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)

        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    model = compiled(optimizer=keras.optimizers.Adam(0.05))
    trainer = PrivateTrainer(model, noise_multiplier=1.0, out=tmp_path, seed=1, canaries=8)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(7)
    history = trainer.fit(dataset, batch_size=20, epochs=5, validation_data=(x, y), callbacks=[Watch()])
    assert seen == [0, 1, 0, 1]
    assert set(history.history) == {"val_loss", "val_accuracy"}
    run = open_run(tmp_path)
    assert run.observations.shape == (4, 8)
    assert load_coins(tmp_path).shape == (8,)
    assert len(list(trainer.ledger.events())) == 4
    assert keras.models.load_model(tmp_path / "model.keras").count_params() == model.count_params()


def test_a_training_that_was_broken_off_goes_on_and_counts_nothing_twice(xy, tmp_path):
    x, y = xy
    whole = compiled(optimizer=keras.optimizers.Adam(0.05))
    PrivateTrainer(whole, noise_multiplier=1.0, out=tmp_path / "a", seed=1).fit(x, y, batch_size=20, epochs=3)

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise RuntimeError("power cut")

    def trainer(model):
        return PrivateTrainer(model, noise_multiplier=1.0, out=tmp_path / "b", seed=1, checkpoint_every=1)

    with pytest.raises(RuntimeError, match="power cut"):
        trainer(compiled(optimizer=keras.optimizers.Adam(0.05))).fit(x, y, batch_size=20, epochs=3, callbacks=[Stop()])
    with pytest.raises(OutputExists):
        trainer(compiled()).fit(x, y, batch_size=20, epochs=3)
    with pytest.raises(UsageError, match="differs"):
        trainer(compiled()).fit(x, y, batch_size=10, epochs=3, resume=True)
    again = compiled(optimizer=keras.optimizers.Adam(0.05))
    resumed = trainer(again)
    resumed.fit(x, y, batch_size=20, epochs=3, resume=True)
    np.testing.assert_allclose(models.get_weights(again), models.get_weights(whole), rtol=1e-4, atol=1e-5)
    rounds = [entry.facts["round"] for entry in resumed.ledger.events()]
    assert sorted(set(rounds)) == list(range(6))
    draws = np.fromfile(tmp_path / "b" / "private" / "draws.i32", dtype="<i4").reshape(-1, 2)
    assert len(rounds) == len(np.unique(draws, axis=0))


def test_a_run_killed_before_its_first_checkpoint_starts_from_the_same_weights(xy, tmp_path):
    """Models that nobody seeded begin elsewhere in the next process; steps must not be noised and paid for twice."""
    x, y = xy

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                raise RuntimeError("power cut")

    def trainer(model):
        return PrivateTrainer(model, noise_multiplier=1.0, out=tmp_path, checkpoint_every=100)

    first, other = compiled(), compiled()
    models.set_weights(other, models.get_weights(first) + 0.3)
    with pytest.raises(RuntimeError, match="power cut"):
        trainer(first).fit(x, y, batch_size=10, epochs=1, callbacks=[Stop()])
    resumed = trainer(other)
    resumed.fit(x, y, batch_size=10, epochs=1, resume=True)
    assert [entry.facts["round"] for entry in resumed.ledger.events()] == [0, 1, 2, 3]


def test_a_run_that_stopped_early_is_not_trained_on_when_it_is_resumed(xy, tmp_path):
    x, y = xy

    class Enough(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    first, again = compiled(), compiled()
    PrivateTrainer(first, noise_multiplier=1.0, out=tmp_path, seed=1).fit(
        x, y, batch_size=10, epochs=5, callbacks=[Enough()]
    )
    before = (tmp_path / "ledger.jsonl").read_bytes()
    trainer = PrivateTrainer(again, noise_multiplier=1.0, out=tmp_path, seed=1)
    trainer.fit(x, y, batch_size=10, epochs=5, resume=True)
    assert (tmp_path / "ledger.jsonl").read_bytes() == before
    assert len(list(trainer.ledger.events())) == 4
    np.testing.assert_allclose(models.get_weights(again), models.get_weights(first), atol=1e-6)


LOSSES = {
    "sparse": (keras.losses.SparseCategoricalCrossentropy(from_logits=True), lambda y: y),
    "one-hot": (keras.losses.CategoricalCrossentropy(from_logits=True), lambda y: np.eye(3, dtype=np.float32)[y]),
    "binary": (keras.losses.BinaryCrossentropy(from_logits=True), lambda y: np.eye(3, dtype=np.float32)[y]),
    "mse": ("mse", lambda y: np.eye(3, dtype=np.float32)[y]),
    "huber": (keras.losses.Huber(), lambda y: np.eye(3, dtype=np.float32)[y]),
    "own": (lambda a, b: tf.reduce_sum(tf.square(a - b), axis=1), lambda y: np.eye(3, dtype=np.float32)[y]),
    "mixing": (lambda a, b: tf.square(a - b) - tf.reduce_mean(b, axis=0), lambda y: np.eye(3, dtype=np.float32)[y]),
}


@pytest.mark.parametrize("name", list(LOSSES))
def test_the_gradient_of_an_example_is_that_of_its_own_loss(xy, name):
    x, labels = xy
    loss, encode = LOSSES[name]
    y = encode(labels)
    model = compiled(loss=loss)
    functions = LossFunctions(model, loss, x=x, y=y)
    known = name not in {"own", "mixing"}
    assert (functions.no_bookkeeping is None) is known
    weights, index = models.get_weights(model), np.array([4, 0, 7])
    data = tf.constant(x), tf.constant(y)
    rows = functions.per_example_gradients(weights, *data, index, seed=(0, 0))
    for row, unit in zip(rows, index, strict=True):
        with tf.GradientTape() as tape:
            value = functions.losses(data[1][unit : unit + 1], model(x[unit : unit + 1], training=True))
        parts = tape.gradient(value, [v.value for v in model.trainable_variables])
        truth = np.concatenate([np.asarray(tf.convert_to_tensor(part)).ravel() for part in parts])
        np.testing.assert_allclose(row, truth, rtol=1e-4, atol=1e-6)
    if known:
        assert float(functions.losses(data[1][:1], model(x[:1]))[0]) == pytest.approx(
            float(keras.losses.get(loss)(data[1][:1], model(x[:1]))) if name != "mse" else None
            or float(tf.reduce_mean(tf.square(data[1][:1] - model(x[:1])))), rel=1e-5,
        )  # fmt: skip
        total, norms = functions.clipped_sum(weights, *data, index, clip_norm=0.1, seed=(0, 0))
        lengths = np.linalg.norm(rows, axis=1)
        np.testing.assert_allclose(norms, lengths, rtol=2e-5)
        clipped = (rows * np.minimum(1, 0.1 / lengths)[:, None]).sum(axis=0)
        np.testing.assert_allclose(total, clipped, rtol=1e-3, atol=1e-6)


def test_labels_that_would_be_broadcast_over_examples_are_refused(xy):
    x, y = xy
    model = compiled(loss="mse")
    functions = LossFunctions(model, "mse", x=x, y=y.astype(np.float32))
    with pytest.raises(UsageError, match="broadcast"):
        functions.losses(tf.zeros(3), tf.zeros((3, 3)))
    column = LossFunctions(compiled(loss="mse", outputs=1), "mse", x=x, y=y.astype(np.float32))
    np.testing.assert_allclose(column.losses(tf.constant([1.0, 2.0]), tf.constant([[1.0], [4.0]])), [0.0, 4.0])
    with pytest.raises(UsageError, match="one number for a batch"):
        LossFunctions(model, lambda a, b: tf.reduce_mean(a - b), x=x, y=x).losses(tf.zeros((2, 3)), tf.zeros((2, 3)))
    with pytest.raises(UsageError, match="not known to Keras"):
        LossFunctions(model, "no such loss", x=x, y=y)


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        ((layers.BatchNormalization(),), "mixes the examples of a batch.*GroupNormalization"),
        ((layers.Dense(3, kernel_regularizer="l2"),), "regularizer"),
        ((layers.Dense(3, dtype="float64"),), "float32"),
    ],
)
def test_models_that_cannot_be_private_are_refused(xy, tmp_path, middle, message):
    trainer = PrivateTrainer(compiled(middle=middle), noise_multiplier=1.0, out=tmp_path)
    with pytest.raises(UsageError, match=message):
        trainer.fit(*xy, batch_size=10)
    assert not list(tmp_path.iterdir())


def test_bad_requests_are_refused_with_the_remedy(xy, tmp_path):
    x, y = xy
    with pytest.raises(UsageError, match="compile"):
        PrivateTrainer(keras.Sequential([layers.Dense(3)]), noise_multiplier=1.0, out=tmp_path)
    trainer = PrivateTrainer(compiled(), noise_multiplier=1.0, out=tmp_path)
    with pytest.raises(UsageError, match="at most the number of examples"):
        trainer.fit(x, y, batch_size=N + 1)
    with pytest.raises(DataError, match="NaN"):
        trainer.fit(np.where(x == x[3, 1], np.nan, x), y)
    with pytest.raises(DataError, match="one row per example"):
        trainer.fit(x, y[:-1])
    with pytest.raises(UsageError, match="delta must be below"):
        private_fit(compiled(), x, y, epsilon=1, delta=0.1, out=tmp_path)


def test_the_example_for_keras_users_runs(tmp_path):
    script = Path(__file__).parents[2] / "examples" / "keras_private_fit.py"
    done = subprocess.run(
        [sys.executable, str(script), "--out", str(tmp_path / "run"), "--epochs", "3"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    spent = float(done.stdout.split("from the ledger: ")[1].split()[0])
    assert 5.99 < spent <= 6.0
    assert done.stdout.count("epsilon at least") == 2
    assert len(list(PrivacyLedger.open(tmp_path / "run" / "ledger.jsonl").events())) == 18


class Reader(keras.Model):
    """A subclassed model with a loop that TensorFlow cannot vectorise."""

    def __init__(self):
        super().__init__()
        self.read, self.out = layers.LSTM(3), layers.Dense(3)

    def call(self, x):
        return self.out(self.read(x[:, :, None]))


def test_a_subclassed_model_falls_back_by_itself_and_says_so(xy, tmp_path):
    model = Reader()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    trainer = PrivateTrainer(model, noise_multiplier=1.0, out=tmp_path, seed=3)
    trainer.fit(*xy, batch_size=20, epochs=1)
    for reason in ("the model is a Reader", "one example at a time", "While"):
        assert reason in trainer.ledger.facts["clipping_path"]
    assert len(list(trainer.ledger.events())) == 2
