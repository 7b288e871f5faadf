"""Accuracy on digits at a fixed epsilon beside two independent implementations of DP-SGD, over seeds.

    python benchmarks/federated_accuracy.py --seeds 10

All train the same network (MLP 64-64-10, SGD 0.5) with the same noise multiplier, expected batch, clip norm and
number of steps, on the same 1,348 examples, from different random numbers:

* `dpaudit`: `PrivateTrainer`.
* `numpy`: DP-SGD from its definition, Poisson sampling, gradients of the network by hand, no code of dpaudit's.
* `tensorflow-privacy`: its vectorised Keras optimizer under tf_keras, fed by the same Poisson samples; its divisor is
  the realised batch, which is why it may differ a little.

Prints mean, standard deviation and the t statistic of the difference from dpaudit's mean.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np

BATCH, STEPS, CLIP, RATE, DELTA, EPSILON = 128, 154, 1.0, 0.5, 1e-5, 6.0


def digits() -> tuple[Any, ...]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    x, y = (bunch.data / 16).astype(np.float32)[order], bunch.target.astype(np.int32)[order]
    return x[:1348], y[:1348], x[1348:], y[1348:]


def start(rng: np.random.Generator) -> list[np.ndarray]:
    limits = [np.sqrt(6 / 128), np.sqrt(6 / 74)]
    shapes = [(64, 64), (64, 10)]
    found = []
    for limit, shape in zip(limits, shapes, strict=True):
        found += [rng.uniform(-limit, limit, shape), np.zeros(shape[1])]
    return found


def by_numpy(seed: int, noise: float) -> float:
    x, y, test_x, test_y = digits()
    rng = np.random.default_rng(10_000 + seed)
    w1, b1, w2, b2 = start(rng)
    for _ in range(STEPS):
        chosen = rng.random(len(y)) < BATCH / len(y)
        a, labels = x[chosen].astype(float), y[chosen]
        hidden = np.maximum(a @ w1 + b1, 0)
        logits = hidden @ w2 + b2
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        out = p / p.sum(axis=1, keepdims=True) - np.eye(10)[labels]
        back = (out @ w2.T) * (hidden > 0)
        rows = [np.einsum("ni,nj->nij", a, back), back, np.einsum("ni,nj->nij", hidden, out), out]
        norms = np.sqrt(sum((row.reshape(len(row), -1) ** 2).sum(axis=1) for row in rows))
        factors = np.minimum(1.0, CLIP / np.maximum(norms, 1e-12))
        sums = [np.tensordot(factors, row, 1) for row in rows]
        w1, b1, w2, b2 = (
            w - RATE * (total + noise * CLIP * rng.standard_normal(w.shape)) / BATCH
            for w, total in zip((w1, b1, w2, b2), sums, strict=True)
        )
    guess = (np.maximum(test_x @ w1 + b1, 0) @ w2 + b2).argmax(axis=1)
    return float((guess == test_y).mean())


def by_dpaudit(seed: int, noise: float) -> float:
    import keras

    from dpaudit.federated.keras_trainer import PrivateTrainer

    x, y, test_x, test_y = digits()
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64, activation="relu"), layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(RATE), loss=loss)
    with tempfile.TemporaryDirectory() as out:
        trainer = PrivateTrainer(model, noise_multiplier=noise, clip_norm=CLIP, out=out, seed=seed)
        trainer.fit(x, y, batch_size=BATCH, epochs=STEPS // 11)
    return float((np.asarray(model(test_x)).argmax(axis=1) == test_y).mean())


def by_tensorflow_privacy(seeds: int, noise: float) -> list[float]:
    """Run in a process of its own, under tf_keras."""
    import tensorflow as tf
    import tf_keras as keras
    from tensorflow_privacy.privacy.optimizers import dp_optimizer_keras_vectorized as dp

    x, y, test_x, test_y = digits()
    found = []
    layers = keras.layers
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64, activation="relu"), layers.Dense(10)])
    optimizer = dp.VectorizedDPKerasSGDOptimizer(
        l2_norm_clip=CLIP, noise_multiplier=noise, num_microbatches=None, learning_rate=RATE
    )

    @tf.function(input_signature=[tf.TensorSpec([None, 64]), tf.TensorSpec([None], tf.int32)])
    def step(a, labels):
        with tf.GradientTape(persistent=True) as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=model(a))
        optimizer.minimize(losses, model.trainable_variables, tape=tape)

    for seed in range(seeds):
        rng = np.random.default_rng(20_000 + seed)
        tf.random.set_seed(seed)
        model.set_weights([w.astype(np.float32) for w in start(rng)])
        for _ in range(STEPS):
            chosen = rng.random(len(y)) < BATCH / len(y)
            step(x[chosen], y[chosen])
        found.append(float((np.asarray(model(test_x)).argmax(axis=1) == test_y).mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        sys.skip_tf_privacy_import = True
        print(json.dumps(by_tensorflow_privacy(options.seeds, options.worker)))
        return
    from dpaudit.accounting import calibrate_noise

    noise = calibrate_noise(EPSILON, DELTA, sampling_rate=BATCH / 1348, steps=STEPS)
    command = [sys.executable, str(Path(__file__)), "--seeds", str(options.seeds), "--worker", repr(noise)]
    env = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": ""}
    other = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    found = {
        "dpaudit": [by_dpaudit(seed, noise) for seed in range(options.seeds)],
        "numpy, from the definition": [by_numpy(seed, noise) for seed in range(options.seeds)],
        "tensorflow-privacy 0.9.0": json.loads(other),
    }
    base = np.array(found["dpaudit"])
    print(f"epsilon {EPSILON} at delta {DELTA}, noise multiplier {noise:.4f}, {STEPS} steps, {options.seeds} seeds\n")
    print(
        "| implementation | accuracy, mean | standard deviation | t of the difference from dpaudit |\n|---|---|---|---|"
    )
    for name, values in found.items():
        mine = np.array(values)
        error = np.sqrt(mine.var(ddof=1) / mine.size + base.var(ddof=1) / base.size)
        print(f"| {name} | {mine.mean():.4f} | {mine.std(ddof=1):.4f} | {(mine.mean() - base.mean()) / error:.2f} |")


if __name__ == "__main__":
    main()
