"""Run under tf_keras in a process of its own: tensorflow-privacy's clipping, and a ledger for its optimizer.

python tfp_worker.py FOLDER
"""

import os
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

from dpaudit import serialize
from dpaudit.federated.keras_ledger import OptimizerLedger

layers = keras.layers
N, CLIP = 6, 0.4


def networks():
    tokens = keras.Input((5,))
    embedded = layers.Embedding(9, 4)(tokens)
    image = keras.Input((6, 6, 2))
    depth = layers.DepthwiseConv2D(2, depth_multiplier=2)(layers.Conv2D(3, 3, padding="same")(image))
    return {
        "mlp": keras.Sequential([keras.Input((7,)), layers.Dense(5, activation="relu"), layers.Dense(3)]),
        "cnn": keras.Model(image, layers.Dense(3)(layers.Flatten()(layers.LayerNormalization()(depth)))),
        "conv1d": keras.Model(tokens, layers.Dense(3)(layers.Flatten()(layers.Conv1D(3, 2, strides=2)(embedded)))),
        "lstm": keras.Model(tokens, layers.Dense(3)(layers.LSTM(4, unroll=True)(embedded))),
        "gru": keras.Model(tokens, layers.Dense(3)(layers.GRU(4, unroll=True)(embedded))),
        "attention": keras.Model(
            tokens,
            layers.Dense(3)(layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 3)(embedded, embedded))),
        ),
    }


def optimizers():
    sys.skip_tf_privacy_import = True  # its own switch: leaves out what needs old releases of TensorFlow
    from tensorflow_privacy.privacy.optimizers import dp_optimizer_keras, dp_optimizer_keras_vectorized

    return dp_optimizer_keras_vectorized.VectorizedDPKerasSGDOptimizer, dp_optimizer_keras.DPKerasSGDOptimizer


def clipped(model, x, y):
    """The clipped sum of tensorflow-privacy's vectorised optimizer: a step of rate 1 without noise, times N."""
    optimizer = optimizers()[0](l2_norm_clip=CLIP, noise_multiplier=0.0, num_microbatches=N, learning_rate=1.0)
    with tf.GradientTape(persistent=True) as tape:
        logits = model(x, training=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
    pairs = optimizer._compute_gradients(losses, model.trainable_variables, tape=tape)
    return np.concatenate([N * np.asarray(gradient).ravel() for gradient, _ in pairs])


def fast_norms(model, x, y):
    from tensorflow_privacy.privacy.fast_gradient_clipping import clip_grads, layer_registry

    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none"))
    registry = layer_registry.make_default_layer_registry()
    return np.asarray(clip_grads.compute_gradient_norms(model, registry, x, y, None, None))


def ledger_run(folder: Path, name: str, optimizer, **options):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 7)).astype(np.float32), rng.integers(3, size=40)
    model = networks()["mlp"]
    record = OptimizerLedger(optimizer, folder / f"{name}.jsonl", examples=40, batch_size=8, **options)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none"))
    model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[record.callback()])
    return {"steps": int(optimizer.iterations)}


def main() -> None:
    folder = Path(sys.argv[1])
    keras.utils.set_random_seed(5)
    rng = np.random.default_rng(1)
    found = {}
    for name, model in networks().items():
        shape = model.input_shape[1:]
        x = rng.integers(9, size=(N, *shape)) if len(shape) == 1 and name != "mlp" else rng.standard_normal((N, *shape))
        x, y = x.astype(np.float32), rng.integers(3, size=N).astype(np.int32)
        found |= {f"{name}_x": x, f"{name}_y": y, f"{name}_sum": clipped(model, tf.constant(x), tf.constant(y))}
        found[f"{name}_weights"] = np.concatenate([np.asarray(v).ravel() for v in model.trainable_variables])
        if name == "mlp":
            found["mlp_norms"] = fast_norms(model, tf.constant(x), tf.constant(y))
    np.savez(folder / "tfp.npz", **found)
    vectorised, looped = optimizers()
    common = {"l2_norm_clip": 0.5, "noise_multiplier": 1.25, "learning_rate": 0.1}
    about = {
        "vectorised": ledger_run(folder, "vectorised", vectorised(num_microbatches=8, **common)),
        "poisson": ledger_run(folder, "poisson", vectorised(num_microbatches=8, **common), sampler="poisson"),
        "microbatches": ledger_run(folder, "microbatches", looped(num_microbatches=2, **common)),
    }
    (folder / "about.json").write_bytes(serialize.dumps(about).encode())


if __name__ == "__main__":
    main()
