"""A model trained with tensorflow-privacy's DP-SGD under legacy Keras: writes the folder saved_model.

Run it in a process of its own: tensorflow-privacy needs legacy Keras (tf_keras), dpaudit uses Keras 3.
"""

import os
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"
sys.skip_tf_privacy_import = True  # its own switch: leaves out the Estimator parts, which no longer import

import tensorflow as tf  # noqa: E402
import tf_keras  # noqa: E402
from digits_halves import halves  # noqa: E402
from tensorflow_privacy.privacy.optimizers.dp_optimizer_keras_vectorized import (  # noqa: E402
    VectorizedDPKerasSGDOptimizer,
)


def main() -> None:
    (x, y), _ = halves()
    tf.keras.utils.set_random_seed(0)
    model = tf_keras.Sequential([tf_keras.Input((64,)), tf_keras.layers.Dense(32, "relu"), tf_keras.layers.Dense(10)])
    optimizer = VectorizedDPKerasSGDOptimizer(l2_norm_clip=1.0, noise_multiplier=1.0, learning_rate=0.5)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    model.compile(optimizer, loss)
    model.fit(x[:896], y[:896], epochs=10, batch_size=64, verbose=0)

    @tf.function(input_signature=[tf.TensorSpec([None, 64])])
    def logits(rows: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": model(rows, training=False)}

    tf.saved_model.save(model, "saved_model", signatures={"serving_default": logits})


if __name__ == "__main__":
    main()
